//! Listings: readdir and readdirplus.

use super::job::Job;
use crate::fs::{Detail, Errno, Fail, Fs, Listed};
use crate::keys::{Purpose, Want};

/// A page of a listing on its way to the kernel.
pub(super) trait Listing: Send + Sized + 'static {
    /// What it takes of each entry.
    fn detail(&self) -> Detail;
    /// Adds an entry; `false` where it finds no room.
    fn add(&mut self, entry: &Listed) -> bool;
    /// Replies with what was added.
    fn send(self);
    /// Replies with an errno.
    fn fail(self, errno: Errno);
}

/// A request for a page.
pub(super) struct List<L> {
    pub(super) handle: u64,
    pub(super) from: u64,
    pub(super) listing: L,
}

impl<L: Listing> Job for List<L> {
    fn purpose(&self) -> Purpose {
        Purpose::Use
    }

    fn run(mut self, fs: &Fs) -> Option<(Want, Self)> {
        let detail = self.listing.detail();
        let listing = &mut self.listing;
        let listed = fs.list(self.handle, self.from, detail, &mut |entry| {
            // Without attributes the kernel would take zeros for them: such an entry (a
            // damaged symlink) is looked up on its own, and answers its errno then.
            if detail == Detail::Attributes && entry.attr.is_none() {
                return true;
            }
            listing.add(entry)
        });
        match listed {
            Ok(()) => self.listing.send(),
            Err(Fail::Errno(e)) => self.listing.fail(e),
            Err(Fail::Park(want)) => return Some((want, self)),
        }
        None
    }

    fn fail(self, e: Errno) {
        self.listing.fail(e);
    }
}
