//! Where new data keys come from, and whose word for it counts.
//!
//! Whoever can write the store can write a master key of theirs into `volume.json`. So that part
//! of it, the source, has a MAC under the volume key, and a generation that only grows. What has
//! no MAC is taken over on an operator's word alone.

use super::store_use::StoreUse;
use super::volume::{OpenError, Volume, check_master, unlock};
use crate::kms::{KeyArn, KeyRef, KeyService};
use crate::names::VolumeKeys;
use crate::store::{Settings, Source, Store, StoreError, VolumeFile};

impl Volume {
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

    /// Takes over a `volume.json` that has been replaced: if its key is the volume's own, if it is
    /// newer than what is known, if its source has the MAC of the volume key or is the one that an
    /// operator's `word` names, and if the KMS gives under its master key what each heartbeat asks.
    /// Answers which master key new data keys come under then; `None` where nothing has changed.
    pub(super) fn follow(
        &self,
        store: &Store,
        service: &dyn KeyService,
        (store_use, word): (StoreUse, Option<&Word>),
    ) -> Result<Option<KeyArn>, OpenError> {
        let mut file = store.read_volume()?;
        if file.wrap == *self.wrap.lock() {
            return Ok(None);
        }
        let keys = self.reopen(&file, service)?;
        let (found, known) = (file.wrap.source.generation, self.generation());
        if found <= known {
            return Err(OpenError::Older { found, known });
        }
        let is_proven = is_proven(&file, &keys);
        if !is_proven && !word.is_some_and(|word| word.names(&file.wrap.source)) {
            return Err(unproven(&file));
        }
        let followed = Self::of(file.clone(), &keys, self.pinned.clone());
        followed.preflight(service, store_use)?;
        if !is_proven && store_use != StoreUse::Reads {
            file = prove(store, file, &keys)?;
        }
        let master = &file.wrap.source.master;
        log::warn!("the volume is under {master} now; it was under {}", self.master());
        *self.wrap.lock() = file.wrap;
        Ok(Some(followed.target()))
    }

    /// Unwraps the volume key again after a lock and derives the keys of names. They are those of
    /// before. Where `volume.json` has been replaced meanwhile by what [`Volume::follow`] would
    /// not take over by itself, the wrapped key of before is unwrapped.
    pub(super) fn unlock(
        &self,
        store: &Store,
        service: &dyn KeyService,
    ) -> Result<VolumeKeys, OpenError> {
        let file = store.read_volume()?;
        let keys = self.reopen(&file, service)?;
        if file.wrap == *self.wrap.lock() {
            return Ok(keys);
        }
        if file.wrap.source.generation > self.generation() && is_proven(&file, &keys) {
            *self.wrap.lock() = file.wrap;
            return Ok(keys);
        }
        log::error!("volume.json was replaced and is not authenticated, ignoring it");
        self.reopen(&self.as_file(), service)
    }

    /// The `volume.json` that it was opened with, or has taken over since.
    fn as_file(&self) -> VolumeFile {
        VolumeFile {
            settings: self.settings.clone(),
            mac: self.mac,
            recovery: self.recovery.clone(),
            wrap: self.wrap.lock().clone(),
        }
    }

    /// Writes down that an operator vouches for where new data keys come from, where nothing has
    /// proved it so far: the mount was told the master key. What each heartbeat asks has been
    /// asked, so new data keys do come under it.
    ///
    /// # Errors
    /// `Store`; `Unproven` where it has been changed since.
    pub fn take_named(&self, store: &Store, keys: &VolumeKeys) -> Result<(), OpenError> {
        let file = self.as_file();
        if !is_proven(&file, keys) {
            *self.wrap.lock() = prove(store, file, keys)?.wrap;
        }
        Ok(())
    }
}

/// What an operator has said of where new data keys are to come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// What they are asked of.
    pub asked: KeyRef,
    /// The master key that they come under.
    pub master: KeyArn,
}

impl Word {
    fn names(&self, source: &Source) -> bool {
        (&self.asked, &self.master) == (&source.asked, &source.master)
    }
}

