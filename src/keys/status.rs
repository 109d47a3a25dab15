//! Where a mount stands, and how it came there.

use std::collections::VecDeque;
use std::time::Duration;

use super::machine::Event;
use super::phase::{Phase, Reason};
use crate::clock::Moment;

/// As many beats are remembered as fill an hour at the default heartbeat.
const BEATS: usize = 480;
/// As many changes of phase are.
const CHANGES: usize = 64;

/// What `status` tells of the monitor.
#[derive(Clone, Debug)]
pub struct Status {
    /// Where the mount stands.
    pub phase: Phase,
    /// How long ago the KMS last answered well.
    pub last_good: Duration,
    /// What the KMS last said when it did not.
    pub last_error: Option<String>,
    /// This mount's beats so far by outcome, in the order of [`BeatOutcome`].
    pub outcomes: [u64; 3],
    /// Beats of other mounts that counted for this one.
    pub heard: u64,
    /// The last of this mount's, the oldest first.
    pub history: VecDeque<Beat>,
    /// The phases until now, each with its beginning, the oldest first.
    pub phases: VecDeque<(Moment, Phase)>,
}

impl Phase {
    /// The word that `status` and metrics use for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Draining(_) => "draining",
            Self::Locked(Reason::Refused) => "revoked",
            Self::Locked(Reason::Unreachable) => "unreachable",
            Self::Locked(Reason::Operator) => "locked",
        }
    }
}

/// A heartbeat that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// When it began.
    pub began: Moment,
    /// How long the KMS took.
    pub took: Duration,
    /// What the KMS said.
    pub outcome: BeatOutcome,
}

/// What came of a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BeatOutcome {
    /// All of its calls succeeded.
    Good,
    /// The master key was refused.
    Refused,
    /// There was no answer that counts.
    Unavailable,
}

impl BeatOutcome {
    /// Of an event, if it ends a beat.
    pub(super) fn of(event: Event) -> Option<Self> {
        match event {
            Event::Good { .. } => Some(Self::Good),
            Event::Refused => Some(Self::Refused),
            Event::Unavailable | Event::UnknownCaller => Some(Self::Unavailable),
            Event::Lock | Event::Unlock | Event::Drained | Event::Sealed | Event::Tick => None,
        }
    }

    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
        }
    }
}

impl Status {
    /// Of a mount that has just been opened.
    pub(super) fn open(now: Moment) -> Self {
        Self {
            phase: Phase::Open,
            last_good: Duration::ZERO,
            last_error: None,
            outcomes: [0; 3],
            heard: 0,
            history: VecDeque::new(),
            phases: [(now, Phase::Open)].into(),
        }
    }

    /// Beats so far.
    pub fn beats(&self) -> u64 {
        self.outcomes.iter().sum()
    }

    /// Those that were not good.
    pub fn beats_failed(&self) -> u64 {
        self.beats() - self.outcomes[BeatOutcome::Good as usize]
    }

    /// A beat has ended.
    pub(super) fn add(&mut self, beat: Beat) {
        self.outcomes[beat.outcome as usize] += 1;
        push(&mut self.history, beat, BEATS);
    }

    /// The mount stands here now.
    pub(super) fn set_phase(&mut self, phase: Phase, now: Moment) {
        if self.phase != phase {
            push(&mut self.phases, (now, phase), CHANGES);
        }
        self.phase = phase;
    }
}

fn push<T>(queue: &mut VecDeque<T>, new: T, most: usize) {
    if queue.len() == most {
        queue.pop_front();
    }
    queue.push_back(new);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_beats_and_phases_are_remembered() {
        let at = |n: u64| Moment(Duration::from_secs(n));
        let mut status = Status::open(at(1));
        for n in 0..BEATS as u64 + 3 {
            let outcome = if n % 2 == 0 { BeatOutcome::Good } else { BeatOutcome::Refused };
            status.add(Beat { began: at(n), took: Duration::from_millis(n), outcome });
        }
        assert_eq!(status.beats(), BEATS as u64 + 3);
        assert_eq!(status.outcomes, [BEATS as u64 / 2 + 2, BEATS as u64 / 2 + 1, 0]);
        assert_eq!((status.history.len(), status.history[0].began), (BEATS, at(3)));
        let locked = Phase::Locked(Reason::Refused);
        for (n, phase) in [(2, Phase::Open), (3, locked), (4, locked), (5, Phase::Open)] {
            status.set_phase(phase, at(n));
        }
        assert_eq!(status.phases, [(at(1), Phase::Open), (at(3), locked), (at(5), Phase::Open)]);
    }
}
