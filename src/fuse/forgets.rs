//! Inodes that the kernel forgets (FUSE_FORGET) come over /dev/fuse, also where requests come over
//! rings.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Sleeps for a millisecond before the first of several inodes that the kernel forgets. For each one
/// it wakes a thread that reads /dev/fuse, and such a thread takes all that wait: it is to take
/// many. Where requests come over rings it has nothing else to do; only interrupts wait for it.
pub(super) fn gather() {
    const GATHERED: Duration = Duration::from_millis(1);
    /// The next of those that were taken together follows within this time.
    const TOGETHER: Duration = Duration::from_micros(100);
    thread_local! {
        static LAST: Cell<Option<Instant>> = const { Cell::new(None) };
    }
    if LAST.get().is_none_or(|last| last.elapsed() > TOGETHER) {
        std::thread::sleep(GATHERED);
    }
    LAST.set(Some(Instant::now()));
}
