//! Jobs over a store, without a mount; a rewrap also beside one.

mod backup;
mod counting;
mod export;
mod fsck;
mod rewrap;

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use backup::{BackupError, Copied, Destination, Watcher, backup};
pub use counting::Counting;
pub use export::{ExportError, ExportWatcher, LeftBehind, Privileged, cat, export};
pub use fsck::{
    BadHeader, Checked, Finding, Fsck, FsckError, Kind, NoKey, Place, Problem, Repaired, Seen, Text,
};
pub use rewrap::{
    Done, Left, Method, Order, Owner, Plan, Recoverable, Rewrap, RewrapError, Unsettled,
    recoverable,
};

use crate::disk::Dir;
use crate::disk::device::{self, Device};
use crate::disk::identity::Owners;
use crate::fs::{Access, Errno, Fail, Fs, FsSettings, Outcome};
use crate::keys::{self, Accepted, Keyring, Limits, OpenError, Services, StoreUse, Trust, Volume};
use crate::names::VolumeKeys;
use crate::store::{Store, StoreError};

/// Keys cached by an offline job.
const CACHE: NonZeroUsize = NonZeroUsize::new(1024).expect("1024 is not zero");
/// A request that wants another key each time is given up.
const MOST_RUNS: usize = 16;

/// How long the keys of what an offline job removes stay.
const WRITES: StoreUse = StoreUse::Writes { removed_keys: Duration::from_secs(24 * 60 * 60) };

/// A keyring without a monitor.
fn keyring(
    volume: Volume,
    names: VolumeKeys,
    store: Arc<Store>,
    services: Services,
    store_use: StoreUse,
) -> Keyring {
    let limits = Limits {
        cache: CACHE,
        ttl: Duration::from_secs(900),
        rate: None,
        store_use,
        patience: Duration::MAX,
    };
    Keyring::new(volume, names, store, services, limits)
}

/// A volume opened without a mount. Its calls wait for the KMS.
pub struct Offline {
    fs: Fs,
    tree: Dir,
    _lock: crate::disk::File,
}

impl Offline {
    /// Opens the volume of a store.
    ///
    /// # Errors
    /// [`OpenError`]; `Busy` while a daemon has it.
    pub fn open(
        path: &Path,
        services: impl Into<Services>,
        access: Access,
    ) -> Result<Self, OpenError> {
        let store = Store::open_path(path)?;
        let beneath = store.tree().statfs().map_err(|e| StoreError::Io("statfs", e))?;
        let device = device::probe(store.device(), &beneath);
        Self::over(store, &device, services, access)
    }

    /// Opens the volume of an open store that lies on `device`.
    ///
    /// # Errors
    /// As [`Offline::open`].
    pub fn over(
        store: Store,
        device: &Device,
        services: impl Into<Services>,
        access: Access,
    ) -> Result<Self, OpenError> {
        let services = services.into();
        let store = Arc::new(store);
        let lock = store.lock()?;
        let io = |what| move |e| StoreError::Io(what, e);
        if access == Access::ReadWrite {
            // As a mount begins: what a killed daemon left may be in the page cache only.
            store.sync().map_err(io("syncfs of the store"))?;
        }
        let trust = match access {
            Access::ReadOnly => Trust::ToRead,
            Access::ReadWrite => Trust::Authenticated,
        };
        let (volume, names) = keys::open(&store, &*services.work, &trust)?;
        if volume.accepted() == Accepted::Target {
            volume.find_target(&*services.work)?;
        }
        let store_use = match access {
            Access::ReadOnly => StoreUse::Reads,
            Access::ReadWrite => WRITES,
        };
        let keyring = Arc::new(keyring(volume, names, store.clone(), services, store_use));
        let settings = FsSettings { access, owners: Owners::Daemon, directories: 64, handles: 64 };
        let tree = store.tree().clone();
        let fs = Fs::new(store, keyring, device, settings).map_err(io("the store's root"))?;
        Ok(Self { fs, tree, _lock: lock })
    }

    /// The tree as it lies in the store.
    pub fn tree(&self) -> &Dir {
        &self.tree
    }

    /// The filesystem.
    pub fn fs(&self) -> &Fs {
        &self.fs
    }

    /// Runs an operation, fetching the keys that it wants.
    ///
    /// # Errors
    /// The errno that a mount would give.
    pub fn run<T>(&self, mut op: impl FnMut(&Fs) -> Outcome<T>) -> Result<T, Errno> {
        let mut runs = 0;
        while runs < MOST_RUNS {
            let want = match op(&self.fs) {
                Ok(done) => return Ok(done),
                Err(Fail::Errno(e)) => return Err(e),
                Err(Fail::Unfinished) => {
                    runs = 0;
                    continue;
                }
                Err(Fail::Park(want)) => want,
            };
            runs += 1;
            if let Err(Fail::Errno(e)) = self.fs.keyring().supply(want).map_err(Fail::from) {
                return Err(e);
            }
        }
        Err(Errno(libc::EKEYEXPIRED))
    }
}
