//! Where a request goes: to the thread of its lane, a bulk worker, or the runner where it may
//! take long.
//!
//! While a lane's thread waits for a disk, its core's queue stands still; while a bulk worker
//! does, so do the entries that came with it. So kinds of requests that took long lately go to
//! the runner, whose threads have no entries, until they are quick again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::bulk::Bulk;
use super::dispatch::{self, Kind, dispatch};
use super::ring::Ring;
use super::slot::Slot;
use crate::fuse::job::Start;
use crate::fuse::pace::Pace;
use crate::fuse::requests::Requests;

/// Handing a request over and its reply back takes some 20 µs: longer than this is worth it.
const LONG: Duration = Duration::from_micros(250);
/// The same for a megabyte, which takes a core half a millisecond to open or seal.
const LONG_LARGE: Duration = Duration::from_millis(4);

/// Who answers.
enum Route<'a> {
    Lane,
    Bulk,
    Runner(&'a Arc<Pace>),
}

/// Knows how long kinds of requests took lately, and routes by that.
pub(super) struct Router {
    requests: Arc<Requests>,
    paces: [Arc<Pace>; Kind::COUNT],
    bulk: Arc<Bulk>,
}

impl Router {
    pub(super) fn new(requests: &Arc<Requests>, bulk: &Arc<Bulk>) -> Self {
        Self { requests: requests.clone(), paces: Default::default(), bulk: bulk.clone() }
    }

    /// Of a lane's thread: answers a request that came at `now` here, or has another do it.
    pub(super) fn serve(&self, slot: Slot, now: Instant, ring: &mut Ring) {
        match self.route(&slot) {
            Route::Lane => self.run(slot, now, ring),
            Route::Bulk => self.bulk.push(slot),
            Route::Runner(pace) => self.queue(slot, pace, now, ring),
        }
    }

    /// Of a bulk worker: has the right one answer a request that came to its ring.
    pub(super) fn reroute(&self, slot: Slot, ring: &mut Ring) {
        match self.route(&slot) {
            Route::Lane => slot.forward(),
            Route::Bulk => self.bulk.enqueue_without_wake(slot),
            Route::Runner(pace) => self.queue(slot, pace, Instant::now(), ring),
        }
    }

    /// Answers a request here, where it is `now`.
    pub(super) fn run(&self, slot: Slot, now: Instant, ring: &mut Ring) {
        let kind = dispatch::kind(slot.head());
        let done = match dispatch(&self.requests, slot, Start::Here, now) {
            Some(answered) => answered.finish(|reply| ring.commit(reply)),
            None => Instant::now(),
        };
        self.paces[kind as usize].note(done.saturating_duration_since(now));
    }

    /// Has the runner answer a request. One that names nothing sensible is answered at once.
    fn queue(&self, slot: Slot, pace: &Arc<Pace>, now: Instant, ring: &mut Ring) {
        if let Some(answered) = dispatch(&self.requests, slot, Start::Runner(pace), now) {
            answered.finish(|reply| ring.commit(reply));
        }
    }

    /// Ends the bulk workers.
    pub(super) fn close(&self) {
        self.bulk.close();
    }

    fn route(&self, slot: &Slot) -> Route<'_> {
        let kind = dispatch::kind(slot.head());
        let (pace, long) = match kind {
            Kind::Bulk | Kind::LargeWrite => (&self.paces[kind as usize], LONG_LARGE),
            _ => (&self.paces[kind as usize], LONG),
        };
        match kind {
            _ if pace.is_longer(long) => Route::Runner(pace),
            Kind::Bulk => Route::Bulk,
            _ => Route::Lane,
        }
    }
}
