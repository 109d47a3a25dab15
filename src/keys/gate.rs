//! The gate that every request passes, and the count of those inside.
//!
//! Closing it is immediate for newcomers; [`Gate::wait_idle`] then waits for those inside, so
//! that keys can be wiped with nobody using one, and no plaintext is answered afterwards.

use std::time::Duration;

use super::phase::{Phase, Reason};
use crate::clock::{Moment, millis};
use crate::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Condvar, Mutex};

/// What a request wants of the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To read or change anything.
    Use,
    /// To save dirty pages that the kernel holds; served while draining too.
    Save,
}

impl Phase {
    /// Whether requests of this purpose are let in.
    pub fn admits(self, purpose: Purpose) -> bool {
        match self {
            Self::Open => true,
            Self::Draining(_) => purpose == Purpose::Save,
            Self::Locked(_) => false,
        }
    }

    /// Why it is not open.
    pub fn reason(self) -> Option<Reason> {
        match self {
            Self::Open => None,
            Self::Draining(reason) | Self::Locked(reason) => Some(reason),
        }
    }
}

/// Why the gate did not let a request in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shut {
    /// Closed, for this reason.
    Closed(Reason),
    /// The monitor has not been heard for longer than a heartbeat (the process was stopped, or
    /// the machine slept): nothing is served until a beat says how things stand.
    Stale,
}

/// Lets requests in while the mount is open, counts those inside, and waits for them to leave.
#[derive(Debug)]
pub struct Gate {
    phase: AtomicU8,
    inside: AtomicUsize,
    fresh_as_of: AtomicU64,
    patience: u64,
    idle: Mutex<()>,
    left: Condvar,
}

/// Proof of having passed; dropping it leaves.
#[derive(Debug)]
pub struct Pass<'a>(&'a Gate);

impl Gate {
    /// An open gate, which goes stale when [`Gate::mark_fresh`] is not called for `patience`.
    pub fn new(patience: Duration) -> Self {
        Self {
            phase: AtomicU8::new(Phase::Open.code()),
            inside: AtomicUsize::new(0),
            fresh_as_of: AtomicU64::new(since_boot(Moment::now())),
            patience: millis(patience),
            idle: Mutex::new(()),
            left: Condvar::new(),
        }
    }

    /// Lets a request in.
    ///
    /// # Errors
    /// [`Shut`].
    pub fn enter(&self, purpose: Purpose) -> Result<Pass<'_>, Shut> {
        // Counted first: a closer that reads the count after setting the phase sees this
        // request, or this request sees the phase.
        self.inside.fetch_add(1, Ordering::SeqCst);
        let pass = Pass(self);
        let phase = self.phase();
        match phase.reason() {
            Some(reason) if !phase.admits(purpose) => Err(Shut::Closed(reason)),
            None if purpose == Purpose::Use && self.is_stale() => Err(Shut::Stale),
            _ => Ok(pass),
        }
    }

    fn is_stale(&self) -> bool {
        since_boot(Moment::now()).saturating_sub(self.fresh_as_of.load(Ordering::SeqCst))
            > self.patience
    }

    /// Why a request of this purpose would be refused now, for one that has not come to the gate
    /// yet.
    pub fn refuses(&self, purpose: Purpose) -> Option<Reason> {
        let phase = self.phase();
        phase.reason().filter(|_| !phase.admits(purpose))
    }

    /// The present phase.
    pub fn phase(&self) -> Phase {
        Phase::from_code(self.phase.load(Ordering::SeqCst))
    }

    /// Whether it is [`Phase::Open`].
    pub fn is_open(&self) -> bool {
        self.phase() == Phase::Open
    }

    /// Changes the phase for all who come from now on.
    pub fn set(&self, phase: Phase) {
        self.phase.store(phase.code(), Ordering::SeqCst);
    }

    /// The monitor has made sure how things stood at `as_of`. Pass the time that was sampled
    /// before the check: the present is wrong if the process was stopped in between.
    pub fn mark_fresh(&self, as_of: Moment) {
        self.fresh_as_of.fetch_max(since_boot(as_of), Ordering::SeqCst);
    }

    /// Waits until nobody is inside. The gate should be closed, or this may last.
    pub fn wait_idle(&self) {
        self.wait_idle_for(Duration::MAX);
    }

    /// The same, for so long at most: says whether nobody is inside.
    pub fn wait_idle_for(&self, patience: Duration) -> bool {
        let (start, mut held) = (Moment::now(), self.idle.lock());
        while self.inside.load(Ordering::SeqCst) != 0 {
            let rest = patience.saturating_sub(Moment::now().since(start));
            if rest.is_zero() {
                return false;
            }
            self.left.wait_for(&mut held, rest);
        }
        true
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let last = self.0.inside.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && !self.0.is_open() {
            // Under the lock, so that the wake-up cannot fall between a waiter's look at the
            // count and its wait.
            let _held = self.0.idle.lock();
            self.0.left.notify_all();
        }
    }
}

fn since_boot(at: Moment) -> u64 {
    millis(at.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn gate() -> Gate {
        Gate::new(Duration::from_secs(60))
    }

    #[test]
    fn draining_lets_only_saves_in() {
        let g = gate();
        g.set(Phase::Draining(Reason::Refused));
        assert_eq!(g.enter(Purpose::Use).err(), Some(Shut::Closed(Reason::Refused)));
        assert!(g.enter(Purpose::Save).is_ok());
        g.set(Phase::Locked(Reason::Refused));
        assert!(g.enter(Purpose::Save).is_err());
    }

    #[test]
    fn a_silent_monitor_makes_it_stale() {
        let g = Gate::new(Duration::ZERO);
        g.fresh_as_of.store(0, Ordering::Relaxed);
        assert_eq!(g.enter(Purpose::Use).err(), Some(Shut::Stale));
        assert!(g.enter(Purpose::Save).is_ok());
    }

    /// A beat was in flight when the process was stopped; its answer, taken after the process
    /// went on, vouched for the present, in which the key may be disabled.
    #[test]
    fn an_old_sign_of_life_does_not_vouch_for_the_present() {
        let g = Gate::new(Duration::from_secs(1));
        let now = Moment::now();
        g.fresh_as_of.store(0, Ordering::SeqCst);
        g.mark_fresh(now.before(Duration::from_secs(2)));
        assert_eq!(g.enter(Purpose::Use).err(), Some(Shut::Stale));
        g.mark_fresh(now);
        g.mark_fresh(now.before(Duration::from_secs(2)));
        assert!(g.enter(Purpose::Use).is_ok());
    }

    #[test]
    fn who_stays_inside_is_not_waited_for_without_end() {
        let g = gate();
        let pass = g.enter(Purpose::Use).expect("open");
        g.set(Phase::Locked(Reason::Refused));
        assert!(!g.wait_idle_for(Duration::from_millis(1)));
        drop(pass);
        assert!(g.wait_idle_for(Duration::ZERO));
    }

    #[test]
    fn wait_idle_returns_when_the_last_has_left() {
        let g = Arc::new(gate());
        let pass = g.enter(Purpose::Use).expect("open");
        g.set(Phase::Locked(Reason::Operator));
        let waiter = std::thread::spawn({
            let g = g.clone();
            move || g.wait_idle()
        });
        drop(pass);
        waiter.join().expect("the waiter wakes up");
    }
}