/// Whether somebody who has the volume key has said where new data keys come from.
pub fn is_proven(file: &VolumeFile, keys: &VolumeKeys) -> bool {
    let (settings, source) = (file.settings.encode(), file.wrap.source.encode());
    file.wrap
        .source_mac
        .is_some_and(|mac| keys.verify_source(settings.as_bytes(), source.as_bytes(), &mac))
}

pub(super) fn unproven(file: &VolumeFile) -> OpenError {
    let (asked, under) = (file.wrap.source.asked.clone(), file.wrap.source.master.clone());
    OpenError::Unproven { asked, under }
}

/// Adds the MAC of its source to a `volume.json` that an operator vouches for. On a store that
/// cannot be written, it is asked about again the next time.
fn prove(store: &Store, file: VolumeFile, keys: &VolumeKeys) -> Result<VolumeFile, OpenError> {
    let mut proven = file.clone();
    proven.wrap.source_mac = Some(source_mac(&file.settings, &file.wrap.source, keys));
    match store.change_volume(&file, &proven) {
        Ok(true) => Ok(proven),
        Ok(false) => Err(unproven(&store.read_volume()?)),
        Err(StoreError::Io(_, e)) if e.raw_os_error() == Some(libc::EROFS) => Ok(file),
        Err(e) => Err(e.into()),
    }
}

