//! What AWS KMS costs: list prices, without a free tier.

use std::time::Duration;

/// USD for each call.
const CALL: f64 = 0.03 / 10_000.0;
/// USD a month for each key.
const KEY: f64 = 1.0;
const MONTH: f64 = 30.0 * 86_400.0;
/// GenerateDataKey and Decrypt.
const CALLS_A_BEAT: f64 = 2.0;
/// Beats come after at most three quarters of the heartbeat.
const APART: f64 = 0.75;

/// The heartbeat's calls in a month.
fn calls(heartbeat: Duration) -> f64 {
    CALLS_A_BEAT * MONTH / (heartbeat.as_secs_f64() * APART)
}

/// Calls an hour, by how many there were in this time; a mount younger than a minute is taken
/// for one of a minute, or its first calls would seem to go on.
pub fn an_hour(calls: u64, within: Duration) -> f64 {
    calls as f64 * 3600.0 / within.as_secs_f64().max(60.0)
}

/// USD a month where so many calls are made an hour, the key included.
pub fn a_month(calls_an_hour: f64) -> f64 {
    KEY + of(calls_an_hour) * MONTH / 3600.0
}

/// USD for so many calls.
pub fn of(calls: f64) -> f64 {
    calls * CALL
}

/// One line: what a mount with this heartbeat costs a month.
pub fn monthly(heartbeat: Duration) -> String {
    let calls = calls(heartbeat);
    format!(
        "about USD {:.2} a month (1 key, {:.0} heartbeat calls); data keys come on top, USD 0.03 per 10,000 calls",
        KEY + calls * CALL,
        calls
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_the_hour() {
        assert_eq!(an_hour(100, Duration::from_secs(7200)), 50.0);
        assert_eq!(an_hour(3, Duration::from_secs(1)), 180.0);
        assert_eq!(format!("{:.4}", of(10_000.0)), "0.0300");
    }

    #[test]
    fn ten_seconds_cost_three_dollars() {
        let told = monthly(Duration::from_secs(10));
        assert!(told.starts_with("about USD 3.07 a month (1 key, 691200 "), "{told}");
    }
}
