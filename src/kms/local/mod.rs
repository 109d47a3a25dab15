//! The embedded keystore: master keys in a folder, with the behaviour of AWS KMS.
//!
//! Its state lies in files that are looked at on every call, so that a key disabled by another
//! process is refused at the next one. Disabling needs no passphrase. Against someone who can
//! read this process's memory, or who copied an unsealed folder, it is no boundary.

mod admin;
mod alias;
mod blob;
mod cached;
mod error;
mod folder;
mod header;
mod id;
mod json;
mod record;
mod seal;
mod service;
#[cfg(test)]
mod tests;
mod upkeep;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

pub use error::KeystoreError;
pub use header::Sealing;

use crate::disk::Dir;
use crate::kms::{KeyRef, KmsError, Verdict};
use crate::secret::{Key, Passphrase};
use crate::xdg;
use alias::Aliases;
use cached::{Cached, Source};
use folder::{KeystoreFolder, Place};
use header::{Header, HeaderError};
use id::Id;
use record::Record;

/// An open keystore. Dropping it wipes the keys that it holds.
#[derive(Debug)]
pub struct LocalKms {
    place: Place,
    id: Id,
    /// The keystore's own key; `None` when it is sealed and was opened without its passphrase.
    root: Option<Key>,
    keys: Mutex<HashMap<Id, Cached<LoadedKey>>>,
    aliases: Mutex<Option<Cached<Aliases>>>,
}

/// One master key as it was last read. Key material is held only of enabled keys.
#[derive(Debug)]
struct LoadedKey {
    record: Record,
    material: Vec<Key>,
}

impl LocalKms {
    /// Makes a keystore in a folder that is absent or empty, and opens it. Its parents are made
    /// too. With a passphrase this takes a good part of a second.
    ///
    /// # Errors
    /// [`KeystoreError::NotEmpty`], [`KeystoreError::TooWeak`] for an empty passphrase, or Io.
    pub fn create(path: &Path, sealing: &Sealing) -> Result<Self, KeystoreError> {
        Self::make(Place::of(path)?, sealing)
    }

    /// [`LocalKms::create`] in an open directory.
    ///
    /// # Errors
    /// As there.
    pub fn create_in(dir: Dir, sealing: &Sealing) -> Result<Self, KeystoreError> {
        Self::make(Place::Held(dir), sealing)
    }

    /// Opens a keystore for use; an unsealed one ignores `unlock`.
    ///
    /// # Errors
    /// [`KeystoreError::Missing`], `PassphraseNeeded`, `WrongPassphrase`, `Damaged`, `TooWeak`
    /// or `Io`.
    pub fn open(path: &Path, unlock: Option<&Passphrase>) -> Result<Self, KeystoreError> {
        Self::unlock(Place::of(path)?, unlock)
    }

    /// [`LocalKms::open`] of an open directory.
    ///
    /// # Errors
    /// As there.
    pub fn open_in(dir: Dir, unlock: Option<&Passphrase>) -> Result<Self, KeystoreError> {
        Self::unlock(Place::Held(dir), unlock)
    }

    /// Opens a keystore for administration without a passphrase. Of a sealed one, creating and
    /// rotating keys and every cryptographic call then fail with the code `PassphraseNeeded`.
    ///
    /// # Errors
    /// [`KeystoreError::Missing`], `Damaged`, `TooWeak` or `Io`.
    pub fn open_admin(path: &Path) -> Result<Self, KeystoreError> {
        let place = Place::of(path)?;
        let header = read_header(&place.open()?)?;
        let root = if header.is_sealed() {
            None
        } else {
            Some(header.unlock(None).map_err(|e| with_path(e, &place.shown()))?)
        };
        Ok(Self::with(place, header.id, root))
    }

    /// Whether a keystore is sealed under a passphrase.
    ///
    /// # Errors
    /// [`KeystoreError::Missing`], `Damaged`, `TooWeak` or `Io`.
    pub fn is_sealed(path: &Path) -> Result<bool, KeystoreError> {
        Ok(read_header(&Place::of(path)?.open()?)?.is_sealed())
    }

    fn make(place: Place, sealing: &Sealing) -> Result<Self, KeystoreError> {
        let (id, root) = (Id::random(), Key::random());
        let header = Header::new(id, &root, sealing).map_err(|e| with_path(e, &place.shown()))?;
        let folder = place.make()?;
        let lock = folder.prepare()?;
        folder.replace(folder::ALIASES, &Aliases::new().encode())?;
        // Last: without it there is no keystore, and making it can be tried again.
        folder.replace(folder::HEADER, &header.encode())?;
        drop(lock);
        Ok(Self::with(place, id, Some(root)))
    }

