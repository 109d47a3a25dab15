//! Rewrapping: every wrapped key of a volume under another master key.
//!
//! It needs neither the volume's keys nor, within one KMS, any key in clear: only the right to
//! ReEncrypt. Files are not touched. It can be cut short anywhere and begun again: what is under
//! the new master key already is left alone.
//!
//! Within one keystore, or one account and region, `volume.json` goes first: a daemon that has
//! the store mounted follows it, makes its new keys under the new master key, and from then on
//! the old lines can only become fewer. A mount takes lines of both. To another KMS, account or
//! region, `volume.json` goes last and the store is not mounted: a mount takes lines of one
//! place only, and until the end the store knows where its keys were.

mod method;
mod pass;

use std::fmt;
use std::num::NonZeroU32;

use crate::ids::{BranchId, FileId, VolumeId};
use crate::kms::{Context, KeyArn, KeyRef, KmsError};
use crate::names::VolumeKeys;
use crate::store::{Census, Counts, Provider, Store, StoreError, VolumeFile, Wrap};

pub use method::Method;
use method::Target;

/// Whether `volume.json` or the lines go first, which depends on whether a daemon can follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `volume.json`, then the lines; mounted or not.
    VolumeFirst,
    /// The lines, then `volume.json`; not mounted.
    LinesFirst,
}

/// Why a rewrap stopped. What it has done stays done.
#[derive(Debug, thiserror::Error)]
pub enum RewrapError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A sidecar page, or a branch key.
    #[error("a wrapped key cannot be read or written: {0}")]
    Disk(#[from] std::io::Error),
    /// The KMS.
    #[error(transparent)]
    Kms(#[from] KmsError),
    /// The volume's own key does not open, or is not the one of its settings.
    #[error("the wrapped volume key is damaged or not of this volume ({0})")]
    VolumeKey(KmsError),
    /// Somebody rewraps it to another key.
    #[error("another rewrap, to {0}, has begun")]
    Overtaken(KeyArn),
    /// New keys under other master keys keep coming.
    #[error("new data keys keep coming under another master key")]
    Endless,
    /// The daemon that has the store mounted does not follow.
    #[error("the mount does not follow: {0}")]
    Mount(String),
}

/// Whose key it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A file's.
    File(FileId),
    /// A branch key.
    Branch(BranchId),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => write!(f, "the key of file {file}"),
            Self::Branch(branch) => write!(f, "branch key {branch}"),
        }
    }
}

/// A key that stays under its master key, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Whose.
    pub owner: Owner,
    /// Why.
    pub why: String,
}

/// What there is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The master key that all is to be under.
    pub target: KeyArn,
    /// The lines as they are.
    pub counts: Counts,
    /// Wrapped keys that are not under it: of files, branch keys, and the volume's own two.
    pub keys: u64,
    /// How many calls of the KMS that takes.
    pub calls: u64,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Wrapped keys that are under the new master key now, and were not before.
    pub rewrapped: u64,
    /// What stays under its master key.
    pub left: Vec<Left>,
    /// The KMS's first refusal of a master key that some of these are under.
    pub refused: Option<KmsError>,
}

/// A rewrap that may begin.
pub struct Rewrap {
    store: Store,
    file: VolumeFile,
    method: Method,
    target: KeyArn,
    /// What `volume.json` will say, but for the volume key.
    wrap: Wrap,
    rate: Option<NonZeroU32>,
}

impl Rewrap {
    /// Finds out which key `asked` is, by having the canary rewrapped: the rights that this
    /// takes are those that the rest takes. Nothing is written.
    ///
    /// # Errors
    /// [`RewrapError`].
    pub fn prepare(
        store: Store,
        method: Method,
        provider: Provider,
        asked: KeyRef,
    ) -> Result<Self, RewrapError> {
        let file = store.read_volume()?;
        let (old, context) = (&file.wrap, Context::canary(file.settings.volume()));
        let to = Target::Asked(asked.clone());
        let canary = method
            .carry(&old.canary, &old.master, &to, &context, |_| true)
            .map_err(of_volume_key)?;
        let target = canary.master;
        let canary = if target == old.master { old.canary.clone() } else { canary.wrapped };
        let (key, master) = (old.key.clone(), target.clone());
        let wrap = Wrap { provider, asked, master, key, canary };
        let rate = method.fair_rate();
        Ok(Self { store, file, method, target, wrap, rate })
    }

