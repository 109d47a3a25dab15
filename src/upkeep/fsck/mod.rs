//! Checking a store that is not mounted: all of it is read, and what can be repaired without
//! losing anything is repaired when asked.
//!
//! A check writes nothing. It walks the tree as it lies on disk, not through [`crate::fs`]: what
//! a mount leaves out (names that do not decrypt) is what is looked for here, and a directory
//! that a mount would give a fresh id is only reported. What the files refer to is remembered, by
//! ids of sixteen bytes; then what lies beside the tree is compared with it.
//!
//! Wrapped keys, branch keys and bodies that nothing refers to are removed only where the
//! tree has no damage: a file that cannot be read may be what they belong to.

mod content;
mod finding;
mod key;
mod meta;
mod repair;
mod stack;
mod twin;
mod volume;
mod walk;
mod xattrs;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;

use parking_lot::Mutex;

pub use finding::{BadHeader, Finding, Kind, NoKey, Place, Problem, Text};
pub use repair::{Checked, Repaired};

use crate::disk;
use crate::ids::{FileId, LinkId};
use crate::keys::{Accepted, Keyring, OpenError, Services, StoreUse};
use crate::kms::{KeyArn, KeyService, KmsError};
use crate::names::VolumeKeys;
use crate::store::{Names, Store};
use crate::threads::{Role, spawn_in};
use repair::{Repair, Todo};
use walk::{FileJob, Walk};

/// Files that wait for a thread.
const WAITING: usize = 64;
/// More master keys than this are not remembered as refused: the store names them.
const MOST_REFUSED: usize = 64;

