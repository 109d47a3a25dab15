//! Making a volume, and opening one: from `volume.json` to the keys of its names.

use std::sync::Arc;

use parking_lot::Mutex;

use super::sealing::{self, Of};
use super::source::{is_proven, source_mac, unproven};
use super::store_use::StoreUse;
use crate::ids::{FileId, PageId, VolumeId};
use crate::kms::{Context, Generated, KeyArn, KeyRef, KeyService, KmsError, Unwrapped, Verdict};
use crate::names::VolumeKeys;
use crate::recovery::Sealed;
use crate::store::{Provider, Settings, Source, Store, StoreError, VolumeFile, Wrap};

/// Files under which master keys are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Any of the volume's home: of its keystore, or of its account and region.
    SameKeystore,
    /// The one that new data keys come under, alone.
    Target,
}

/// What of a `volume.json` is believed of where new data keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// What has the MAC of the volume key.
    Authenticated,
    /// That, and what says this master key, which an operator has named.
    Named(KeyArn),
    /// Anything, for no data key will be made.
    ToRead,
}

/// What a volume is remembered by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its id.
    pub volume: VolumeId,
    /// The fingerprint of its volume key, which says nothing of the key.
    pub fingerprint: String,
    /// How often where its data keys come from has changed.
    pub generation: u64,
}

/// A volume's settings and its present wrap. It holds no key.
#[derive(Clone)]
pub struct Volume {
    pub(super) settings: Settings,
    /// Of the settings.
    pub(super) mac: [u8; 32],
    /// The sealed volume key, where the settings have recipients.
    pub(super) recovery: Option<Sealed>,
    /// Of the volume key that it was opened with. It is no secret.
    pub(super) fingerprint: String,
    /// The one master key that the volume key may be under, where the mount was told one.
    pub(super) pinned: Option<KeyArn>,
    accepted: Accepted,
    pub(super) wrap: Arc<Mutex<Wrap>>,
    /// What the KMS last named as the key of a new data key; before, the volume key's.
    target: Arc<Mutex<KeyArn>>,
}

/// Why there is no new data key.
#[derive(Debug)]
pub(super) enum NoNewKey {
    /// The KMS gave none.
    Kms(KmsError),
    /// It gave one under a master key under which no data key of this volume may be.
    Unaccepted(KeyArn),
}

/// As an error of the one key that was asked for.
impl From<NoNewKey> for KmsError {
    fn from(e: NoNewKey) -> Self {
        match e {
            NoNewKey::Kms(e) => e,
            NoNewKey::Unaccepted(master) => {
                let why = format!("the KMS made a data key under {master}, which is not accepted");
                Self::new(Verdict::ThisKey, "IncorrectKeyException", why)
            }
        }
    }
}

/// Why a volume could not be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The KMS.
    #[error(transparent)]
    Kms(#[from] KmsError),
    /// The volume key that came back does not belong to the settings.
    #[error("volume.json is damaged or has been changed: its settings do not verify")]
    Changed,
    /// A good `volume.json`, but not of the volume that is mounted.
    #[error(
        "volume.json is that of another volume, or has other settings, than what was mounted: \
         restore it"
    )]
    Another,
    /// Nobody who has the volume key has vouched for where new data keys come from.
    #[error(
        "volume.json says that new data keys come from {asked}, under {under}, and nothing proves \
         that: a rewrap that may only ReEncrypt leaves it so, and so does whoever changes the file"
    )]
    Unproven {
        /// What it says that they are asked of.
        asked: KeyRef,
        /// The master key.
        under: KeyArn,
    },
    /// New data keys would come under a master key that is not accepted.
    #[error(
        "new data keys would come under {master}, to which {asked} leads: that is not the master \
         key that the mount was told, or not of the volume's own keystore or account and region"
    )]
    Elsewhere {
        /// What they are asked of.
        asked: KeyRef,
        /// What the KMS made one under.
        master: KeyArn,
    },
    /// It is of before the last change that was seen.
    #[error(
        "volume.json is of an earlier state (generation {found}) than the one that is known \
         (generation {known}): restore the newer one"
    )]
    Older {
        /// By `volume.json`.
        found: u64,
        /// The highest that was seen.
        known: u64,
    },
    /// It is under another master key than the mount was told to accept.
    #[error("the volume is under {under}, not {pinned}, which --master-key names")]
    OtherMaster {
        /// By `volume.json`.
        under: KeyArn,
        /// By the mount's options.
        pinned: KeyArn,
    },
}

