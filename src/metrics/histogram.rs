//! How long things took: a histogram of durations.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::counter::{SHARDS, shard};

/// The upper bounds of all buckets but the last, which has none, in nanoseconds. They reach from
/// a stat that the daemon answers from memory to a KMS that does not answer.
const BOUNDS_NS: [u64; 14] = [
    10_000,
    30_000,
    100_000,
    300_000,
    1_000_000,
    3_000_000,
    10_000_000,
    30_000_000,
    100_000_000,
    300_000_000,
    1_000_000_000,
    3_000_000_000,
    10_000_000_000,
    30_000_000_000,
];

/// The same in seconds, as Prometheus has them.
pub const BOUNDS: [f64; BOUNDS_NS.len()] =
    [0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0];

const BUCKETS: usize = BOUNDS_NS.len() + 1;

#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    buckets: [AtomicU64; BUCKETS],
    nanoseconds: AtomicU64,
}

/// Durations, by the bucket that they fall into.
#[derive(Debug, Default)]
pub struct Histogram([Shard; SHARDS]);

impl Histogram {
    /// Counts a duration.
    pub fn record(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let shard = &self.0[shard()];
        let bucket = BOUNDS_NS.partition_point(|bound| *bound < took);
        shard.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        shard.nanoseconds.fetch_add(took, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn times(&self) -> Times {
        let mut times = Times::default();
        for shard in &self.0 {
            for (all, of_shard) in times.buckets.iter_mut().zip(&shard.buckets) {
                *all += of_shard.load(Ordering::Relaxed);
            }
            times.total += Duration::from_nanos(shard.nanoseconds.load(Ordering::Relaxed));
        }
        times
    }
}

/// The content of a [`Histogram`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// How many durations fell into each bucket and no lower one: up to each of [`BOUNDS`], then
    /// above them all.
    pub buckets: [u64; BUCKETS],
    /// All durations together.
    pub total: Duration,
}

impl Times {
    /// How many there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_where_it_belongs() {
        let histogram = Histogram::default();
        let micros = [1, 10, 11, 30, 1_000_000, 1_000_001, 40_000_000];
        micros.iter().for_each(|n| histogram.record(Duration::from_micros(*n)));
        let times = histogram.times();
        assert_eq!((times.buckets[0], times.buckets[1], times.buckets[2]), (2, 2, 0));
        assert_eq!((times.buckets[10], times.buckets[11], times.buckets[14]), (1, 1, 1));
        assert_eq!(times.count(), 7);
        assert_eq!(times.total, Duration::from_micros(micros.iter().sum()));
    }

    #[test]
    fn the_bounds_are_those_of_both_lists() {
        for (ns, seconds) in BOUNDS_NS.iter().zip(BOUNDS) {
            assert!((*ns as f64 / 1e9 - seconds).abs() < 1e-12, "{ns} {seconds}");
        }
    }
}
