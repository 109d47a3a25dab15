//! Who answers a request: the thread of its lane, or a helper where it may take long.
//!
//! While a lane's thread waits for a disk, its core's queue stands still. So kinds of requests
//! that took long lately go to helpers, until they are quick again; and so does what the
//! kernel reads ahead and saves on its own, several requests at once from one core.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::dispatch::{self, Kind, dispatch};
use super::slot::Slot;
use crate::fuse::requests::Requests;

/// Handing a request over and its reply back takes some 20 µs: longer than this is worth it.
const LONG: Duration = Duration::from_micros(250);
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

    fn is_long(&self) -> bool {
        Duration::from_nanos(self.0.load(Ordering::Relaxed)) > LONG
    }
}

struct Shared {
    requests: Arc<Requests>,
    paces: [Pace; Kind::COUNT],
    queue: Mutex<(VecDeque<Slot>, bool)>,
    work: Condvar,
}

/// See the module's description. They end when this is dropped.
pub(super) struct Helpers(Arc<Shared>);

impl Helpers {
    /// Starts so many.
    pub(super) fn start(requests: &Arc<Requests>, count: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            requests: requests.clone(),
            paces: Default::default(),
            queue: Mutex::default(),
            work: Condvar::new(),
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

    /// Answers a request here, or has a helper do it.
    pub(super) fn serve(&self, slot: Slot) {
        let kind = dispatch::kind(slot.head());
        if kind == Kind::Bulk || self.0.paces[kind as usize].is_long() {
            self.0.queue.lock().0.push_back(slot);
            self.0.work.notify_one();
        } else {
            self.0.run(slot);
        }
    }
}

impl Drop for Helpers {
    fn drop(&mut self) {
        self.0.queue.lock().1 = true;
        self.0.work.notify_all();
    }
}

impl Shared {
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
        assert!(!pace.is_long());
        pace.note(Duration::from_millis(5));
        assert!(pace.is_long(), "one long wait tells of a disk");
        (0..40).for_each(|_| pace.note(Duration::from_micros(20)));
        assert!(!pace.is_long());
    }
}
