//! What keys came from: which master key the KMS answered for a file, or for the branch key in
//! between.

use std::sync::{Arc, OnceLock};

use lru::LruCache;
use parking_lot::Mutex;

use super::queue::AuditQueue;
use crate::ids::{BranchId, FileId};
use crate::kms::KeyArn;

/// Files that are remembered: more than have their key in memory.
const MOST_FILES: usize = 65_536;
/// Branch keys that are.
const MOST_BRANCHES: usize = 4096;

#[derive(Clone)]
enum Origin {
    Master(Arc<str>),
    Branch(BranchId),
}

struct Known {
    last: Option<Arc<str>>,
    files: LruCache<FileId, Origin>,
    branches: LruCache<BranchId, Arc<str>>,
}

impl Known {
    /// A master key's name, shared with the last one where it is the same.
    fn name_of(&mut self, master: &KeyArn) -> Arc<str> {
        let known = self.last.clone().filter(|last| **last == *master.0);
        let name = known.unwrap_or_else(|| Arc::from(master.0.as_str()));
        self.last = Some(name.clone());
        name
    }

    fn file(&mut self, file: FileId, origin: Origin) {
        self.files.put(file, origin);
        if self.files.len() > MOST_FILES {
            self.files.pop_lru();
        }
    }
}

/// The master key, or the branch key, that the key of each file came from. The oldest are forgotten where they are very many.
pub(super) struct Origins(Mutex<Known>);

impl Default for Origins {
    fn default() -> Self {
        let (files, branches) = (LruCache::unbounded(), LruCache::unbounded());
        Self(Mutex::new(Known { last: None, files, branches }))
    }
}

impl Origins {
    /// The branch key of a file, where it has one, and the master key; `None` where unknown.
    pub(super) fn of(&self, file: FileId) -> (Option<BranchId>, Option<Arc<str>>) {
        let mut known = self.0.lock();
        match known.files.get(&file).cloned() {
            None => (None, None),
            Some(Origin::Master(master)) => (None, Some(master)),
            Some(Origin::Branch(branch)) => (Some(branch), known.branches.get(&branch).cloned()),
        }
    }

    /// The KMS gave a file's key under this master key.
    pub(super) fn file_under(&self, file: FileId, master: &KeyArn) {
        let mut known = self.0.lock();
        let name = known.name_of(master);
        known.file(file, Origin::Master(name));
    }

    /// A branch key gave a file's key.
    pub(super) fn file_by(&self, file: FileId, branch: BranchId) {
        self.0.lock().file(file, Origin::Branch(branch));
    }

    /// The KMS gave a branch key under this master key.
    pub(super) fn branch_under(&self, branch: BranchId, master: &KeyArn) {
        let mut known = self.0.lock();
        let name = known.name_of(master);
        known.branches.put(branch, name);
        if known.branches.len() > MOST_BRANCHES {
            known.branches.pop_lru();
        }
    }
}

/// Where the keyring tells which branch key a file's key came from, if anywhere: the KMS, and so
/// the log, is not asked for it.
#[derive(Default)]
pub(in crate::keys) struct BranchOrigins(OnceLock<Arc<AuditQueue>>);

impl BranchOrigins {
    /// Where it is told from now on.
    pub(in crate::keys) fn tell_to(&self, audit_queue: &Arc<AuditQueue>) {
        let _ = self.0.set(audit_queue.clone());
    }

    /// The key of this file came from this branch key.
    pub(in crate::keys) fn tell(&self, branch: BranchId, file: FileId) {
        if let Some(audit_queue) = self.0.get() {
            audit_queue.origins.file_by(file, branch);
        }
    }
}