impl Volume {
    pub(super) fn of(file: VolumeFile, keys: &VolumeKeys, pinned: Option<KeyArn>) -> Self {
        let accepted = match file.settings.only_current_key {
            true => Accepted::Target,
            false => Accepted::SameKeystore,
        };
        let target = Arc::new(Mutex::new(file.wrap.source.master.clone()));
        Self {
            settings: file.settings,
            mac: file.mac,
            recovery: file.recovery,
            fingerprint: keys.fingerprint(),
            pinned,
            accepted,
            wrap: Arc::new(Mutex::new(file.wrap)),
            target,
        }
    }

    /// The volume's id.
    pub fn id(&self) -> VolumeId {
        self.settings.volume()
    }

    /// Its settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What a machine remembers it by, as it is now.
    pub fn identity(&self) -> Identity {
        Identity {
            volume: self.id(),
            fingerprint: self.fingerprint.clone(),
            generation: self.generation(),
        }
    }

    /// The key that `init` was asked for: an alias, an id or an ARN. New data keys come from it.
    pub fn asked(&self) -> KeyRef {
        self.wrap.lock().source.asked.clone()
    }

    /// The master key that wrapped the volume key.
    pub fn master(&self) -> KeyArn {
        self.wrap.lock().source.master.clone()
    }

    /// Where the master key lives.
    pub fn provider(&self) -> Provider {
        self.wrap.lock().source.provider.clone()
    }

    /// How often where new data keys come from has changed.
    pub fn generation(&self) -> u64 {
        self.wrap.lock().source.generation
    }

    /// The master key that new data keys come under, as far as is known: what an alias points
    /// to, only the KMS's answers say.
    pub fn target(&self) -> KeyArn {
        self.target.lock().clone()
    }

    /// The KMS has named the key of a new data key. Says whether it is another than before.
    pub(super) fn retarget(&self, target: &KeyArn) -> bool {
        let mut known = self.target.lock();
        std::mem::replace(&mut *known, target.clone()) != *target
    }

    /// Which master keys' files are served.
    pub fn accepted(&self) -> Accepted {
        self.accepted
    }

    /// Decides which master keys' files are served.
    pub fn accept(&mut self, accepted: Accepted) {
        self.accepted = accepted;
    }

    /// Whether a line may name this master key.
    pub fn accepts(&self, master: &KeyArn) -> bool {
        if self.accepted == Accepted::Target {
            return *master == *self.target.lock();
        }
        self.is_home(master)
    }

    fn is_home(&self, master: &KeyArn) -> bool {
        master.home().is_some() && master.home() == self.wrap.lock().source.master.home()
    }

    /// Has the KMS make a data key, as all new ones are made. It may be asked for an alias, which
    /// can be pointed anywhere: what it answers has to be a key of the volume's own keystore, or
    /// account and region, and the one that the mount was told.
    pub(super) fn generate(
        &self,
        service: &dyn KeyService,
        context: &Context,
    ) -> Result<Generated, NoNewKey> {
        let made = service.generate(&self.asked(), context).map_err(NoNewKey::Kms)?;
        let is_pinned = self.pinned.as_ref().is_none_or(|pinned| *pinned == made.master);
        if is_pinned && self.is_home(&made.master) {
            Ok(made)
        } else {
            Err(NoNewKey::Unaccepted(made.master))
        }
    }

    /// Asks once what each heartbeat asks, so that a damaged canary, or a key that may not make
    /// data keys, is told before a mount answers and not by its lock.
    ///
    /// # Errors
    /// As [`Volume::find_target`].
    pub fn preflight(
        &self,
        service: &dyn KeyService,
        store_use: StoreUse,
    ) -> Result<(), OpenError> {
        self.unwrap_canary(service)?;
        match store_use.asks_for_data_keys(self.accepted) {
            true => self.find_target(service),
            false => Ok(()),
        }
    }

    /// Asks which master key new data keys come under. The one that it gives is thrown away.
    ///
    /// # Errors
    /// `Kms`; `Elsewhere`.
    pub fn find_target(&self, service: &dyn KeyService) -> Result<(), OpenError> {
        let nobody = FileId::new(PageId::random(), 0);
        let made =
            self.generate(service, &Context::file(self.id(), nobody)).map_err(|e| match e {
                NoNewKey::Kms(e) => OpenError::Kms(e),
                NoNewKey::Unaccepted(master) => {
                    OpenError::Elsewhere { asked: self.asked(), master }
                }
            })?;
        self.retarget(&made.master);
        Ok(())
    }