    /// With so many keys a second, and not as many as are fair to others who share the KMS.
    pub fn set_rate(&mut self, keys: NonZeroU32) {
        self.rate = Some(keys);
    }

    /// In which order it goes.
    pub fn order(&self) -> Order {
        if self.target.home() == self.file.wrap.master.home() {
            Order::VolumeFirst
        } else {
            Order::LinesFirst
        }
    }

    /// What there is to do.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn plan(&self) -> Result<Plan, RewrapError> {
        let counts = Census::default().take(&self.store)?;
        let lines = counts.masters.iter().filter(|(arn, _)| self.is_to_do(arn));
        let branches = counts.branches.values().filter_map(|b| b.master.as_ref());
        let branches = branches.filter(|arn| self.is_to_do(arn)).count() as u64;
        let own = if self.target == self.file.wrap.master { 0 } else { 2 };
        let keys = lines.map(|(_, lines)| lines).sum::<u64>() + counts.others + branches + own;
        let calls = keys * self.method.calls();
        Ok(Plan { target: self.target.clone(), counts, keys, calls })
    }

    /// Does it. Where a daemon has the store mounted, `settle` is called when `volume.json` says
    /// the new master key: it returns when that daemon makes no more keys under the old one.
    /// `progress` is told how many keys are done, from several threads.
    ///
    /// # Errors
    /// [`RewrapError`]; what was done stays done, and the next run goes on from there.
    pub fn run(
        &self,
        settle: impl FnOnce() -> Result<(), String>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Done, RewrapError> {
        // A rewrap that was killed may have left temporary files.
        self.store.sweep_leftovers()?;
        let lock = self.store.lock();
        let (done, own) = match (self.order(), lock) {
            (Order::LinesFirst, Err(e)) => return Err(e.into()),
            (Order::LinesFirst, Ok(_held)) => {
                (self.passes(progress)?, self.write_volume(progress)?)
            }
            (Order::VolumeFirst, Err(StoreError::Busy)) => {
                let own = self.write_volume(progress)?;
                if let Err(why) = settle() {
                    self.store.write_volume(&self.file)?;
                    return Err(RewrapError::Mount(why));
                }
                (self.passes(progress)?, own)
            }
            (Order::VolumeFirst, lock) => {
                // A daemon that starts from here on reads the new one.
                let lock = lock?;
                let own = self.write_volume(progress)?;
                drop(lock);
                (self.passes(progress)?, own)
            }
        };
        Ok(Done { rewrapped: done.rewrapped + own, ..done })
    }

    /// Has `volume.json` say the new master key; answers how many of its keys were rewrapped.
    fn write_volume(&self, progress: &(dyn Fn(u64) + Sync)) -> Result<u64, RewrapError> {
        let old = &self.file.wrap;
        let same_key = self.target == old.master;
        if same_key && self.wrap == *old {
            return Ok(0);
        }
        let mut file = self.file.clone();
        file.wrap = self.wrap.clone();
        if !same_key {
            let volume = file.settings.volume();
            let (to, context) = (Target::Known(self.target.clone()), Context::volume(volume));
            let proof = |key: &_| belongs(&self.file, volume, key);
            let carried = self.method.carry(&old.key, &old.master, &to, &context, proof);
            file.wrap.key = carried.map_err(of_volume_key)?.wrapped;
        }
        self.store.write_volume(&file)?;
        let own = if same_key { 0 } else { 2 };
        progress(own);
        Ok(own)
    }

    /// Whether a line under this master key is to be rewrapped. One that names a key from
    /// elsewhere is nobody's: no mount takes it, and no KMS is asked about it.
    fn is_to_do(&self, master: &KeyArn) -> bool {
        let homes = [self.target.home(), self.file.wrap.master.home()];
        *master != self.target && homes.contains(&master.home())
    }
}

fn belongs(file: &VolumeFile, volume: VolumeId, key: &crate::secret::Key) -> bool {
    VolumeKeys::derive(key, volume).verify_settings(file.settings.encode().as_bytes(), &file.mac)
}

fn of_volume_key(e: KmsError) -> RewrapError {
    match e.verdict {
        crate::kms::Verdict::ThisKey => RewrapError::VolumeKey(e),
        _ => RewrapError::Kms(e),
    }
}
