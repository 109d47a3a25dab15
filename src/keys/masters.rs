//! The master keys that files are under besides the volume's own, each with a canary.
//!
//! A heartbeat tests the key that the volume key is under and the one that new data keys come
//! under. Files may lie under others: an alias was moved twice, or a rewrap is not done. What was
//! read of those is to go as well when their key is disabled.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::kms::{Context, KeyArn, Wrapped};

/// More than so many are not tested. Each costs a call of the KMS at every heartbeat.
const MOST: usize = 64;

/// A wrapped key of some file or branch, to test its master key with.
#[derive(Clone)]
pub(super) struct Canary {
    pub(super) master: KeyArn,
    pub(super) wrapped: Wrapped,
    pub(super) context: Context,
}

/// What is known of the master keys in use. It stays while the volume is mounted: the kernel may
/// hold pages of a file for as long.
#[derive(Default)]
pub(super) struct Masters(Mutex<HashMap<KeyArn, (Wrapped, Context)>>);

impl Masters {
    /// A key under this master key was made or unwrapped.
    pub(super) fn saw(&self, master: &KeyArn, wrapped: &Wrapped, context: &Context) {
        let mut known = self.0.lock();
        if known.len() < MOST && !known.contains_key(master) {
            known.insert(master.clone(), (wrapped.clone(), context.clone()));
        }
    }

    /// Those that `tested` does not name.
    pub(super) fn others(&self, tested: &[KeyArn]) -> Vec<Canary> {
        let known = self.0.lock();
        let others = known.iter().filter(|(master, _)| !tested.contains(master));
        let canary = |(master, (wrapped, context)): (&KeyArn, &(Wrapped, Context))| Canary {
            master: master.clone(),
            wrapped: wrapped.clone(),
            context: context.clone(),
        };
        others.map(canary).collect()
    }

    /// Nothing under this master key is in use any more.
    pub(super) fn forget(&self, master: &KeyArn) {
        self.0.lock().remove(master);
    }
}
