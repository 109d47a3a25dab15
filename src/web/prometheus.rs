//! The figures in Prometheus's text format, version 0.0.4. What each means, and in which unit, is
//! in docs/METRICS.md.

use std::fmt;

use prometheus_client::collector::Collector;
pub(super) use prometheus_client::encoding::prometheus_text::CONTENT_TYPE;
use prometheus_client::encoding::prometheus_text::encode;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use super::figures::Figures;
use crate::keys::{BeatOutcome, Phase};
use crate::metrics::{BOUNDS, Failure, Times};

/// The text of all figures.
pub fn exposition(figures: Figures) -> String {
    let mut registry = Registry::with_prefix("kmsfs");
    registry.register_collector(Box::new(figures));
    let mut text = String::new();
    encode(&mut text, &registry).expect("a string takes all text, and no histogram is native");
    text
}

/// A label and its value.
type Label<'a> = (&'a str, &'a str);

/// Writes metrics one after another.
struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn family(
        &mut self,
        (name, help): (&str, &str),
        kind: MetricType,
        write: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        write(&mut self.0.encode_descriptor(name, help, None, kind)?)
    }

    fn gauge(&mut self, described: (&str, &str), value: impl EncodeGaugeValue) -> fmt::Result {
        self.family(described, MetricType::Gauge, |metric| metric.encode_gauge(&value))
    }

    fn counter(&mut self, described: (&str, &str), total: u64) -> fmt::Result {
        self.family(described, MetricType::Counter, |metric| count(metric, &total))
    }

    fn counters<'l>(
        &mut self,
        described: (&str, &str),
        all: impl Iterator<Item = (Vec<Label<'l>>, u64)>,
    ) -> fmt::Result {
        self.family(described, MetricType::Counter, |metric| {
            for (labels, total) in all {
                count(&mut metric.encode_family(&labels)?, &total)?;
            }
            Ok(())
        })
    }

    fn histograms<'l>(
        &mut self,
        described: (&str, &str),
        all: impl Iterator<Item = (Label<'l>, Times)>,
    ) -> fmt::Result {
        self.family(described, MetricType::Histogram, |metric| {
            for (label, times) in all {
                // The last bucket is what is missing from the count.
                let buckets: Vec<_> = BOUNDS.into_iter().zip(times.buckets).collect();
                let (total, count) = (times.total.as_secs_f64(), times.count());
                metric
                    .encode_family(&[label])?
                    .encode_histogram::<NoLabelSet>(total, count, &buckets, None)?;
            }
            Ok(())
        })
    }
}

fn count<T: EncodeCounterValue>(metric: &mut MetricEncoder<'_>, total: &T) -> fmt::Result {
    metric.encode_counter::<NoLabelSet, _, u64>(total, None::<&Exemplar<NoLabelSet, u64>>)
}

impl Collector for Figures {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut to = Writer(encoder);
        self.state(&mut to)?;
        self.kms(&mut to)?;
        self.data_keys(&mut to)?;
        self.requests(&mut to)?;
        self.resources(&mut to)
    }
}

/// Every word that a state can have.
const STATES: [&str; 5] = ["open", "draining", "revoked", "unreachable", "locked"];

impl Figures {
    fn state(&self, to: &mut Writer<'_>) -> fmt::Result {
        let version = [("version", env!("CARGO_PKG_VERSION")), ("transport", self.transport)];
        to.family(
            ("build_info", "Version and transport, as labels"),
            MetricType::Gauge,
            |metric| metric.encode_family(&version)?.encode_gauge(&1u32),
        )?;
        let now = Phase::word(self.phase);
        to.family(
            ("state", "1 for the state of the mount, 0 for the others"),
            MetricType::Gauge,
            |m| {
                STATES.iter().try_for_each(|state| {
                    m.encode_family(&[("state", *state)])?.encode_gauge(&u32::from(*state == now))
                })
            },
        )?;
        to.gauge(("uptime_seconds", "Time since the daemon began"), self.up.as_secs_f64())?;
        to.gauge(
            ("heartbeat_seconds", "Time between heartbeats, as configured"),
            self.heartbeat.as_secs_f64(),
        )?;
        to.gauge(
            ("last_good_beat_age_seconds", "Time since the KMS last answered a heartbeat well"),
            self.last_good.as_secs_f64(),
        )?;
        let outcomes = [BeatOutcome::Good, BeatOutcome::Refused, BeatOutcome::Unavailable];
        let beats = outcomes.iter().zip(self.beats_by_outcome);
        to.counters(
            ("beats", "Heartbeats by outcome"),
            beats.map(|(outcome, n)| (vec![("outcome", outcome.name())], n)),
        )?;
        to.counters(
            ("beats_heard", "Heartbeats of other mounts that counted for this one"),
            [(vec![], self.beats_heard)].into_iter(),
        )
    }

