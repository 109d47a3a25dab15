//! The kill switch's state machine: pure, with time as an argument.
//!
//! Open → Draining → Locked → Open. A refusal of the master key drains at once (or after
//! `revoke_after`); credentials that the KMS does not know after their grace; an unreachable KMS
//! after the heartbeat and the grace; an operator at will.
//! A drain ends when its work is done or its time is up, whichever comes first. Reopening wants
//! two good beats in a row, since a KMS may answer both ways for a while after a change.
//!
//! A good beat vouches for the moment in which it began, not for that of its answer: the KMS
//! decided somewhere in between, and every bound is counted from the earlier one.

use std::time::Duration;

use super::phase::{Phase, Reason};
use crate::clock::Moment;
use crate::kms::Verdict;

/// The settings that the machine knows.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The heartbeat.
    pub heartbeat: Duration,
    /// How long the KMS must go on refusing the key before the mount locks.
    pub revoke_after: Duration,
    /// How long the mount works on while the KMS cannot be reached, beyond a heartbeat.
    pub outage_grace: Duration,
    /// How long the mount works on while the KMS says that it does not know who asks.
    pub credentials_grace: Duration,
}

/// What the promise allows beyond a heartbeat, for the KMS's answer and the lock.
const MARGIN: Duration = Duration::from_secs(1);

