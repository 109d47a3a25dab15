//! The figures of a mount. None of them names a file, a path, a key or a user.

use std::time::Duration;

use crate::clock::Moment;
use crate::keys::{Beat, KeyCounts, Phase};
use crate::kms::Calls;
use crate::metrics::{FailuresOf, Times, TimesOf};

/// Where a mount stands, and what it has done since it began.
#[derive(Clone, Debug)]
pub struct Figures {
    /// When the figures were taken.
    pub now: Moment,
    /// How long the daemon has been running.
    pub up: Duration,
    /// Where the mount stands.
    pub phase: Phase,
    /// The phases until now, each with its beginning, the oldest first.
    pub phases: Vec<(Moment, Phase)>,
    /// The last beats, the oldest first.
    pub beats: Vec<Beat>,
    /// Beats so far: good ones, refused ones, and those without an answer that counts.
    pub beats_by_outcome: [u64; 3],
    /// Beats of other mounts that counted for this one.
    pub beats_heard: u64,
    /// The heartbeat.
    pub heartbeat: Duration,
    /// How long ago the KMS last answered well.
    pub last_good: Duration,
    /// Where the master key lives: local or aws.
    pub provider: &'static str,
    /// How requests come from the kernel: io_uring or /dev/fuse.
    pub transport: &'static str,
    /// Calls of the KMS, by operation and outcome.
    pub kms_calls: Vec<Calls>,
    /// How long they took, by operation.
    pub kms_times: Vec<(&'static str, Times)>,
    /// What became of data keys.
    pub keys: KeyCounts,
    /// Requests of the kernel, by kind.
    pub requests: Vec<TimesOf>,
    /// Those that failed.
    pub failures: Vec<FailuresOf>,
    /// Content that was read: bytes.
    pub read: u64,
    /// Content that was written: bytes.
    pub written: u64,
    /// Requests that wait for a key now.
    pub parked: usize,
    /// Files and listings that programs have open now.
    pub open_files: usize,
    /// Inodes that the kernel knows now.
    pub inodes: usize,
    /// Those of them that may have cached pages.
    pub inodes_paged: usize,
    /// Entries that the audit log had no room for, where there is one.
    pub audit_lost: Option<u64>,
    /// Chunks of key memory that could not be locked against swap.
    pub unlocked_memory: u64,
    /// Folders of the store with entries that are not of the volume.
    pub strangers: u64,
}

impl Figures {
    /// How many calls of the KMS an hour there are, by how many there were so far.
    pub fn calls_an_hour(&self) -> f64 {
        let total = self.kms_calls.iter().map(Calls::total).sum();
        crate::kms::cost::an_hour(total, self.up)
    }

    /// What they cost an hour, in USD at list prices: nothing where no AWS KMS is asked.
    pub fn dollars_an_hour(&self) -> f64 {
        if self.provider == "aws" { crate::kms::cost::of(self.calls_an_hour()) } else { 0.0 }
    }
}

/// Of a mount whose master key was disabled a second ago.
#[cfg(test)]
pub(super) fn sample() -> Figures {
    use crate::keys::{BeatOutcome, Reason};
    use crate::metrics::{Failure, Histogram, RequestKind};
    let at = |secs| Moment(Duration::from_secs(secs));
    let times = Histogram::default();
    times.record(Duration::from_millis(2));
    times.record(Duration::from_secs(60));
    let calls =
        Calls { operation: "Decrypt".to_owned(), ok: 5, refused: 2, unavailable: 0, rejected: 0 };
    let beat = |n, outcome| Beat { began: at(n), took: Duration::from_millis(4), outcome };
    Figures {
        now: at(101),
        up: Duration::from_secs(120),
        phase: Phase::Locked(Reason::Refused),
        phases: vec![(at(1), Phase::Open), (at(100), Phase::Locked(Reason::Refused))],
        beats: vec![beat(90, BeatOutcome::Good), beat(99, BeatOutcome::Refused)],
        beats_by_outcome: [7, 1, 0],
        beats_heard: 5,
        heartbeat: Duration::from_secs(10),
        last_good: Duration::from_secs(11),
        provider: "aws",
        transport: "io_uring",
        kms_calls: vec![calls],
        kms_times: vec![("Decrypt", times.times())],
        keys: KeyCounts { hits: 3, misses: 1, ..KeyCounts::default() },
        requests: vec![(RequestKind::Read, times.times())],
        failures: vec![
            (RequestKind::Read, Failure::NotAuthentic, 3),
            (RequestKind::Read, Failure::KeyRevoked, 1),
        ],
        read: 4096,
        written: 0,
        parked: 0,
        open_files: 1,
        inodes: 2,
        inodes_paged: 1,
        audit_lost: Some(1),
        unlocked_memory: 0,
        strangers: 0,
    }
}
