//! A ring entry while it holds a request: whoever has the slot has the entry's memory alone,
//! until the reply is sent.

use std::sync::Arc;

use super::abi::{self, Head, Out};
use super::lane::{EntryId, Lane, PendingReply};
use crate::fs::{Detail, Errno, Fail, Listed, Outcome};
use crate::fuse::content::{Sink, Source};
use crate::fuse::listing::Listing;
use crate::fuse::reply::Sent;
use crate::fuse::runner::RunnerThread;
use crate::secret::wipe;

/// An entry that is not the kernel's. No program may wait for ever: where its request is not
/// answered, or its reply is not sent, the lane's thread is left an errno or the reply.
struct RingEntry {
    lane: Arc<Lane>,
    id: EntryId,
    unique: u64,
    commit_id: u64,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// The request is not answered.
    Asked,
    /// A reply lies there.
    Answered(Says),
    /// The kernel has it, or the lane's thread.
    GivenAway,
}

/// Whether a reply has a payload.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Says {
    Something,
    /// An errno, or that something was done.
    Nothing,
}

impl RingEntry {
    fn answer(&mut self, outcome: Result<usize, Errno>) {
        abi::reply(self.lane.memory.headers_mut(self.id.index()), self.unique, outcome);
        let len = outcome.unwrap_or(0);
        self.lane.memory.note_used(self.id.index(), len);
        self.state = State::Answered(if len > 0 { Says::Something } else { Says::Nothing });
    }

    fn give_away(&mut self) -> PendingReply {
        self.state = State::GivenAway;
        PendingReply { entry: self.id, commit_id: self.commit_id }
    }
}

impl Drop for RingEntry {
    fn drop(&mut self) {
        if self.state == State::Asked {
            self.answer(Err(Errno(libc::EIO)));
        }
        if let State::Answered(_) = self.state {
            let reply = self.give_away();
            self.lane.mailbox.post(reply);
        }
    }
}

/// A request in an entry. Dropped without a reply, it answers EIO.
pub(super) struct Slot {
    entry: RingEntry,
    head: Head,
}

/// A reply in an entry, which the thread that has it sends. Dropped, it is sent by the lane's
/// thread.
pub(super) struct RingReply(RingEntry);

impl RingReply {
    /// Whose entry it lies in, and what to commit there.
    pub(super) fn into_parts(mut self) -> (Arc<Lane>, PendingReply) {
        let reply = self.0.give_away();
        (self.0.lane.clone(), reply)
    }

    /// The lane of its entry.
    pub(super) fn lane(&self) -> &Lane {
        &self.0.lane
    }
}

impl Sent for RingReply {
    fn send_and_wait(mut self, thread: &RunnerThread) {
        // Where it says nothing, a lock may be complete before it is sent.
        if self.0.state == State::Answered(Says::Something) {
            let reply = self.0.give_away();
            self.0.lane.mailbox.post_and_wait(reply, thread);
        }
    }

    /// By dropping it.
    fn send_refusal(self) {}
}

impl Slot {
    /// The request that the kernel has put into an entry.
    pub(super) fn new(lane: Arc<Lane>, id: EntryId) -> Self {
        let headers = lane.memory.headers(id.index());
        let (head, state) = (Head::parse(headers), State::Asked);
        let (unique, commit_id) = (abi::unique(headers), abi::commit_id(headers));
        lane.memory.begin(id.index(), head.payload);
        Self { entry: RingEntry { lane, id, unique, commit_id, state }, head }
    }

    /// Has the thread of its lane answer it.
    pub(super) fn forward(mut self) {
        let RingEntry { lane, id, .. } = &self.entry;
        // Where the thread has ended, so has the connection.
        let _ = lane.mailbox.forward(*id);
        self.entry.state = State::GivenAway;
    }

    fn index(&self) -> usize {
        self.entry.id.index()
    }

    pub(super) fn head(&self) -> &Head {
        &self.head
    }

    /// What came behind the headers.
    pub(super) fn payload(&self) -> &[u8] {
        let all = self.entry.lane.memory.payload(self.index());
        &all[..self.head.payload.min(all.len())]
    }

    fn room(&mut self) -> &mut [u8] {
        self.entry.lane.memory.payload_mut(self.index())
    }

    /// Replies with what `fill` puts together, or an errno.
    pub(super) fn answer<A>(
        mut self,
        outcome: Result<A, Errno>,
        fill: impl FnOnce(&mut Out, A),
    ) -> RingReply {
        let outcome = outcome.map(|answer| {
            let mut out = Out::new(self.room());
            fill(&mut out, answer);
            out.len()
        });
        self.finish(outcome)
    }

    /// Replies with what lies in the payload.
    pub(super) fn finish(mut self, outcome: Result<usize, Errno>) -> RingReply {
        self.entry.answer(outcome);
        RingReply(self.entry)
    }
}

impl Sink for Slot {
    type Sent = RingReply;

    fn fill(
        mut self,
        size: usize,
        read: impl FnOnce(&mut [u8]) -> Outcome<usize>,
    ) -> Result<RingReply, (Fail, Self)> {
        let (index, room) = (self.index(), self.room());
        let size = size.min(room.len());
        match read(&mut room[..size]) {
            Ok(n) => {
                self.entry.lane.memory.note_used(index, size);
                Ok(self.finish(Ok(n)))
            }
            Err(fail) => {
                if matches!(fail, Fail::Errno(_)) {
                    wipe(&mut room[..size]);
                } else {
                    self.entry.lane.memory.note_used(index, size);
                }
                Err((fail, self))
            }
        }
    }

    fn fail(self, errno: Errno) -> RingReply {
        self.finish(Err(errno))
    }
}

/// What a write brought stays where it is, parked or not.
impl Source for Slot {
    type Sent = RingReply;

    fn data(&self) -> &[u8] {
        self.payload()
    }

    fn reply(self, outcome: Result<u32, Errno>) -> RingReply {
        self.entry.lane.memory.wipe(self.index());
        self.answer(outcome, |out, n| out.number(n))
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
    type Sent = RingReply;

    fn detail(&self) -> Detail {
        self.detail
    }

    fn add(&mut self, e: &Listed) -> bool {
        let found = match self.detail {
            Detail::Names => None,
            Detail::Attributes => e.found.as_ref(),
        };
        let (len, limit) = (self.len, self.limit);
        let mut out = Out::new(&mut self.slot.room()[len..]);
        let added = out.listed(e, found, limit.saturating_sub(len));
        self.len += out.len();
        added
    }

    fn send(self) -> RingReply {
        let len = self.len;
        self.slot.finish(Ok(len))
    }

    fn fail(self, errno: Errno) -> RingReply {
        self.slot.entry.lane.memory.note_used(self.slot.index(), self.len);
        self.slot.finish(Err(errno))
    }
}
