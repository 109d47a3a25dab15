//! Who answers a request: the thread of its lane, a bulk worker, or a helper where it may take
//! long.
//!
//! While a lane's thread waits for a disk, its core's queue stands still; while a bulk worker
//! does, so do the entries that came with it. So kinds of requests that took long lately go to
//! helpers, which have no entries, until they are quick again.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::bulk::Bulk;
use super::dispatch::{self, Kind, dispatch};
use super::slot::Slot;
use crate::fuse::requests::Requests;

/// Handing a request over and its reply back takes some 20 µs: longer than this is worth it.
const LONG: Duration = Duration::from_micros(250);
/// The same for a megabyte, which takes a core half a millisecond to open or seal.
const LONG_LARGE: Duration = Duration::from_millis(4);
/// A measured time counts for so much of the average.
const SHARE: u64 = 8;

/// The average time of a kind of requests, in nanoseconds.
#[derive(Default)]
struct Pace(AtomicU64);

impl Pace {
    fn note(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let old = self.0.load(Ordering::Relaxed);
        self.0.store(old - old / SHARE + took / SHARE, Ordering::Relaxed);
    }

    fn is_longer(&self, than: Duration) -> bool {
        Duration::from_nanos(self.0.load(Ordering::Relaxed)) > than
    }
}

/// Who answers.
enum Way {
    Lane,
    Bulk,
    Helper,
}

struct Shared {
    requests: Arc<Requests>,
    paces: [Pace; Kind::COUNT],
    queue: Mutex<(VecDeque<Slot>, bool)>,
    work: Condvar,
    bulk: Arc<Bulk>,
}

/// See the module's description.
pub(super) struct Helpers(Arc<Shared>);

impl Helpers {
    /// Starts so many.
    pub(super) fn start(
        requests: &Arc<Requests>,
        count: usize,
        bulk: &Arc<Bulk>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            requests: requests.clone(),
            paces: Default::default(),
            queue: Mutex::default(),
            work: Condvar::new(),
            bulk: bulk.clone(),
        });
        let helpers = Self(shared.clone());
        for _ in 0..count {
            let shared = shared.clone();
            let help = move || {
                while let Some(slot) = shared.next() {
                    shared.run(slot);
                }
            };
            std::thread::Builder::new().name("kmsfs-helper".to_owned()).spawn(help)?;
        }
        Ok(helpers)
    }

    /// Of a lane's thread: answers a request here, or has another do it.
    pub(super) fn serve(&self, slot: Slot) {
        match self.0.way(&slot) {
            Way::Lane => self.0.run(slot),
            Way::Bulk => self.0.bulk.push(slot),
            Way::Helper => self.0.push(slot),
        }
    }

    /// Of a bulk worker: has the right one answer a request that came to its ring.
    pub(super) fn sort(&self, slot: Slot) {
        match self.0.way(&slot) {
            Way::Lane => slot.lane().hand(slot),
            Way::Bulk => self.0.bulk.keep(slot),
            Way::Helper => self.0.push(slot),
        }
    }

    /// Ends helpers and bulk workers.
    pub(super) fn close(&self) {
        self.0.queue.lock().1 = true;
        self.0.work.notify_all();
        self.0.bulk.close();
    }

    /// Answers a request here.
    pub(super) fn run(&self, slot: Slot) {
        self.0.run(slot);
    }
}

impl Shared {
    fn way(&self, slot: &Slot) -> Way {
        let kind = dispatch::kind(slot.head());
        let long = match kind {
            Kind::Bulk | Kind::LargeWrite => LONG_LARGE,
            _ => LONG,
        };
        match kind {
            _ if self.paces[kind as usize].is_longer(long) => Way::Helper,
            Kind::Bulk => Way::Bulk,
            _ => Way::Lane,
        }
    }

    fn push(&self, slot: Slot) {
        self.queue.lock().0.push_back(slot);
        self.work.notify_one();
    }

    fn run(&self, slot: Slot) {
        let (kind, began) = (dispatch::kind(slot.head()), Instant::now());
        dispatch(&self.requests, slot);
        self.paces[kind as usize].note(began.elapsed());
    }

    fn next(&self) -> Option<Slot> {
        let mut queue = self.queue.lock();
        loop {
            if let Some(slot) = queue.0.pop_front() {
                return Some(slot);
            }
            if queue.1 {
                return None;
            }
            self.work.wait(&mut queue);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waited_for_a_disk_is_handed_over_until_it_is_quick_again() {
        let pace = Pace::default();
        (0..100).for_each(|_| pace.note(Duration::from_micros(20)));
        assert!(!pace.is_longer(LONG));
        pace.note(Duration::from_millis(5));
        assert!(pace.is_longer(LONG), "one long wait tells of a disk");
        (0..40).for_each(|_| pace.note(Duration::from_micros(20)));
        assert!(!pace.is_longer(LONG));
    }
}
