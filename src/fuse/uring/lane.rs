//! A lane: the entries of one core's queue, whose thread serves them, and what other threads
//! have for it.

use std::io;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::bell::Bell;
use super::memory::Memory;
use super::slot::Slot;

/// All lanes of a mount.
pub(super) type Lanes = Arc<[Arc<Lane>]>;

/// Which entry, of which lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) lane: u16,
    pub(super) index: u32,
}

impl Place {
    /// As a completion tells of it.
    pub(super) fn data(self) -> u64 {
        u64::from(self.lane) << 32 | u64::from(self.index)
    }

    pub(super) fn of(data: u64) -> Self {
        Self { lane: (data >> 32) as u16, index: data as u32 }
    }
}

/// A reply that lies ready in an entry.
#[derive(Clone, Copy)]
pub(super) struct Ready {
    pub(super) place: Place,
    pub(super) commit_id: u64,
    /// How many bytes of the payload it has.
    pub(super) len: usize,
}

#[derive(Default)]
struct Inbox {
    ready: Vec<Ready>,
    requests: Vec<Slot>,
    put: u64,
    sent: u64,
    closed: bool,
}

/// See the module's description.
pub(super) struct Lane {
    pub(super) number: u16,
    pub(super) memory: Memory,
    /// The kernel's queue of each entry.
    pub(super) queues: Vec<u16>,
    pub(super) bell: Arc<Bell>,
    inbox: Mutex<Inbox>,
    sent: Condvar,
}

impl Lane {
    /// Of entries of these queues.
    pub(super) fn new(number: u16, queues: Vec<u16>, payload: usize) -> io::Result<Self> {
        Ok(Self {
            number,
            memory: Memory::new(queues.len(), payload)?,
            queues,
            bell: Arc::new(Bell::new()?),
            inbox: Mutex::default(),
            sent: Condvar::new(),
        })
    }

    /// Has the lane's thread send a reply. One that says something is waited for: the caller
    /// holds a pass of the gate, and a lock must not be complete before it is sent. An error or
    /// an empty one is not, for it may come from a thread that must never wait.
    pub(super) fn put(&self, ready: Ready) {
        let mut inbox = self.inbox.lock();
        if inbox.closed {
            return;
        }
        inbox.ready.push(ready);
        inbox.put += 1;
        let ticket = inbox.put;
        self.bell.ring();
        if ready.len > 0 {
            while inbox.sent < ticket && !inbox.closed {
                self.sent.wait(&mut inbox);
            }
        }
    }

    /// Has the lane's thread answer a request of its own core that came elsewhere.
    pub(super) fn hand(&self, slot: Slot) {
        let mut inbox = self.inbox.lock();
        if inbox.closed {
            drop(inbox); // The slot answers for itself, through `put`.
            return;
        }
        inbox.requests.push(slot);
        self.bell.ring();
    }

    /// The replies and the requests that other threads have put here.
    pub(super) fn take(&self) -> (Vec<Ready>, Vec<Slot>) {
        let mut inbox = self.inbox.lock();
        (std::mem::take(&mut inbox.ready), std::mem::take(&mut inbox.requests))
    }

    /// So many of them have been sent.
    pub(super) fn note_sent(&self, replies: usize) {
        self.inbox.lock().sent += replies as u64;
        self.sent.notify_all();
    }

    /// The thread has ended: the connection is gone, and nobody waits for replies any more.
    pub(super) fn close(&self) {
        let mut inbox = self.inbox.lock();
        inbox.closed = true;
        let requests = std::mem::take(&mut inbox.requests);
        drop(inbox);
        self.sent.notify_all();
        drop(requests); // Each answers for itself, through `put`.
    }
}
