//! The budget of calls: so many a second, so that a mount never eats up a KMS quota that others
//! share. Heartbeats are outside of it.

use std::num::NonZeroU32;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Moment;

/// Calls that may come at once after a quiet time, in time at the full rate.
const BURST: Duration = Duration::from_millis(100);

/// A budget of calls a second, which callers take their turns from.
#[derive(Debug)]
pub struct Rate {
    apart: Duration,
    /// When the next call is due; behind the present after a quiet time.
    next: Mutex<Moment>,
}

impl Rate {
    /// A budget of `per_second` calls; `None`: without limit.
    pub fn new(per_second: Option<NonZeroU32>) -> Self {
        Self {
            apart: per_second.map_or(Duration::ZERO, |n| Duration::from_secs(1) / n.get()),
            next: Mutex::new(Moment(Duration::ZERO)),
        }
    }

    /// Whether calls are without limit.
    pub fn is_free(&self) -> bool {
        self.apart.is_zero()
    }

    /// Reserves a call, and says how long to wait before making it.
    pub fn reserve(&self, now: Moment) -> Duration {
        let mut next = self.next.lock();
        let due = (*next).max(Moment(now.0.saturating_sub(BURST)));
        *next = due + self.apart;
        due.since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_as_many_calls_as_allowed() {
        let rate = Rate::new(NonZeroU32::new(50));
        let start = Moment(Duration::from_secs(1000));
        let last = (0..500).map(|_| rate.reserve(start)).last().expect("500 calls");
        // Five come at once; the others 20 ms apart.
        assert_eq!(last, Duration::from_millis(20 * (499 - 5)));
        let later = start + Duration::from_secs(60);
        assert_eq!(rate.reserve(later), Duration::ZERO);
    }

    #[test]
    fn quiet_times_are_not_saved_up() {
        let rate = Rate::new(NonZeroU32::new(10));
        rate.reserve(Moment(Duration::ZERO));
        let now = Moment(Duration::from_secs(3600));
        let at_once = (0..100).filter(|_| rate.reserve(now).is_zero()).count();
        assert_eq!(at_once, 2);
    }

    #[test]
    fn without_a_limit_nothing_waits() {
        let rate = Rate::new(None);
        let now = Moment(Duration::from_secs(3600));
        assert!(rate.is_free() && (0..100_000).all(|_| rate.reserve(now).is_zero()));
    }
}