/// Why a check stopped: what it had not seen yet, nothing can be said of.
#[derive(Debug, thiserror::Error)]
pub enum FsckError {
    /// The KMS refuses, or gives no answer that counts.
    #[error(transparent)]
    Kms(#[from] KmsError),
    /// The volume's keys were dropped.
    #[error("the keys of the volume are gone")]
    Closed,
    /// What was written to the store cannot be made durable; nothing is removed before it is.
    #[error("syncfs of the store: {0}")]
    Sync(#[source] std::io::Error),
    /// Root cannot write as the store's owner.
    #[error("the owner of the store: {0}")]
    Owner(#[source] std::io::Error),
    /// No thread to check files with.
    #[error("a thread cannot be started: {0}")]
    Thread(#[source] std::io::Error),
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Regular files.
    pub files: u64,
    /// Bytes read of them, as they lie on disk.
    pub bytes: u64,
    /// Findings that are damage.
    pub damage: u64,
    /// Findings that are harmless.
    pub leftovers: u64,
}

/// A store that is checked. While it is open nobody can mount it.
pub struct Fsck {
    store: Arc<Store>,
    keyring: Keyring,
    service: Arc<dyn KeyService>,
    /// What is wrong with the copies of `volume.json`.
    found: Vec<Todo>,
    _lock: disk::File,
}

impl Fsck {
    /// The tree that it checks.
    pub fn tree(&self) -> &disk::Dir {
        self.store.tree()
    }

    /// Opens the store at a path. Nothing is written.
    ///
    /// # Errors
    /// [`OpenError`]; `Busy` while it is mounted.
    pub fn open(path: &Path, services: impl Into<Services>) -> Result<Self, OpenError> {
        Self::over(Store::open_path(path)?, services)
    }

    /// As [`Fsck::open`], of an open store.
    ///
    /// # Errors
    /// As [`Fsck::open`].
    pub fn over(store: Store, services: impl Into<Services>) -> Result<Self, OpenError> {
        let services = services.into();
        let store = Arc::new(store);
        let lock = store.lock()?;
        let service = services.work.clone();
        let (opened, found) = volume::open(&store, &*service)?;
        let volume = opened.volume;
        if volume.accepted() == Accepted::Target {
            volume.find_target(&*service)?;
        }
        let keyring =
            super::keyring(volume, opened.names, store.clone(), services, StoreUse::Reads);
        Ok(Self { store, keyring, service, found, _lock: lock })
    }

    /// Checks everything. `report` gets each finding as it is made, from several threads;
    /// `progress` how many more bytes have been read.
    ///
    /// # Errors
    /// [`FsckError`].
    pub fn check(
        &self,
        report: &(dyn Fn(&Finding) + Sync),
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Checked, FsckError> {
        let names = self.keyring.names().map_err(|_| FsckError::Closed)?;
        let job = Job::new(self, names, report, progress);
        self.found.iter().for_each(|todo| job.found(todo.clone()));
        job.tree();
        if !job.is_stopped() {
            twin::check(&job);
        }
        let is_whole = job.count(Kind::Damage) == self.damaged_copies();
        if !job.is_stopped() {
            meta::check(&job);
        }
        job.ended(is_whole)
    }

    fn damaged_copies(&self) -> u64 {
        self.found.iter().filter(|t| t.finding.what.kind() == Kind::Damage).count() as u64
    }
}

/// A check that goes on.
struct Job<'a> {
    fsck: &'a Fsck,
    names: Arc<VolumeKeys>,
    report: &'a (dyn Fn(&Finding) + Sync),
    progress: &'a (dyn Fn(u64) + Sync),
    files: AtomicU64,
    bytes: AtomicU64,
    damage: AtomicU64,
    leftovers: AtomicU64,
    todo: Mutex<Vec<Todo>>,
    /// What headers say, of all files.
    ids: Mutex<HashSet<FileId>>,
    /// Files that have the id of one before them.
    twins: Mutex<twin::Found>,
    /// What long symlinks lead to.
    bodies: Mutex<HashSet<LinkId>>,
    /// Master keys that the KMS refuses while it gives the volume's.
    refused: Mutex<HashSet<KeyArn>>,
    stopped: AtomicBool,
    why: Mutex<Option<FsckError>>,
}

impl<'a> Job<'a> {
    fn new(
        fsck: &'a Fsck,
        names: Arc<VolumeKeys>,
        report: &'a (dyn Fn(&Finding) + Sync),
        progress: &'a (dyn Fn(u64) + Sync),
    ) -> Self {
        Self {
            fsck,
            names,
            report,
            progress,
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            damage: AtomicU64::new(0),
            leftovers: AtomicU64::new(0),
            todo: Mutex::default(),
            ids: Mutex::default(),
            twins: Mutex::default(),
            bodies: Mutex::default(),
            refused: Mutex::default(),
            stopped: AtomicBool::new(false),
            why: Mutex::default(),
        }
    }

    /// Walks the tree on this thread, and has files read by others.
    fn tree(&self) {
        let service = &self.fsck.service;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (queue, waiting) = mpsc::sync_channel::<FileJob>(WAITING);
        let waiting = Mutex::new(waiting);
        let work = || {
            let mut reader = content::Reader::new(self);
            loop {
                let next = waiting.lock().recv();
                let Ok(file) = next else { return };
                if !self.is_stopped() {
                    reader.check(&file);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..service.parallelism().max(cores) {
                if let Err(e) = spawn_in(scope, Role::Fsck, work) {
                    return self.stop(FsckError::Thread(e));
                }
            }
            Walk::new(self, queue).run();
        });
    }

    fn found(&self, todo: Todo) {
        let count = match todo.finding.what.kind() {
            Kind::Damage => &self.damage,
            Kind::Leftover => &self.leftovers,
        };
        count.fetch_add(1, Ordering::Relaxed);
        (self.report)(&todo.finding);
        if todo.repair.is_some() {
            self.todo.lock().push(todo);
        }
    }

    fn tell(&self, place: &Place, what: Problem) {
        self.found(Todo { finding: Finding { place: place.clone(), what }, repair: None });
    }

    fn tell_repairable(&self, place: Place, what: Problem, repair: Repair) {
        self.found(Todo { finding: Finding { place, what }, repair: Some(repair) });
    }

    fn count(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Damage => self.damage.load(Ordering::Relaxed),
            Kind::Leftover => self.leftovers.load(Ordering::Relaxed),
        }
    }

    fn is_encrypted(&self) -> bool {
        self.fsck.keyring.volume().settings().names == Names::Encrypted
    }

    fn stop(&self, why: FsckError) {
        self.why.lock().get_or_insert(why);
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// The end: `is_whole` where the tree has no damage.
    fn ended(self, is_whole: bool) -> Result<Checked, FsckError> {
        if let Some(why) = self.why.into_inner() {
            return Err(why);
        }
        let seen = Seen {
            files: self.files.into_inner(),
            bytes: self.bytes.into_inner(),
            damage: self.damage.into_inner(),
            leftovers: self.leftovers.into_inner(),
        };
        Ok(Checked::new(seen, self.todo.into_inner(), is_whole))
    }
}