    fn kms(&self, to: &mut Writer<'_>) -> fmt::Result {
        let outcomes = self.kms_calls.iter().flat_map(|calls| {
            let outcomes = [
                ("ok", calls.ok),
                ("refused", calls.refused),
                ("unavailable", calls.unavailable),
                ("rejected", calls.rejected),
            ];
            outcomes.map(|(outcome, n)| {
                (vec![("operation", calls.operation.as_str()), ("outcome", outcome)], n)
            })
        });
        to.counters(("kms_calls", "Calls of the KMS by operation and outcome"), outcomes)?;
        to.histograms(
            ("kms_call_duration_seconds", "Time that calls of the KMS took, tries again included"),
            self.kms_times.iter().map(|(operation, times)| (("operation", *operation), *times)),
        )?;
        to.gauge(
            ("kms_cost_dollars_per_hour", "Price of the calls of the KMS at the rate so far"),
            self.dollars_an_hour(),
        )
    }

    fn data_keys(&self, to: &mut Writer<'_>) -> fmt::Result {
        let keys = &self.keys;
        to.counter(("key_cache_hits", "Data keys that were wanted and in the cache"), keys.hits)?;
        to.counter(("key_cache_misses", "Data keys that were wanted and not there"), keys.misses)?;
        to.counter(("key_cache_evictions", "Data keys that made room for others"), keys.evicted)?;
        to.counter(("keys_fetched", "Data keys that were unwrapped"), keys.fetched)?;
        to.gauge(("keys_cached", "Data keys in the cache"), keys.cached)?;
        to.gauge(("keys_pooled", "Data keys in the pool for new files"), keys.pooled)
    }

    fn requests(&self, to: &mut Writer<'_>) -> fmt::Result {
        to.histograms(
            ("request_duration_seconds", "Time from a request of the kernel to its reply"),
            self.requests.iter().map(|(kind, times)| (("request", kind.name()), *times)),
        )?;
        to.counters(
            ("request_failures", "Requests that failed for the key, the store or the disk"),
            self.failures.iter().map(|(kind, failure, n)| {
                (vec![("request", kind.name()), ("errno", failure.name())], *n)
            }),
        )?;
        let not_authentic = self.failures.iter().filter(|(_, f, _)| *f == Failure::NotAuthentic);
        to.counters(
            ("authentication_failures", "Requests that met what fails authentication (EBADMSG)"),
            not_authentic.map(|(kind, _, n)| (vec![("request", kind.name())], *n)),
        )?;
        to.counter(("read_bytes", "Content that was read"), self.read)?;
        to.counter(("written_bytes", "Content that was written"), self.written)?;
        to.gauge(("requests_parked", "Requests that wait for a key"), self.parked)
    }

    fn resources(&self, to: &mut Writer<'_>) -> fmt::Result {
        to.gauge(("open_files", "Files and listings that programs have open"), self.open_files)?;
        to.gauge(("inodes", "Inodes that the kernel knows"), self.inodes)?;
        to.gauge(("inodes_paged", "Inodes that may have cached pages"), self.inodes_paged)?;
        if let Some(lost) = self.audit_lost {
            to.counter(("audit_entries_lost", "Entries that the audit log had no room for"), lost)?;
        }
        to.gauge(
            ("key_memory_unlocked_chunks", "Chunks of key memory that could be swapped out"),
            self.unlocked_memory,
        )?;
        to.gauge(
            ("strangers_folders", "Folders of the store with entries not of the volume"),
            self.strangers,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::figures::sample;
    use super::*;

    #[test]
    fn each_figure_is_a_line_and_each_family_is_described() {
        let text = exposition(sample());
        for line in [
            "# TYPE kmsfs_state gauge",
            "kmsfs_state{state=\"open\"} 0",
            "kmsfs_state{state=\"revoked\"} 1",
            "# TYPE kmsfs_beats_total counter",
            "kmsfs_beats_total{outcome=\"good\"} 7",
            "kmsfs_kms_calls_total{operation=\"Decrypt\",outcome=\"refused\"} 2",
            "kmsfs_request_duration_seconds_bucket{request=\"read\",le=\"0.001\"} 0",
            "kmsfs_request_duration_seconds_bucket{request=\"read\",le=\"0.003\"} 1",
            "kmsfs_request_duration_seconds_bucket{request=\"read\",le=\"+Inf\"} 2",
            "kmsfs_request_duration_seconds_count{request=\"read\"} 2",
            "kmsfs_request_duration_seconds_sum{request=\"read\"} 60.002",
            "kmsfs_request_failures_total{request=\"read\",errno=\"EBADMSG\"} 3",
            "kmsfs_authentication_failures_total{request=\"read\"} 3",
            "kmsfs_read_bytes_total 4096",
            "kmsfs_kms_cost_dollars_per_hour 0.00063",
            "kmsfs_audit_entries_lost_total 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing from\n{text}");
        }
        let (mut described, mut typed) = (0, 0);
        for line in text.lines() {
            described += usize::from(line.starts_with("# HELP "));
            typed += usize::from(line.starts_with("# TYPE "));
        }
        assert_eq!(described, typed);
        assert!(STATES.contains(&sample().phase.word()));
    }
}
