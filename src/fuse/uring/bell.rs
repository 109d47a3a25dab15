//! Wakes a thread that waits on its ring.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use io_uring::types::Fd;
use rustix::event::{EventfdFlags, eventfd};

use super::mailbox::Wake;

/// An eventfd that a ring's thread has a read of in its ring.
pub(super) struct Bell(OwnedFd);

impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC)?))
    }

    /// What the thread reads from, in its ring.
    pub(super) fn fd(&self) -> Fd {
        Fd(self.0.as_raw_fd())
    }
}

impl Wake for Arc<Bell> {
    fn wake(&self) {
        // It cannot fail but by overflow, and then the thread is awake.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