impl Timing {
    /// What is kept of every heartbeat for saving dirty pages and invalidating, at least.
    pub fn reserve(&self) -> Duration {
        self.heartbeat / 4
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// All calls of a beat succeeded.
    Good {
        /// When the beat began.
        began: Moment,
    },
    /// A call of a beat was refused.
    Refused,
    /// None was refused, but one got no answer that counts.
    Unavailable,
    /// None was refused, but the KMS said that it does not know who asks.
    UnknownCaller,
    /// An operator asked for the lock.
    Lock,
    /// An operator took it back.
    Unlock,
    /// The drain is over.
    Drained,
    /// The lock is complete: keys wiped, everything invalidated.
    Sealed,
    /// Time passed.
    Tick,
}

impl Event {
    /// A beat of which the KMS said neither yes nor no.
    pub(super) fn of_inconclusive(verdict: Verdict) -> Self {
        if verdict == Verdict::UnknownCaller { Self::UnknownCaller } else { Self::Unavailable }
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Refuse requests and begin to invalidate; by `until` the lock is to be complete.
    Drain {
        /// Why.
        reason: Reason,
        /// The end of the promised time.
        until: Moment,
    },
    /// The drain is over: close the gate and wipe.
    Seal(Reason),
    /// Open again.
    Open,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Machine {
    timing: Timing,
    phase: Phase,
    last_good: Moment,
    refused_since: Option<Moment>,
    unknown_since: Option<Moment>,
    last_refusal: Option<Moment>,
    drain_until: Moment,
    good_in_a_row: u32,
    operator: bool,
}

/// How many good beats in a row open a locked mount.
const GOOD_TO_OPEN: u32 = 2;

impl Machine {
    /// An open mount, whose volume key the KMS has just unwrapped.
    pub fn new(timing: Timing, now: Moment) -> Self {
        Self {
            timing,
            phase: Phase::Open,
            last_good: now,
            refused_since: None,
            unknown_since: None,
            last_refusal: None,
            drain_until: now,
            good_in_a_row: 0,
            operator: false,
        }
    }

    /// The mount that was to open stays locked: the KMS did not give the volume key after all.
    pub(super) fn stay_locked(&mut self) {
        self.phase = Phase::Locked(Reason::Unreachable);
        self.good_in_a_row = 0;
    }

    /// Where the mount stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// When the last beat began that the KMS answered well.
    pub fn last_good(&self) -> Moment {
        self.last_good
    }

    /// Takes one event in and says what is to be done.
    pub fn step(&mut self, event: Event, now: Moment) -> Option<Effect> {
        match event {
            // One that began before a refusal came says nothing about the time after it.
            Event::Good { began } if self.last_refusal.is_none_or(|at| began >= at) => {
                self.last_good = self.last_good.max(began);
                self.refused_since = None;
                self.unknown_since = None;
                self.good_in_a_row += 1;
            }
            Event::Good { .. } => {}
            Event::Refused => {
                self.refused_since.get_or_insert(now);
                self.last_refusal = Some(now);
                self.good_in_a_row = 0;
            }
            Event::Unavailable => self.good_in_a_row = 0,
            Event::UnknownCaller => {
                self.unknown_since.get_or_insert(now);
                self.good_in_a_row = 0;
            }
            Event::Lock => self.operator = true,
            Event::Unlock => self.operator = false,
            Event::Drained | Event::Sealed | Event::Tick => {}
        }
        match self.phase {
            Phase::Open => {
                let reason = self.reason_to_close(now)?;
                let until = self.end_of(reason, now);
                self.phase = Phase::Draining(reason);
                self.drain_until = until;
                self.good_in_a_row = 0;
                Some(Effect::Drain { reason, until })
            }
            Phase::Draining(reason) => {
                // The bound wins: dirty pages that are not saved by now are lost.
                if event != Event::Drained && now < self.drain_until {
                    return None;
                }
                self.phase = Phase::Locked(reason);
                Some(Effect::Seal(reason))
            }
            Phase::Locked(_) => self.step_locked(now),
        }
    }

    fn reason_to_close(&self, now: Moment) -> Option<Reason> {
        if self.operator {
            return Some(Reason::Operator);
        }
        let lasts = |since: Option<Moment>, limit| since.is_some_and(|at| now.since(at) >= limit);
        if lasts(self.refused_since, self.timing.revoke_after)
            || lasts(self.unknown_since, self.timing.credentials_grace)
        {
            return Some(Reason::Refused);
        }
        (now.since(self.last_good) > self.outage_limit()).then_some(Reason::Unreachable)
    }

    /// How long after the last good beat an outage begins to lock: half of what a heartbeat
    /// keeps in reserve is for the lock, the other half lets an answer be late.
    fn outage_limit(&self) -> Duration {
        let t = &self.timing;
        (t.heartbeat + t.outage_grace).saturating_sub(t.reserve() / 2)
    }

    /// When a lock that begins now is to be complete, by the promise of its reason. A KMS that
    /// took longer to refuse than the promise supposes leaves the drain its reserve.
    fn end_of(&self, reason: Reason, now: Moment) -> Moment {
        let t = &self.timing;
        match reason {
            Reason::Operator => now + t.heartbeat,
            Reason::Refused => {
                (self.last_good + t.heartbeat + t.revoke_after + MARGIN).max(now + t.reserve())
            }
            Reason::Unreachable => self.last_good + t.heartbeat + t.outage_grace,
        }
    }

    /// The drain has until `until` and no longer: what follows it takes the rest of the time.
    pub(super) fn drain_until(&mut self, until: Moment) {
        self.drain_until = until;
    }

    fn step_locked(&mut self, now: Moment) -> Option<Effect> {
        // The reason follows what is true now, so that the errno tells what to do about it.
        if let Some(reason) = self.reason_to_close(now) {
            self.phase = Phase::Locked(reason);
            return None;
        }
        if self.good_in_a_row < GOOD_TO_OPEN {
            return None;
        }
        self.phase = Phase::Open;
        Some(Effect::Open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Moment {
        Moment(Duration::from_secs(secs))
    }

    const fn good(began: u64) -> Event {
        Event::Good { began: Moment(Duration::from_secs(began)) }
    }

    fn drain(reason: Reason, until: u64) -> Option<Effect> {
        Some(Effect::Drain { reason, until: at(until) })
    }

    fn machine(revoke_after: u64, grace: u64) -> Machine {
        let timing = Timing {
            heartbeat: Duration::from_secs(10),
            revoke_after: Duration::from_secs(revoke_after),
            outage_grace: Duration::from_secs(grace),
            credentials_grace: Duration::from_secs(5),
        };
        Machine::new(timing, at(0))
    }

    #[test]
    fn a_refusal_drains_then_locks_then_two_good_beats_open() {
        let mut m = machine(0, 900);
        assert_eq!(m.step(Event::Refused, at(1)), drain(Reason::Refused, 11));
        assert_eq!(m.step(good(1), at(1)), None);
        assert_eq!(m.step(Event::Refused, at(1)), None);
        assert_eq!(m.step(Event::Drained, at(2)), Some(Effect::Seal(Reason::Refused)));
        assert_eq!(m.step(good(3), at(3)), None);
        assert_eq!(m.step(Event::Refused, at(4)), None);
        assert_eq!(m.step(good(5), at(5)), None);
        assert_eq!(m.step(good(6), at(6)), Some(Effect::Open));
    }

    #[test]
    fn an_outage_locks_after_heartbeat_and_grace() {
        let mut m = machine(0, 60);
        assert_eq!(m.step(Event::Unavailable, at(68)), None);
        assert_eq!(m.step(Event::Tick, at(69)), drain(Reason::Unreachable, 70));
    }

    #[test]
    fn a_drain_ends_at_its_limit() {
        let mut m = machine(0, 60);
        m.step(Event::Refused, at(2));
        assert_eq!(m.step(Event::Tick, at(10)), None);
        assert_eq!(m.step(Event::Tick, at(11)), Some(Effect::Seal(Reason::Refused)));
    }

    #[test]
    fn a_slow_kms_leaves_the_drain_its_reserve() {
        let mut m = machine(0, 60);
        let until = at(30) + Duration::from_millis(2500);
        let wanted = Some(Effect::Drain { reason: Reason::Refused, until });
        assert_eq!(m.step(Event::Refused, at(30)), wanted);
    }

    /// A beat hangs, the next is refused, then the first comes back with the answer of before.
    #[test]
    fn a_good_beat_from_before_a_refusal_does_not_count() {
        let mut m = machine(5, 60);
        assert_eq!(m.step(Event::Refused, at(3)), None);
        assert_eq!(m.step(good(1), at(4)), None);
        assert_eq!(m.step(Event::Tick, at(8)), drain(Reason::Refused, 16));
    }

    #[test]
    fn an_operator_locks_and_good_beats_do_not_open() {
        let mut m = machine(0, 60);
        assert_eq!(m.step(Event::Lock, at(1)), drain(Reason::Operator, 11));
        m.step(Event::Drained, at(1));
        for t in 2..9 {
            assert_eq!(m.step(good(t), at(t)), None);
        }
        assert_eq!(m.step(Event::Unlock, at(9)), Some(Effect::Open));
    }

    #[test]
    fn revoke_after_waits_for_a_lasting_refusal() {
        let mut m = machine(5, 60);
        assert_eq!(m.step(Event::Refused, at(1)), None);
        assert_eq!(m.step(good(2), at(2)), None);
        assert_eq!(m.step(Event::Refused, at(3)), None);
        assert_eq!(m.step(Event::Tick, at(8)), drain(Reason::Refused, 18));
    }

    /// Deleted credentials were an outage of a quarter of an hour.
    #[test]
    fn credentials_that_the_kms_does_not_know_lock_after_their_grace() {
        let mut m = machine(0, 900);
        assert_eq!(m.step(Event::UnknownCaller, at(3)), None);
        assert_eq!(m.step(Event::Unavailable, at(5)), None, "no answer takes nothing back");
        assert_eq!(m.step(Event::Tick, at(8)), drain(Reason::Refused, 11));
        assert_eq!(m.step(Event::Drained, at(9)), Some(Effect::Seal(Reason::Refused)));
        assert_eq!(m.step(good(10), at(10)), None);
        assert_eq!(m.step(good(11), at(11)), Some(Effect::Open));

        let mut m = machine(0, 900);
        assert_eq!(m.step(Event::UnknownCaller, at(3)), None);
        assert_eq!(m.step(good(6), at(6)), None, "new credentials in time");
        assert_eq!(m.step(Event::UnknownCaller, at(9)), None);
        assert_eq!(m.step(Event::Tick, at(13)), None, "counted anew");
    }

    /// Every script of eight events: a mount is open only where the promise lets it be.
    #[test]
    fn no_script_leaves_a_refused_mount_open() {
        let events = [
            good(0),
            Event::Refused,
            Event::Unavailable,
            Event::UnknownCaller,
            Event::Lock,
            Event::Unlock,
            Event::Drained,
        ];
        for script in 0..7u32.pow(7) {
            let (mut m, mut rest, mut last, mut operator) = (machine(0, 5), script, None, false);
            for t in 1..=7 {
                let mut event = events[(rest % 7) as usize];
                rest /= 7;
                if event == good(0) {
                    event = good(t);
                }
                let before = m.phase();
                m.step(event, at(t));
                match event {
                    Event::Good { .. }
                    | Event::Refused
                    | Event::Unavailable
                    | Event::UnknownCaller => last = Some(event),
                    Event::Lock => operator = true,
                    Event::Unlock => operator = false,
                    _ => {}
                }
                if m.phase() == Phase::Open {
                    assert!(!operator && last != Some(Event::Refused), "script {script}");
                }
                let jumped = matches!((before, m.phase()), (Phase::Open, Phase::Locked(_)));
                assert!(!jumped, "script {script}: locked without a drain");
            }
        }
    }
}
