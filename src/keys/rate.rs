//! The budget of calls: as many a second as the user allows, and as the KMS bears. What it bears is
//! learned: a KMS that throttles halves the budget, which grows again while it does not. Heartbeats
//! are outside of it.

use std::num::NonZeroU32;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Moment;

/// Calls that may come at once after a quiet time, in time at the full rate.
const BURST: Duration = Duration::from_millis(100);
/// Calls are counted, and the budget changes, in steps of this.
const STEP: Duration = Duration::from_secs(1);
/// What throttling leaves at least, in calls a second.
const LEAST: f64 = 10.0;
/// How much larger the budget is after each step without throttling.
const GROWTH: f64 = 1.1;
/// A learned budget of more calls a second is none.
const FREE: f64 = 20_000.0;

/// A budget of calls a second, which callers take their turns from.
#[derive(Debug)]
pub struct Rate {
    /// What the user allows, in calls a second.
    allowed: Option<f64>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When the next call is due; behind the present after a quiet time.
    next: Moment,
    /// What the KMS bears, in calls a second, where that is less than was asked of it.
    learned: Option<f64>,
    /// When this step began.
    step: Moment,
    /// Calls of this step, and of the one before.
    calls: [f64; 2],
    /// When the budget was halved last.
    halved: Option<Moment>,
}

impl State {
    /// Begins another step where this one is over.
    fn go_on(&mut self, now: Moment) {
        let steps = now.since(self.step).as_secs();
        if steps == 0 {
            return;
        }
        self.calls = [0.0, if steps == 1 { self.calls[0] } else { 0.0 }];
        self.step = now;
        let growth = GROWTH.powi(i32::try_from(steps).unwrap_or(i32::MAX));
        self.learned = self.learned.map(|rate| rate * growth).filter(|rate| *rate < FREE);
    }
}

impl Rate {
    /// A budget of `per_second` calls; `None`: of what the KMS bears.
    pub fn new(per_second: Option<NonZeroU32>) -> Self {
        let zero = Moment(Duration::ZERO);
        let state = State { next: zero, learned: None, step: zero, calls: [0.0; 2], halved: None };
        Self { allowed: per_second.map(|n| n.get().into()), state: Mutex::new(state) }
    }

    /// Whether calls are without limit.
    pub fn is_free(&self) -> bool {
        self.allowed.is_none() && self.state.lock().learned.is_none()
    }

    /// Reserves a call, and says how long to wait before making it.
    pub fn reserve(&self, now: Moment) -> Duration {
        let mut state = self.state.lock();
        state.go_on(now);
        state.calls[0] += 1.0;
        let limits = [self.allowed, state.learned].into_iter().flatten();
        let Some(rate) = limits.reduce(f64::min) else { return Duration::ZERO };
        let due = state.next.max(Moment(now.0.saturating_sub(BURST)));
        state.next = due + Duration::from_secs_f64(1.0 / rate);
        due.since(now)
    }

    /// The KMS threw a call out, for there are too many: half of what was asked of it is asked
    /// from now on. What it throws out within the next step is of the calls from before.
    pub fn throttled(&self, now: Moment) {
        let mut state = self.state.lock();
        state.go_on(now);
        if state.halved.is_some_and(|at| now.since(at) < STEP) {
            return;
        }
        state.halved = Some(now);
        let asked = state.calls[0].max(state.calls[1]);
        let asked = state.learned.map_or(asked, |rate| rate.min(asked));
        state.learned = Some((asked / 2.0).max(LEAST));
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

    /// How many calls a KMS is asked in each of so many seconds, by callers that always want more,
    /// where it bears `borne` a second and throws out the rest.
    fn asked(rate: &Rate, borne: usize, seconds: u64) -> Vec<usize> {
        let millis = 1000 * (1000..1000 + seconds).start..1000 * (1000 + seconds);
        let (mut by_second, mut due) = (vec![0; usize::try_from(seconds).expect("few")], 0);
        for millis in millis {
            let now = Moment(Duration::from_millis(millis));
            // Ten callers at most make a call in the same millisecond.
            for _ in 0..10 {
                if due > millis {
                    break;
                }
                let second = usize::try_from(millis / 1000 - 1000).expect("few");
                by_second[second] += 1;
                if by_second[second] > borne {
                    rate.throttled(now);
                }
                due = millis + u64::try_from(rate.reserve(now).as_millis()).expect("short");
            }
        }
        by_second
    }

    #[test]
    fn a_kms_that_throttles_is_asked_what_it_bears() {
        let rate = Rate::new(None);
        let asked = asked(&rate, 1000, 60);
        assert!(asked[0] > 1000, "nothing is known at first: {asked:?}");
        let settled = &asked[10..];
        assert!(settled.iter().all(|calls| *calls <= 1200), "{asked:?}");
        let mean = settled.iter().sum::<usize>() / settled.len();
        assert!((500..1000).contains(&mean), "{mean}: {asked:?}");
    }

    #[test]
    fn what_was_learned_is_forgotten_in_time_and_no_more_than_allowed() {
        let rate = Rate::new(NonZeroU32::new(100));
        let at = |secs| Moment(Duration::from_secs(secs));
        rate.reserve(at(1000));
        rate.throttled(at(1000));
        assert_eq!(rate.state.lock().learned, Some(LEAST));
        rate.reserve(at(1100));
        assert_eq!(rate.state.lock().learned, None);
        let late = (0..200).map(|_| rate.reserve(at(1100))).max().expect("some");
        assert!(late > Duration::from_millis(1500), "{late:?}: the user's word holds");
    }
}
