//! Rewrapping: every wrapped key of a volume under another master key.
//!
//! It needs neither the volume's keys nor, within a KMS that has ReEncrypt, any key in clear: only
//! the right to ReEncrypt. Files are not touched. It can be cut short anywhere and begun again: what is under
//! the new master key already is left alone.
//!
//! Within one keystore, or one account and region, `volume.json` goes first: a daemon that has
//! the store mounted follows it, makes its new keys under the new master key, and from then on
//! the old lines can only become fewer. A mount takes lines of both. To another KMS, account or
//! region, `volume.json` goes last and the store is not mounted: a mount takes lines of one
//! place only, and until the end the store knows where its keys were.

mod method;
mod pass;
mod recover;

use std::fmt;
use std::num::NonZeroU32;

use crate::ids::{BranchId, FileId};
use crate::keys::{Word, source_mac};
use crate::kms::{Context, KeyArn, KeyRef, KmsError};
use crate::names::VolumeKeys;
use crate::secret::{Key, scrub_stack};
use crate::store::{Census, Counts, Provider, Source, Store, StoreError, VolumeFile, Wrap};

pub use method::Method;
use method::{Old, Target};
use recover::Second;
pub use recover::{Recoverable, recoverable};

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
    /// A recovery to a master key that has the name of the one that is gone.
    #[error("the volume says that it is under {0} already: a recovery needs a key of another name")]
    SameName(KeyArn),
    /// Somebody rewraps it to another key.
    #[error("another rewrap, to {0}, has begun")]
    Overtaken(KeyArn),
    /// New keys under other master keys keep coming.
    #[error("new data keys keep coming under another master key")]
    Endless,
    /// The daemon that has the store mounted does not follow.
    #[error("the mount does not follow: {0}")]
    Mount(Unsettled),
}

