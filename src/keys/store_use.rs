//! What a keyring may do to its store.

use std::time::Duration;

use super::volume::Accepted;

/// What a keyring may do to its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreUse {
    /// It reads. No data key is made, nothing is removed, no time is counted, and nothing at all
    /// is written.
    Reads,
    /// It makes data keys, and removes those that nothing refers to.
    Writes {
        /// The keys of removed files stay so long, in time that the volume is mounted.
        removed_keys: Duration,
    },
}

impl StoreUse {
    /// Whether the KMS is asked for new data keys: to be used, or to see which master key they
    /// come under, for only that answer says where an alias leads.
    pub(super) fn asks_for_data_keys(self, accepted: Accepted) -> bool {
        self != Self::Reads || accepted == Accepted::Target
    }
}
