//! A lane: the entries that one thread serves, and replies from other threads on their way to it.

use std::io;
use std::os::fd::OwnedFd;

use parking_lot::{Condvar, Mutex};
use rustix::event::{EventfdFlags, eventfd};

use super::memory::Memory;

/// A reply that lies ready in an entry.
#[derive(Clone, Copy)]
pub(super) struct Ready {
    pub(super) index: usize,
    pub(super) commit_id: u64,
    /// How many bytes of the payload it has.
    pub(super) len: usize,
}

#[derive(Default)]
struct Inbox {
    ready: Vec<Ready>,
    put: u64,
    sent: u64,
    closed: bool,
}

/// See the module's description.
pub(super) struct Lane {
    pub(super) memory: Memory,
    /// The kernel's queue of each entry.
    pub(super) queues: Vec<u16>,
    /// Written to, it wakes the thread.
    pub(super) bell: OwnedFd,
    inbox: Mutex<Inbox>,
    sent: Condvar,
}

impl Lane {
    /// Of entries of these queues.
    pub(super) fn new(queues: Vec<u16>, payload: usize) -> io::Result<Self> {
        Ok(Self {
            memory: Memory::new(queues.len(), payload)?,
            queues,
            bell: eventfd(0, EventfdFlags::CLOEXEC)?,
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
        // It cannot fail but by overflow, and then the thread is awake.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        if ready.len > 0 {
            while inbox.sent < ticket && !inbox.closed {
                self.sent.wait(&mut inbox);
            }
        }
    }

    /// The replies of other threads.
    pub(super) fn take(&self) -> Vec<Ready> {
        std::mem::take(&mut self.inbox.lock().ready)
    }

    /// So many of them have been sent.
    pub(super) fn note_sent(&self, replies: usize) {
        self.inbox.lock().sent += replies as u64;
        self.sent.notify_all();
    }

    /// The thread has ended: the connection is gone, and nobody waits for replies any more.
    pub(super) fn close(&self) {
        self.inbox.lock().closed = true;
        self.sent.notify_all();
    }
}