    fn unlock(place: Place, unlock: Option<&Passphrase>) -> Result<Self, KeystoreError> {
        let header = read_header(&place.open()?)?;
        let root = header.unlock(unlock).map_err(|e| with_path(e, &place.shown()))?;
        Ok(Self::with(place, header.id, Some(root)))
    }

    fn with(place: Place, id: Id, root: Option<Key>) -> Self {
        let (keys, aliases) = (Mutex::default(), Mutex::default());
        Self { place, id, root, keys, aliases }
    }

    fn root(&self) -> Result<&Key, KeystoreError> {
        let needed = || KeystoreError::PassphraseNeeded { at: self.place.shown() };
        self.root.as_ref().ok_or_else(needed)
    }

    /// The aliases as they are now.
    fn aliases_in(&self, folder: &KeystoreFolder) -> Result<Cached<Aliases>, KeystoreError> {
        let source = Source {
            folder,
            name: folder::ALIASES,
            limit: alias::MAX_FILE,
            now: now(),
            parse: Aliases::parse,
        };
        let old = self.aliases.lock().clone();
        let found = source.get(old)?;
        self.aliases.lock().clone_from(&found);
        found.ok_or_else(|| folder.damaged(folder::ALIASES, "it is missing"))
    }

    /// The key that `key` names: an id, an ARN or an alias.
    fn resolve(&self, folder: &KeystoreFolder, key: &KeyRef) -> Result<Id, KmsError> {
        let text = key.0.as_str();
        if alias::is_alias(text) {
            let aliases = self.aliases_in(folder)?;
            return aliases.value.aliases.get(text).copied().ok_or_else(|| not_found(text));
        }
        self.own_id(text)
    }

    /// The key of an id or an ARN.
    fn own_id(&self, text: &str) -> Result<Id, KmsError> {
        if text.starts_with("arn:") {
            let (keystore, id) = id::parse_arn(text).ok_or_else(|| {
                let what = format!("{text:?} is not the ARN of a key in an embedded keystore");
                KmsError::new(Verdict::Invalid, "InvalidArnException", what)
            })?;
            return if keystore == self.id { Ok(id) } else { Err(not_found(text)) };
        }
        if text.is_empty() {
            let what = "a key is named by its id, its ARN or alias/NAME, not by nothing";
            return Err(KmsError::new(Verdict::Invalid, "ValidationException", what));
        }
        Id::parse(text).ok_or_else(|| not_found(text))
    }
}

fn read_header(folder: &KeystoreFolder) -> Result<Header, KeystoreError> {
    let Some((_, bytes)) = folder.read(folder::HEADER, folder::MAX_HEADER)? else {
        return Err(KeystoreError::Missing { at: folder.at.clone() });
    };
    Header::parse(&bytes).map_err(|e| with_path(e, &folder.at))
}

/// A header's error, with the keystore that it is about.
fn with_path(e: HeaderError, at: &str) -> KeystoreError {
    let at = at.to_owned();
    match e {
        HeaderError::Damaged(what) => {
            KeystoreError::Damaged { at, file: folder::HEADER.to_owned(), what }
        }
        HeaderError::TooWeak(what) => KeystoreError::TooWeak { at, what },
        HeaderError::PassphraseNeeded => KeystoreError::PassphraseNeeded { at },
        HeaderError::WrongPassphrase => KeystoreError::WrongPassphrase { at },
    }
}

fn not_found(key: &str) -> KmsError {
    let what = format!("there is no key {key:?} in this keystore");
    KmsError::new(Verdict::Refused, "NotFoundException", what)
}

fn file_of(id: Id) -> String {
    format!("{id}.json")
}

/// The wall clock, in seconds since 1970: for dates that users see, never for erasing anything
/// without being asked.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Where the keystore lies if nobody says otherwise: `$KMSFS_KEYSTORE`, else
/// `$XDG_DATA_HOME/kmsfs/keystore`, else `~/.local/share/kmsfs/keystore`.
pub fn default_path() -> PathBuf {
    if let Some(path) = std::env::var_os("KMSFS_KEYSTORE").filter(|value| !value.is_empty()) {
        return path.into();
    }
    let data = xdg::folder_or("XDG_DATA_HOME", ".local/share");
    data.unwrap_or_else(|| PathBuf::from("/root/.local/share")).join("kmsfs/keystore")
}
