//! Making a volume, and opening one: from `volume.json` to the keys of its names.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::ids::{FileId, PageId, VolumeId};
use crate::kms::{Context, KeyArn, KeyRef, KeyService, KmsError, Unwrapped};
use crate::names::VolumeKeys;
use crate::store::{Provider, Settings, Store, StoreError, VolumeFile, Wrap};

/// Files under which master keys are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Any of the volume's home: of its keystore, or of its account and region.
    SameKeystore,
    /// The one that new data keys come under, alone.
    Target,
}

/// A volume's settings and its present wrap. It holds no key.
#[derive(Clone)]
pub struct Volume {
    settings: Settings,
    /// Of the volume key that it was opened with. It is no secret.
    fingerprint: String,
    /// The one master key that the volume key may be under, where the mount was told one.
    pinned: Option<KeyArn>,
    accepted: Accepted,
    wrap: Arc<Mutex<Wrap>>,
    /// What the KMS last named as the key of a new data key; before, the volume key's.
    target: Arc<Mutex<KeyArn>>,
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
    fn of(file: VolumeFile, keys: &VolumeKeys) -> Self {
        let accepted = match file.settings.only_current_key {
            true => Accepted::Target,
            false => Accepted::SameKeystore,
        };
        let target = Arc::new(Mutex::new(file.wrap.master.clone()));
        Self {
            settings: file.settings,
            fingerprint: keys.fingerprint(),
            pinned: None,
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

    /// The key that `init` was asked for: an alias, an id or an ARN. New data keys come from it.
    pub fn asked(&self) -> KeyRef {
        self.wrap.lock().asked.clone()
    }

    /// The master key that wrapped the volume key.
    pub fn master(&self) -> KeyArn {
        self.wrap.lock().master.clone()
    }

    /// Where the master key lives.
    pub fn provider(&self) -> Provider {
        self.wrap.lock().provider.clone()
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

    /// Accepts a `volume.json` under this master key alone from now on, whenever it is read again.
    pub fn pin(&mut self, master: Option<KeyArn>) {
        self.pinned = master;
    }

    /// Unwraps the volume key of a `volume.json` that is read again while the volume is mounted.
    /// Whoever can write the store may have put another there.
    fn reopen(&self, file: &VolumeFile, service: &dyn KeyService) -> Result<VolumeKeys, OpenError> {
        // Before the KMS is asked for a key that it is not to be asked for.
        check_master(file, self.pinned.as_ref())?;
        if file.settings != self.settings {
            return Err(OpenError::Another);
        }
        let keys = unlock(file, service)?;
        if keys.fingerprint() != self.fingerprint {
            return Err(OpenError::Another);
        }
        Ok(keys)
    }

    /// Whether a line may name this master key.
    pub fn accepts(&self, master: &KeyArn) -> bool {
        if self.accepted == Accepted::Target {
            return *master == *self.target.lock();
        }
        master.home().is_some() && master.home() == self.wrap.lock().master.home()
    }

    /// Asks once what each heartbeat asks, so that a damaged canary, or a key that may not make
    /// data keys, is told before a mount answers and not by its lock.
    ///
    /// # Errors
    /// Of the KMS.
    pub fn preflight(&self, service: &dyn KeyService) -> Result<(), KmsError> {
        self.unwrap_canary(service)?;
        self.find_target(service)
    }

    /// Asks which master key new data keys come under. The one that it gives is thrown away.
    ///
    /// # Errors
    /// Of the KMS.
    pub fn find_target(&self, service: &dyn KeyService) -> Result<(), KmsError> {
        let nobody = FileId::new(PageId::random(), 0);
        let made = service.generate(&self.asked(), &Context::file(self.id(), nobody))?;
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
        service.decrypt(&KeyRef::from(&wrap.master), &wrap.canary, &Context::canary(self.id()))
    }

    /// Takes over a `volume.json` that a rewrap has replaced: if its key is the volume's own,
    /// and if the KMS gives under its master key what each heartbeat asks. Answers which master
    /// key new data keys come under then; `None` where nothing has changed.
    pub(super) fn follow(
        &self,
        store: &Store,
        service: &dyn KeyService,
    ) -> Result<Option<KeyArn>, OpenError> {
        let file = store.read_volume()?;
        if file.wrap == *self.wrap.lock() {
            return Ok(None);
        }
        let keys = self.reopen(&file, service)?;
        let followed = Self::of(file.clone(), &keys);
        followed.preflight(service)?;
        log::warn!("the volume is under {} now; it was under {}", file.wrap.master, self.master());
        *self.wrap.lock() = file.wrap;
        Ok(Some(followed.target()))
    }

    /// Unwraps the volume key again after a lock and derives the keys of names. They are those of
    /// before.
    pub(super) fn unlock(
        &self,
        store: &Store,
        service: &dyn KeyService,
    ) -> Result<VolumeKeys, OpenError> {
        let file = store.read_volume()?;
        let keys = self.reopen(&file, service)?;
        *self.wrap.lock() = file.wrap;
        Ok(keys)
    }
}

/// Whether a `volume.json` is under the one master key that it may be under, before the KMS is
/// asked: a store that lies about it does not open.
///
/// # Errors
/// `OtherMaster`.
pub fn check_master(file: &VolumeFile, pinned: Option<&KeyArn>) -> Result<(), OpenError> {
    let under = &file.wrap.master;
    match pinned {
        Some(pinned) if pinned != under => {
            Err(OpenError::OtherMaster { under: under.clone(), pinned: pinned.clone() })
        }
        _ => Ok(()),
    }
}

fn unlock(file: &VolumeFile, service: &dyn KeyService) -> Result<VolumeKeys, OpenError> {
    let volume = file.settings.volume();
    let master = KeyRef::from(&file.wrap.master);
    let got = service.decrypt(&master, &file.wrap.key, &Context::volume(volume))?;
    let keys = VolumeKeys::derive(&got.key, volume);
    if keys.verify_settings(file.settings.encode().as_bytes(), &file.mac) {
        Ok(keys)
    } else {
        Err(OpenError::Changed)
    }
}

/// Opens the volume of a store.
///
/// # Errors
/// [`OpenError`].
pub fn open(store: &Store, service: &dyn KeyService) -> Result<(Volume, VolumeKeys), OpenError> {
    open_file(store.read_volume()?, service)
}

/// Opens the volume of this `volume.json`.
///
/// # Errors
/// `Kms`, `Changed`.
pub fn open_file(
    file: VolumeFile,
    service: &dyn KeyService,
) -> Result<(Volume, VolumeKeys), OpenError> {
    let keys = unlock(&file, service)?;
    Ok((Volume::of(file, &keys), keys))
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
    let wrap =
        Wrap { provider, asked, master: made.master, key: made.wrapped, canary: canary.wrapped };
    store.write_volume(&VolumeFile { settings, mac, wrap })?;
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::Sim;
    use crate::keys::fixture;
    use crate::store::{DataKeys, Names};

    /// Another volume, whose settings are these.
    fn other(settings: Settings) -> Store {
        let store = Store::init(Sim::new().root()).expect("made");
        let provider = Provider::Local { keystore: "/keystore".to_owned() };
        let asked = KeyRef("alias/test".to_owned());
        create(&store, &*fixture::kms(), provider, asked, settings).expect("made");
        store
    }

    /// Whoever could write the store had a locked mount open as a volume of their own: the next
    /// file got a name, and a key, that were theirs.
    #[test]
    fn a_volume_is_reopened_only_as_what_it_was_opened_as() {
        let kms = fixture::kms();
        let own = Store::open(fixture::volume().root()).expect("made");
        let (mut volume, names) = open(&own, &*kms).expect("opened");
        let same_settings = other(volume.settings().clone());
        let plain = other(Settings::new(volume.id(), Names::Plain, DataKeys::PerFile));
        for foreign in [&same_settings, &plain] {
            assert!(matches!(volume.unlock(foreign, &*kms), Err(OpenError::Another)));
            assert!(matches!(volume.follow(foreign, &*kms), Err(OpenError::Another)));
        }
        let again = volume.unlock(&own, &*kms).expect("its own");
        assert_eq!(again.fingerprint(), names.fingerprint());
        let master = volume.master();
        volume.pin(Some(master.clone()));
        volume.unlock(&own, &*kms).expect("under the key that is pinned");
        let pinned = KeyArn("arn:kmsfs:local::1:key/another".to_owned());
        volume.pin(Some(pinned.clone()));
        let refused = volume.unlock(&own, &*kms);
        assert!(matches!(&refused, Err(OpenError::OtherMaster { under, .. }) if *under == master));
        let file = own.read_volume().expect("there");
        assert!(check_master(&file, Some(&pinned)).is_err());
        assert!(check_master(&file, Some(&master)).is_ok() && check_master(&file, None).is_ok());
    }
}