/// The MAC of a source, beside the settings that it is for.
pub fn source_mac(settings: &Settings, source: &Source, keys: &VolumeKeys) -> [u8; 32] {
    keys.mac_source(settings.encode().as_bytes(), source.encode().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::Sim;
    use crate::keys::{self, Trust, fixture};
    use crate::kms::KeyAdmin;
    use crate::store::{DataKeys, Names, Provider};

    const WRITES: StoreUse = StoreUse::Writes { removed_keys: std::time::Duration::ZERO };

    fn own() -> Store {
        Store::open(fixture::volume().root()).expect("made")
    }

    fn open(store: &Store, trust: &Trust) -> Result<(Volume, VolumeKeys), OpenError> {
        keys::open(store, &*fixture::kms(), trust)
    }

    /// Another volume, whose settings are these.
    fn other(settings: Settings) -> Store {
        let store = Store::init(Sim::new().root()).expect("made");
        let provider = Provider::Local { keystore: "/keystore".to_owned() };
        let asked = KeyRef("alias/test".to_owned());
        keys::create(&store, &*fixture::kms(), provider, asked, settings).expect("made");
        store
    }

    /// Another master key of the same keystore, as somebody has who can use it.
    fn their_key() -> KeyArn {
        fixture::kms().create("theirs").expect("made").arn
    }

    /// As whoever can write the store does.
    fn edit(store: &Store, change: impl FnOnce(&mut VolumeFile)) {
        let mut file = store.read_volume().expect("there");
        change(&mut file);
        store.write_volume(&file).expect("written");
    }

    fn is_unproven<T>(got: Result<T, OpenError>) -> bool {
        matches!(got, Err(OpenError::Unproven { .. }))
    }

    /// One word edited in `volume.json` put all new data keys under another master key: before a
    /// mount, beneath one, at an unlock, and also with `--master-key`.
    #[test]
    fn nobody_else_says_where_new_data_keys_come_from() {
        let (store, kms) = (own(), fixture::kms());
        let (volume, _) = open(&store, &Trust::Authenticated).expect("its own");
        let (asked, target) = (volume.asked(), volume.target());
        let theirs = their_key();
        for generation in [1, 2, u64::MAX] {
            for mac in [None, Some([0; 32]), store.read_volume().expect("there").wrap.source_mac] {
                edit(&store, |file| {
                    file.wrap.source.asked = KeyRef::from(&theirs);
                    file.wrap.source.generation = generation;
                    file.wrap.source_mac = mac;
                });
                assert!(is_unproven(open(&store, &Trust::Authenticated)));
                assert!(volume.follow(&store, &*kms, (WRITES, None)).is_err());
                volume.unlock(&store, &*kms).expect("the volume key is the same");
                assert_eq!((volume.asked(), volume.target()), (asked.clone(), target.clone()));
                // The volume key is under the key that is named, new data keys are not.
                let trust = Trust::Named(volume.master());
                let (named, _) = open(&store, &trust).expect("under the key that is named");
                let got = named.preflight(&*kms, WRITES);
                let to = |master: &KeyArn| *master == theirs;
                assert!(matches!(got, Err(OpenError::Elsewhere { master, .. }) if to(&master)));
            }
        }
    }

    #[test]
    fn an_operators_word_is_taken_for_what_it_names_and_written_down() {
        let (store, kms) = (own(), fixture::kms());
        let (volume, _) = open(&store, &Trust::Authenticated).expect("its own");
        let asked = KeyRef::from(&volume.master());
        edit(&store, |file| {
            file.wrap.source.asked = asked.clone();
            file.wrap.source.generation += 1;
            file.wrap.source_mac = None;
        });
        let master = volume.master();
        let lie = Word { asked: KeyRef("alias/else".to_owned()), master: master.clone() };
        assert!(is_unproven(volume.follow(&store, &*kms, (WRITES, Some(&lie)))));
        let word = Word { asked: asked.clone(), master: master.clone() };
        let target = volume.follow(&store, &*kms, (WRITES, Some(&word))).expect("followed");
        assert_eq!((target, volume.generation()), (Some(master.clone()), 2));
        open(&store, &Trust::Authenticated).expect("it is proven from then on");
        // The same, said at a mount.
        edit(&store, |file| {
            file.wrap.source.generation += 1;
            file.wrap.source_mac = None;
        });
        assert!(is_unproven(open(&store, &Trust::Authenticated)));
        let (named, names) = open(&store, &Trust::Named(master)).expect("named");
        named.take_named(&store, &names).expect("written");
        open(&store, &Trust::Authenticated).expect("it is proven from then on");
    }

    /// A `volume.json` of before a rewrap, put back while the old master key is enabled, had a
    /// mount beat under that key: disabling the new one locked nothing any more.
    #[test]
    fn an_earlier_state_is_not_taken_over() {
        let (store, kms) = (own(), fixture::kms());
        let before = store.read_volume().expect("there");
        let (_, names) = open(&store, &Trust::Authenticated).expect("its own");
        edit(&store, |file| {
            file.wrap.source.asked = KeyRef::from(&file.wrap.source.master);
            file.wrap.source.generation = 5;
            file.wrap.source_mac = Some(source_mac(&file.settings, &file.wrap.source, &names));
        });
        let (volume, _) = open(&store, &Trust::Authenticated).expect("newer");
        let asked = volume.asked();
        store.write_volume(&before).expect("put back");
        let older = volume.follow(&store, &*kms, (WRITES, None));
        assert!(matches!(older, Err(OpenError::Older { found: 1, known: 5 })), "{older:?}");
        volume.unlock(&store, &*kms).expect("by what it had");
        assert_eq!((volume.asked(), volume.generation()), (asked, 5));
    }

    /// Whoever could write the store had a locked mount open as a volume of their own: the next
    /// file got a name, and a key, that were theirs.
    #[test]
    fn a_volume_is_reopened_only_as_what_it_was_opened_as() {
        let (store, kms) = (own(), fixture::kms());
        let (volume, names) = open(&store, &Trust::Authenticated).expect("opened");
        let same_settings = other(volume.settings().clone());
        let plain = other(Settings::new(volume.id(), Names::Plain, DataKeys::PerFile));
        for foreign in [&same_settings, &plain] {
            assert!(matches!(volume.unlock(foreign, &*kms), Err(OpenError::Another)));
            assert!(matches!(
                volume.follow(foreign, &*kms, (WRITES, None)),
                Err(OpenError::Another)
            ));
        }
        let again = volume.unlock(&store, &*kms).expect("its own");
        assert_eq!(again.fingerprint(), names.fingerprint());
        let master = volume.master();
        let (pinned, _) = open(&store, &Trust::Named(master.clone())).expect("under it");
        pinned.unlock(&store, &*kms).expect("under the key that is pinned");
        let another = KeyArn("arn:kmsfs:local::1:key/another".to_owned());
        let refused = open(&store, &Trust::Named(another));
        let under = |said: &KeyArn| *said == master;
        assert!(matches!(refused, Err(OpenError::OtherMaster { under: u, .. }) if under(&u)));
    }
}
