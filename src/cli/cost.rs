//! What AWS KMS costs: list prices, without a free tier.

use std::time::Duration;

/// USD for each call.
const CALL: f64 = 0.03 / 10_000.0;
/// USD a month for each key.
const KEY: f64 = 1.0;
const MONTH: f64 = 30.0 * 86_400.0;
/// GenerateDataKey, and two of Decrypt.
const CALLS_A_BEAT: f64 = 3.0;
/// Beats come after at most three quarters of the heartbeat.
const APART: f64 = 0.75;

/// The heartbeat's calls in a month.
fn calls(heartbeat: Duration) -> f64 {
    CALLS_A_BEAT * MONTH / (heartbeat.as_secs_f64() * APART)
}

/// One line: what a mount with this heartbeat costs a month.
pub(super) fn monthly(heartbeat: Duration) -> String {
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
    fn ten_seconds_cost_four_dollars() {
        let told = monthly(Duration::from_secs(10));
        assert!(told.starts_with("about USD 4.11 a month (1 key, 1036800 "), "{told}");
    }
}
