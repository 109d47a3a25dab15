//! What the lock needs of the layers above.

use std::time::Duration;

use super::phase::Phase;
use crate::clock::Moment;
use crate::kms::KmsError;
use crate::names::VolumeKeys;

/// What the monitor has done to the mount. Implemented by the daemon, over the kernel.
pub trait Effects: Send + Sync {
    /// How long a lock would take now, by what the kernel holds.
    fn lock_time(&self) -> LockTime;
    /// Invalidates the page cache of every inode, dirty pages saved first, until `deadline`.
    fn drain(&self, deadline: Moment);
    /// The gate is closed, and the store holds up somebody who is inside: invalidates what takes
    /// neither the store nor a request, every inode's attributes. Without them the kernel answers
    /// for no path.
    fn hide(&self);
    /// The gate is closed, and nobody is inside: invalidates what the kernel may have got since, and
    /// every name.
    fn seal(&self, names: &VolumeKeys);
    /// Tells the operator where the mount stands.
    fn announce(&self, phase: Phase, why: Option<&KmsError>);
    /// The monitor is at work. Called at each turn of its loop, some ten times a second.
    fn at_work(&self);
}

/// How long a lock would take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockTime {
    /// Saving dirty pages, and invalidating every page.
    pub drain: Duration,
    /// With the gate closed: a second pass, and every name.
    pub seal: Duration,
}