/// Why a daemon that has the store mounted has not taken a new `volume.json` over.
#[derive(Debug, thiserror::Error)]
pub enum Unsettled {
    /// It says that it cannot. The old `volume.json` is put back.
    #[error("{0}")]
    Refused(String),
    /// It gave no answer, and may have: the new `volume.json` stays.
    #[error("{0}")]
    Unknown(String),
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

/// Who adds the MAC of the source to a rewrapped `volume.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prover {
    /// The rewrap, where it may unwrap the volume key.
    Rewrap,
    /// The daemon that has the store mounted, and so has the key: the rewrap asks for none.
    Mount,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Whether `volume.json` proves where new data keys come from; else a mount has to be told.
    pub is_proven: bool,
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
    /// What `volume.json` will say, but for the volume key and the MAC of the source.
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
        Self::prepare_of(store, file, method, provider, asked)
    }

    fn prepare_of(
        store: Store,
        file: VolumeFile,
        method: Method,
        provider: Provider,
        asked: KeyRef,
    ) -> Result<Self, RewrapError> {
        let (old, context) = (&file.wrap, Context::canary(file.settings.volume()));
        let to = Target::Asked(asked.clone());
        let master = &old.source.master;
        let canary = Old { key: &old.canary, master, second: Second::Canary };
        let canary =
            method.carry(&store, &canary, &to, &context, |_| true).map_err(of_volume_key)?;
        let target = canary.master;
        let same_key = target == old.source.master;
        let canary = if same_key { old.canary.clone() } else { canary.wrapped };
        let wrap = if same_key && (&provider, &asked) == (&old.source.provider, &old.source.asked) {
            old.clone()
        } else {
            let generation = old.source.generation.saturating_add(1);
            let source = Source { generation, provider, asked, master: target.clone() };
            Wrap { source, source_mac: None, key: old.key.clone(), canary }
        };
        let rate = method.fair_rate();
        Ok(Self { store, file, method, target, wrap, rate })
    }

    /// With so many keys a second, and not as many as are fair to others who share the KMS.
    pub fn set_rate(&mut self, keys: NonZeroU32) {
        self.rate = Some(keys);
    }

    /// In which order it goes.
    pub fn order(&self) -> Order {
        if self.method.is_recovery() {
            // No mount goes on without its master key.
            Order::LinesFirst
        } else if self.target.home() == self.file.wrap.source.master.home() {
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
        let own = if self.target == self.file.wrap.source.master { 0 } else { 2 };
        let keys = lines.map(|(_, lines)| lines).sum::<u64>() + counts.others + branches + own;
        let calls = keys * self.method.calls();
        Ok(Plan { target: self.target.clone(), counts, keys, calls })
    }

    /// What a mount has to be told that is to take over the new `volume.json`.
    pub fn word(&self) -> Word {
        Word { asked: self.wrap.source.asked.clone(), master: self.target.clone() }
    }

    /// Does it. Where a daemon has the store mounted, `settle` is called when `volume.json` says
    /// the new master key: it returns when that daemon has taken it over, and makes no more keys
    /// under the old one. `progress` is told how many keys are done, from several threads.
    ///
    /// # Errors
    /// [`RewrapError`]; what was done stays done, and the next run goes on from there.
    pub fn run(
        &self,
        settle: impl FnOnce() -> Result<(), Unsettled>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Done, RewrapError> {
        // A rewrap that was killed may have left temporary files.
        self.store.sweep_leftovers()?;
        let lock = self.store.lock();
        let (done, own) = match (self.order(), lock) {
            (Order::LinesFirst, Err(e)) => return Err(e.into()),
            (Order::LinesFirst, Ok(_held)) => {
                let done = self.passes(progress)?;
                (done, self.write_volume(Prover::Rewrap, progress)?)
            }
            (Order::VolumeFirst, Err(StoreError::Busy)) => {
                let own = self.write_volume(Prover::Mount, progress)?;
                if let Err(unsettled) = settle() {
                    if let Unsettled::Refused(_) = unsettled {
                        self.store.write_volume(&self.file)?;
                    }
                    return Err(RewrapError::Mount(unsettled));
                }
                (self.passes(progress)?, own)
            }
            (Order::VolumeFirst, lock) => {
                // A daemon that starts from here on reads the new one.
                let lock = lock?;
                let own = self.write_volume(Prover::Rewrap, progress)?;
                drop(lock);
                (self.passes(progress)?, own)
            }
        };
        let is_proven = self.store.read_volume()?.wrap.source_mac.is_some();
        Ok(Done { rewrapped: done.rewrapped + own, is_proven, ..done })
    }

    /// Has `volume.json` say the new master key; answers how many of its keys were rewrapped.
    fn write_volume(
        &self,
        prover: Prover,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<u64, RewrapError> {
        let old = &self.file.wrap;
        let is_proven = old.source_mac.is_some() || prover == Prover::Mount;
        if self.wrap == *old && is_proven {
            return Ok(0);
        }
        let mut file = self.file.clone();
        file.wrap = self.wrap.clone();
        let same_key = self.target == old.source.master;
        let mut mac = None;
        if !same_key {
            let volume = file.settings.volume();
            let (to, context) = (Target::Known(self.target.clone()), Context::volume(volume));
            let look = |key: &Key| {
                mac = self.prove(&file, key);
                mac.is_some()
            };
            let master = &old.source.master;
            let key = Old { key: &old.key, master, second: Second::Volume };
            let carried = self.method.carry(&self.store, &key, &to, &context, look);
            file.wrap.key = carried.map_err(of_volume_key)?.wrapped;
        }
        if mac.is_none() && prover == Prover::Rewrap {
            mac = self.unwrap_to_prove(&file);
        }
        file.wrap.source_mac = mac;
        if file == self.file {
            return Ok(0);
        }
        self.store.write_volume(&file)?;
        let own = if same_key { 0 } else { 2 };
        progress(own);
        Ok(own)
    }

    /// The MAC of the new source, where this identity may Decrypt. One that may only ReEncrypt
    /// leaves it out, and the next mount has to be told the master key.
    fn unwrap_to_prove(&self, file: &VolumeFile) -> Option<[u8; 32]> {
        let context = Context::volume(file.settings.volume());
        let master = KeyRef::from(&self.target);
        let opened = self.method.target().decrypt(&master, &file.wrap.key, &context).ok()?;
        let mac = self.prove(file, &opened.key);
        drop(opened);
        scrub_stack();
        mac
    }

    /// The MAC of a file's source, where this is its volume key.
    fn prove(&self, file: &VolumeFile, key: &Key) -> Option<[u8; 32]> {
        let keys = VolumeKeys::derive(key, file.settings.volume());
        let is_own = keys.verify_settings(file.settings.encode().as_bytes(), &file.mac);
        is_own.then(|| source_mac(&file.settings, &file.wrap.source, &keys))
    }

    /// Whether a line under this master key is to be rewrapped. One that names a key from
    /// elsewhere is nobody's: no mount takes it, and no KMS is asked about it. A recovery asks none
    /// about any.
    fn is_to_do(&self, master: &KeyArn) -> bool {
        if self.method.is_recovery() {
            return *master != self.target;
        }
        let homes = [self.target.home(), self.file.wrap.source.master.home()];
        *master != self.target && homes.contains(&master.home())
    }
}

fn of_volume_key(e: KmsError) -> RewrapError {
    match e.verdict {
        crate::kms::Verdict::ThisKey => RewrapError::VolumeKey(e),
        _ => RewrapError::Kms(e),
    }
}
