//! Listings: readdir and readdirplus.

use super::job::{Job, Progress};
use super::reply::Sent;
use super::shared::Shared;
use crate::fs::{Detail, Errno, Listed, Visit, Who};
use crate::keys::Purpose;

/// A page of a listing on its way to the kernel.
pub(super) trait Listing: Send + Sized + 'static {
    /// Its reply.
    type Sent: Sent;
    /// What it takes of each entry.
    fn detail(&self) -> Detail;
    /// Adds an entry; `false` where it finds no room.
    fn add(&mut self, entry: &Listed) -> bool;
    /// Replies with what was added.
    fn send(self) -> Self::Sent;
    /// Replies with an errno.
    fn fail(self, errno: Errno) -> Self::Sent;
}

/// A request for a page.
pub(super) struct List<L> {
    pub(super) handle: u64,
    pub(super) from: u64,
    pub(super) who: Who,
    pub(super) listing: L,
}

impl<L: Listing> Job for List<L> {
    type Sent = L::Sent;

    fn purpose(&self) -> Option<Purpose> {
        Some(Purpose::Use)
    }

    fn who(&self) -> Who {
        self.who
    }

    fn run(mut self, shared: &Shared) -> Progress<Self> {
        let detail = self.listing.detail();
        let listing = &mut self.listing;
        let listed = shared.fs.list(self.handle, &mut self.from, detail, &mut |entry| {
            // Without attributes the kernel would take zeros for them: such an entry (a
            // damaged symlink) is looked up on its own, and answers its errno then.
            if detail == Detail::Attributes && entry.found.is_none() {
                return Visit::LeftOut;
            }
            if listing.add(entry) { Visit::Taken } else { Visit::NoRoom }
        });
        match listed {
            Ok(_) => Progress::Replied(self.listing.send()),
            Err(fail) => Progress::of(fail, self),
        }
    }

    fn fail(self, e: Errno) -> L::Sent {
        self.listing.fail(e)
    }
}
