//! A filesystem in memory, for tests: it can be cut off at any moment, and shows every state
//! that a disk may then be in; it can fail any operation, and run full.
//!
//! What a power cut keeps:
//! - of a file, see `pages`: a prefix of its size changes and any version of each page;
//! - of the entries of a directory (link, unlink, rename, symlink, mkdir), a prefix of the
//!   changes since its last sync; a rename between two directories is in both prefixes or in
//!   neither. A symlink's target is part of its entry;
//! - modes, owners, times and extended attributes are taken as durable at once.
//!
//! Permissions are not enforced.

mod attributes;
mod crash;
mod dir;
mod file;
mod pages;
mod world;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

pub use crash::CrashSpace;
use dir::SimDir;
use world::World;

use super::Dir;

/// A simulated filesystem. Clones share it; [`Sim::fork`] does not.
#[derive(Clone, Debug)]
pub struct Sim(Arc<Mutex<World>>);

impl Default for Sim {
    fn default() -> Self {
        Self::new()
    }
}

impl Sim {
    /// An empty filesystem without limits.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(World::new())))
    }

    /// Its top directory.
    pub fn root(&self) -> Dir {
        self.0.lock().hold(world::ROOT);
        Arc::new(SimDir::new(self.0.clone(), world::ROOT))
    }

    /// A copy that goes its own way, un-synced changes included; open files stay with this one.
    #[must_use]
    pub fn fork(&self) -> Self {
        let mut world = self.0.lock().clone();
        world.begin_copy();
        Self(Arc::new(Mutex::new(world)))
    }

    /// Keeps a copy before each sync from now on, and answers those kept since the last call.
    /// Their crash states and those of the present are all that a power cut may leave in between.
    pub fn moments(&self) -> Vec<Self> {
        let kept = self.0.lock().keep_moments();
        kept.into_iter().map(|world| Self(Arc::new(Mutex::new(world)))).collect()
    }

    /// What a power cut at this moment may leave.
    pub fn crash(&self) -> CrashSpace {
        CrashSpace::of(&self.0.lock())
    }

    /// Makes the `n`th operation from now (the next is 1) fail with this errno, and only that.
    pub fn fail_at(&self, n: u64, errno: i32) {
        self.0.lock().fail_at(n, 0, errno);
    }

    /// Makes the `n`th operation from now and all after it fail with this errno: what is changed
    /// by then is what a power cut before that operation leaves, where changes are durable at once.
    pub fn fail_from(&self, n: u64, errno: i32) {
        self.0.lock().fail_at(n, u64::MAX, errno);
    }

    /// Gives the number of an inode that has neither a name nor a descriptor any more to the next
    /// one, from now on, as ext4 does. Entry changes are durable at once then: after a power cut an
    /// inode has to be the one that its entries meant.
    pub fn reuse_numbers(&self) {
        self.0.lock().reuse_numbers();
    }

    /// How many inodes have no name. Where numbers are reused, a descriptor holds each.
    pub fn orphans(&self) -> usize {
        self.0.lock().orphans()
    }

    /// How many operations there have been.
    pub fn operations(&self) -> u64 {
        self.0.lock().operations()
    }

    /// Has each operation take this long from now on.
    pub fn slow(&self, delay: Duration) {
        self.0.lock().delay = delay;
    }

    /// Lifts what [`Sim::fail_at`], [`Sim::fail_from`] and [`Sim::limit_space`] asked for.
    pub fn clear_faults(&self) {
        let mut world = self.0.lock();
        world.clear_fault();
        world.space = None;
    }

    /// Gives the extended attributes of an inode this much room, in bytes, 16 of which each takes
    /// besides its name and value; `None` for no limit. Beyond it setting one fails with ENOSPC.
    pub fn limit_attributes(&self, room: Option<usize>) {
        self.0.lock().attribute_room = room;
    }

    /// Leaves space for this many more pages of files; `None` for no limit. Beyond it a write
    /// puts down what fits and fails with ENOSPC.
    pub fn limit_space(&self, pages: Option<u64>) {
        self.0.lock().space = pages;
    }
}

#[cfg(test)]
mod tests;
