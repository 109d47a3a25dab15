//! The KMS as a mount uses it.

use std::sync::Arc;

use crate::kms::KeyService;

/// Two doors to one KMS, so that nothing that hangs or queues at one holds up
/// the other.
#[derive(Clone)]
pub struct Services {
    /// For data keys.
    pub work: Arc<dyn KeyService>,
    /// For heartbeats alone.
    pub beats: Arc<dyn KeyService>,
}

impl Services {
    /// The mount has locked: no door keeps what answers left with it.
    pub(super) fn forget(&self) {
        self.work.forget();
        self.beats.forget();
    }
}

impl<K: KeyService + 'static> From<Arc<K>> for Services {
    /// One door for both: for a KMS that never makes anyone wait.
    fn from(both: Arc<K>) -> Self {
        Self { work: both.clone(), beats: both }
    }
}