    /// Asks the KMS for the canary: the cheapest call that a disabled key, a policy and a lost
    /// grant all refuse.
    ///
    /// # Errors
    /// Of the KMS.
    pub fn unwrap_canary(&self, service: &dyn KeyService) -> Result<Unwrapped, KmsError> {
        let wrap = self.wrap.lock().clone();
        let master = KeyRef::from(&wrap.source.master);
        service.decrypt(&master, &wrap.canary, &Context::canary(self.id()))
    }
}

/// Whether a `volume.json` is under the one master key that it may be under, before the KMS is
/// asked: a store that lies about it does not open.
///
/// # Errors
/// `OtherMaster`.
pub(super) fn check_master(file: &VolumeFile, pinned: Option<&KeyArn>) -> Result<(), OpenError> {
    let under = &file.wrap.source.master;
    match pinned {
        Some(pinned) if pinned != under => {
            Err(OpenError::OtherMaster { under: under.clone(), pinned: pinned.clone() })
        }
        _ => Ok(()),
    }
}

pub(super) fn unlock(file: &VolumeFile, service: &dyn KeyService) -> Result<VolumeKeys, OpenError> {
    let volume = file.settings.volume();
    let master = KeyRef::from(&file.wrap.source.master);
    let got = service.decrypt(&master, &file.wrap.key, &Context::volume(volume))?;
    let keys = VolumeKeys::derive(&got.key, volume);
    if is_of_volume(file, &keys) { Ok(keys) } else { Err(OpenError::Changed) }
}

/// Whether these are the keys of a file's volume: who wrote its settings, and sealed its volume
/// key to their recipients, had them.
pub(super) fn is_of_volume(file: &VolumeFile, keys: &VolumeKeys) -> bool {
    let sealed = file.recovery.as_ref();
    keys.verify_settings(file.settings.encode().as_bytes(), &file.mac)
        && sealed.is_none_or(|sealed| sealing::is_own(keys, Of::Volume, sealed))
}

/// Opens the volume of a store.
///
/// # Errors
/// [`OpenError`].
pub fn open(
    store: &Store,
    service: &dyn KeyService,
    trust: &Trust,
) -> Result<(Volume, VolumeKeys), OpenError> {
    open_file(store.read_volume()?, service, trust)
}

/// Opens the volume of this `volume.json`.
///
/// # Errors
/// `OtherMaster`, `Kms`, `Changed`, `Unproven`.
pub fn open_file(
    file: VolumeFile,
    service: &dyn KeyService,
    trust: &Trust,
) -> Result<(Volume, VolumeKeys), OpenError> {
    let named = match trust {
        Trust::Named(master) => Some(master),
        Trust::Authenticated | Trust::ToRead => None,
    };
    check_master(&file, named)?;
    let keys = unlock(&file, service)?;
    if *trust == Trust::Authenticated && !is_proven(&file, &keys) {
        return Err(unproven(&file));
    }
    Ok((Volume::of(file, &keys, named.cloned()), keys))
}

/// Writes the `volume.json` of a new store, under a fresh volume key.
///
/// # Errors
/// [`OpenError`].
pub fn create(
    store: &Store,
    service: &dyn KeyService,
    provider: Provider,
    asked: KeyRef,
    settings: Settings,
) -> Result<VolumeKeys, OpenError> {
    let volume = settings.volume();
    let made = service.generate(&asked, &Context::volume(volume))?;
    // Under the same key, also when the alias is pointed elsewhere at this moment.
    let canary = service.generate(&KeyRef::from(&made.master), &Context::canary(volume))?;
    let keys = VolumeKeys::derive(&made.key, volume);
    let mac = keys.mac_settings(settings.encode().as_bytes());
    let seal = |recipients| sealing::seal(&keys, recipients, Of::Volume, &made.key);
    let recovery = settings.recovery.as_ref().map(seal);
    let source = Source { generation: 1, provider, asked, master: made.master };
    let source_mac = Some(source_mac(&settings, &source, &keys));
    let wrap = Wrap { source, source_mac, key: made.wrapped, canary: canary.wrapped };
    store.write_volume(&VolumeFile { settings, mac, recovery, wrap })?;
    Ok(keys)
}
