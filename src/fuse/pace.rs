//! How long a kind of requests takes, on average of late.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A measured time counts for so much of the average.
const SHARE: u64 = 8;

/// The average time of a kind of requests, in nanoseconds.
#[derive(Default)]
pub(super) struct Pace(AtomicU64);

impl Pace {
    pub(super) fn note(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let old = self.0.load(Ordering::Relaxed);
        self.0.store(old - old / SHARE + took / SHARE, Ordering::Relaxed);
    }

    pub(super) fn is_longer(&self, than: Duration) -> bool {
        Duration::from_nanos(self.0.load(Ordering::Relaxed)) > than
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_long_wait_is_remembered_for_some_forty_quick_ones() {
        const LONG: Duration = Duration::from_micros(250);
        let pace = Pace::default();
        (0..100).for_each(|_| pace.note(Duration::from_micros(20)));
        assert!(!pace.is_longer(LONG));
        pace.note(Duration::from_millis(5));
        assert!(pace.is_longer(LONG), "it tells of a disk");
        (0..40).for_each(|_| pace.note(Duration::from_micros(20)));
        assert!(!pace.is_longer(LONG));
    }
}
