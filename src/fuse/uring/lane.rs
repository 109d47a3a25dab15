//! A lane: the entries of one core's queue, whose thread serves them, and the thread's mailbox.

use std::io;
use std::sync::Arc;

use super::bell::Bell;
use super::mailbox::Mailbox;
use super::memory::Memory;

/// All lanes of a mount.
pub(super) type Lanes = Arc<[Arc<Lane>]>;

/// Which entry, of which lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryId {
    pub(super) lane: u16,
    pub(super) index: u32,
}

impl EntryId {
    /// As a completion names it.
    pub(super) fn data(self) -> u64 {
        u64::from(self.lane) << 32 | u64::from(self.index)
    }

    pub(super) fn of(data: u64) -> Self {
        Self { lane: (data >> 32) as u16, index: data as u32 }
    }

    /// Which of its lane's entries it is.
    pub(super) fn index(self) -> usize {
        self.index as usize
    }
}

/// A reply that lies in an entry and is to be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PendingReply {
    pub(super) entry: EntryId,
    pub(super) commit_id: u64,
}

/// A core's entries; see above.
pub(super) struct Lane {
    pub(super) number: u16,
    pub(super) memory: Memory,
    /// The kernel's queue of each entry.
    pub(super) queues: Vec<u16>,
    pub(super) mailbox: Mailbox<PendingReply, EntryId, Arc<Bell>>,
}

impl Lane {
    /// Of entries of these queues.
    pub(super) fn new(number: u16, queues: Vec<u16>, payload: usize) -> io::Result<Self> {
        Ok(Self {
            number,
            memory: Memory::new(queues.len(), payload)?,
            queues,
            mailbox: Mailbox::new(Arc::new(Bell::new()?)),
        })
    }

    /// What wakes its thread.
    pub(super) fn bell(&self) -> Arc<Bell> {
        self.mailbox.owner().clone()
    }
}
