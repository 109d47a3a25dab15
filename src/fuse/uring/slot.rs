//! A ring entry while it holds a request: whoever has the slot has the entry's memory alone,
//! until the reply is sent.

use std::sync::Arc;

use super::abi::{self, Head, Out};
use super::lane::{Lane, Place, Ready};
use crate::fs::{Detail, Errno, Fail, Listed, Outcome};
use crate::fuse::job::{Sink, Source};
use crate::fuse::listing::Listing;
use crate::secret::wipe;

/// See the module's description. Dropped without a reply, it answers EIO: no program may wait
/// for ever.
pub(super) struct Slot {
    lane: Arc<Lane>,
    place: Place,
    head: Head,
    sent: bool,
}

impl Slot {
    /// The request that the kernel has put into an entry.
    pub(super) fn new(lane: Arc<Lane>, place: Place) -> Self {
        let head = Head::parse(lane.memory.headers(place.index as usize));
        Self { lane, place, head, sent: false }
    }

    /// The lane that its entry is of.
    pub(super) fn lane(&self) -> Arc<Lane> {
        self.lane.clone()
    }

    fn index(&self) -> usize {
        self.place.index as usize
    }

    pub(super) fn head(&self) -> &Head {
        &self.head
    }

    /// What came behind the headers.
    pub(super) fn payload(&self) -> &[u8] {
        let all = self.lane.memory.payload(self.index());
        &all[..self.head.payload.min(all.len())]
    }

    fn room(&mut self) -> &mut [u8] {
        self.lane.memory.payload_mut(self.index())
    }

    /// Replies with what `fill` puts together, or an errno.
    pub(super) fn answer<A>(mut self, outcome: Result<A, Errno>, fill: impl FnOnce(&mut Out, A)) {
        let outcome = outcome.map(|answer| {
            let mut out = Out::new(self.room());
            fill(&mut out, answer);
            out.len()
        });
        self.send(outcome);
    }

    /// Replies with an errno.
    pub(super) fn error(self, errno: i32) {
        self.send(Err(Errno(errno)));
    }

    /// Sends what lies in the payload.
    fn send(mut self, outcome: Result<usize, Errno>) {
        self.finish(outcome);
    }

    fn finish(&mut self, outcome: Result<usize, Errno>) {
        self.sent = true;
        abi::reply(self.lane.memory.headers_mut(self.index()), self.head.unique, outcome);
        let (place, commit_id) = (self.place, self.head.commit_id);
        let ready = Ready { place, commit_id, len: outcome.unwrap_or(0) };
        super::ring::commit(&self.lane, ready);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.sent {
            self.finish(Err(Errno(libc::EIO)));
        }
    }
}

impl Sink for Slot {
    fn fill(
        mut self,
        size: usize,
        read: impl FnOnce(&mut [u8]) -> Outcome<usize>,
    ) -> Result<(), (Fail, Self)> {
        let room = self.room();
        let size = size.min(room.len());
        match read(&mut room[..size]) {
            Ok(n) => {
                self.send(Ok(n));
                Ok(())
            }
            Err(fail) => {
                if matches!(fail, Fail::Errno(_)) {
                    wipe(&mut room[..size]);
                }
                Err((fail, self))
            }
        }
    }

    fn fail(self, errno: Errno) {
        self.send(Err(errno));
    }
}

/// What a write brought stays where it is, parked or not.
impl Source for Slot {
    fn data(&self) -> &[u8] {
        self.payload()
    }

    fn reply(self, outcome: Result<u32, Errno>) {
        let brought = self.payload().len();
        self.lane.memory.forget(self.index(), brought);
        self.answer(outcome, |out, n| out.number(n));
    }
}

/// A page of a listing in a slot.
pub(super) struct Page {
    pub(super) slot: Slot,
    pub(super) detail: Detail,
    /// How much the kernel has room for.
    pub(super) limit: usize,
    pub(super) len: usize,
}

impl Listing for Page {
    fn detail(&self) -> Detail {
        self.detail
    }

    fn add(&mut self, e: &Listed) -> bool {
        let attr = match self.detail {
            Detail::Names => None,
            Detail::Attributes => e.attr.as_ref(),
        };
        let (len, limit) = (self.len, self.limit);
        let mut out = Out::new(&mut self.slot.room()[len..]);
        let added = out.listed(e, attr, limit.saturating_sub(len));
        self.len += out.len();
        added
    }

    fn send(self) {
        let len = self.len;
        self.slot.send(Ok(len));
    }

    fn fail(self, errno: Errno) {
        self.slot.send(Err(errno));
    }
}
