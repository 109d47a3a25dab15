//! The figures as the status page reads them: JSON, with times counted back from the present.

use serde::Serialize;

use super::figures::Figures;
use crate::clock::{Moment, millis};
use crate::kms::{Calls, cost};

#[derive(Serialize)]
struct Snapshot<'a> {
    version: &'static str,
    state: &'static str,
    up_ms: u64,
    heartbeat_ms: u64,
    last_good_ms: u64,
    provider: &'static str,
    transport: &'static str,
    beats: Vec<BeatShown>,
    phases: Vec<PhaseShown>,
    beats_good: u64,
    beats_refused: u64,
    beats_unavailable: u64,
    calls: &'a [Calls],
    calls_an_hour: f64,
    dollars_a_month: f64,
    keys_cached: usize,
    keys_pooled: usize,
    key_hits: u64,
    key_misses: u64,
    requests: u64,
    failures: u64,
    authentication_failures: u64,
    read_bytes: u64,
    written_bytes: u64,
    parked: usize,
    open_files: usize,
}

#[derive(Serialize)]
struct BeatShown {
    ago_ms: u64,
    took_ms: u64,
    outcome: &'static str,
}

#[derive(Serialize)]
struct PhaseShown {
    ago_ms: u64,
    state: &'static str,
}

/// One line of JSON.
pub(super) fn json(figures: &Figures) -> String {
    let ago = |at: Moment| millis(figures.now.since(at));
    let failures = |only: fn(crate::metrics::Failure) -> bool| {
        figures.failures.iter().filter(|(_, failure, _)| only(*failure)).map(|(.., n)| n).sum()
    };
    let [beats_good, beats_refused, beats_unavailable] = figures.beats_by_outcome;
    let is_paid = figures.provider == "aws";
    let snapshot = Snapshot {
        version: env!("CARGO_PKG_VERSION"),
        state: figures.phase.word(),
        up_ms: millis(figures.up),
        heartbeat_ms: millis(figures.heartbeat),
        last_good_ms: millis(figures.last_good),
        provider: figures.provider,
        transport: figures.transport,
        beats: figures
            .beats
            .iter()
            .map(|beat| BeatShown {
                ago_ms: ago(beat.began),
                took_ms: millis(beat.took),
                outcome: beat.outcome.name(),
            })
            .collect(),
        phases: figures
            .phases
            .iter()
            .map(|(at, phase)| PhaseShown { ago_ms: ago(*at), state: phase.word() })
            .collect(),
        beats_good,
        beats_refused,
        beats_unavailable,
        calls: &figures.kms_calls,
        calls_an_hour: figures.calls_an_hour(),
        dollars_a_month: if is_paid { cost::a_month(figures.calls_an_hour()) } else { 0.0 },
        keys_cached: figures.keys.cached,
        keys_pooled: figures.keys.pooled,
        key_hits: figures.keys.hits,
        key_misses: figures.keys.misses,
        requests: figures.requests.iter().map(|(_, times)| times.count()).sum(),
        failures: failures(|_| true),
        authentication_failures: failures(|f| f == crate::metrics::Failure::NotAuthentic),
        read_bytes: figures.read,
        written_bytes: figures.written,
        parked: figures.parked,
        open_files: figures.open_files,
    };
    serde_json::to_string(&snapshot).expect("strings and numbers have a JSON form")
}

#[cfg(test)]
mod tests {
    use super::super::figures::sample;

    #[test]
    fn the_page_is_told_where_the_mount_stands_and_how_it_came_there() {
        let json: serde_json::Value =
            serde_json::from_str(&super::json(&sample())).expect("it is JSON");
        assert_eq!(json["state"], "revoked");
        assert_eq!(json["phases"][1]["ago_ms"], 1000);
        assert_eq!(json["beats"][1]["outcome"], "refused");
        assert_eq!(json["beats"][1]["ago_ms"], 2000);
        assert_eq!(json["authentication_failures"], 3);
        assert_eq!(json["failures"], 4);
        assert_eq!(json["requests"], 2);
        assert!(json["dollars_a_month"].as_f64().is_some_and(|usd| (1.45..1.46).contains(&usd)));
    }
}
