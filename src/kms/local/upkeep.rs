//! Changing the passphrase, and copying the keystore.

use std::path::Path;

use super::alias::{self, Aliases};
use super::folder::{self, Place};
use super::header::{Header, Sealing};
use super::record::{self, Record};
use super::{Id, KeystoreError, LocalKms, read_header, with_path};

impl LocalKms {
    /// Keeps the keystore's own key as `sealing` says from now on. That key stays the same, so
    /// open keystores go on working, and so does an old copy with its old passphrase.
    ///
    /// # Errors
    /// [`KeystoreError::PassphraseNeeded`] if this one was opened without it, `TooWeak` for an
    /// empty one, `Busy`, `Damaged` or `Io`.
    pub fn change_passphrase(&self, sealing: &Sealing) -> Result<(), KeystoreError> {
        // The slow derivation comes before the lock.
        let header = Header::new(self.id, self.root()?, sealing);
        let header = header.map_err(|e| with_path(e, &self.place.shown()))?;
        let folder = self.place.open()?;
        let _lock = folder.lock()?;
        if read_header(&folder)?.id != self.id {
            return Err(folder.damaged(folder::HEADER, "it is another keystore's by now"));
        }
        folder.replace(folder::HEADER, &header.encode())
    }

    /// Copies the keystore into a folder that is absent or empty. A sealed keystore's copy is
    /// sealed too; states of keys in it are those of now. No passphrase is needed.
    ///
    /// # Errors
    /// [`KeystoreError::NotEmpty`] about `dest`; `Damaged` about a file that is not copied
    /// because it is not whole; `Busy` or `Io`.
    pub fn backup(&self, dest: &Path) -> Result<(), KeystoreError> {
        let from = self.place.open()?;
        let _lock = from.lock()?;
        let to = Place::of(dest)?.make()?;
        let _dest_lock = to.prepare()?;
        let (from_keys, to_keys) = (from.keys()?, to.keys()?);
        for name in from_keys.names()? {
            let id = name.strip_suffix(".json").and_then(Id::parse);
            let id = id.ok_or_else(|| from_keys.damaged(&name, "it is not the file of a key"))?;
            let Some((_, bytes)) = from_keys.read(&name, record::MAX_FILE)? else { continue };
            Record::parse(id, &bytes).map_err(|what| from_keys.damaged(&name, what))?;
            to_keys.replace(&name, &bytes)?;
        }
        let aliases = from.read(folder::ALIASES, alias::MAX_FILE)?;
        let (_, aliases) = aliases.ok_or_else(|| from.damaged(folder::ALIASES, "it is missing"))?;
        Aliases::parse(&aliases).map_err(|what| from.damaged(folder::ALIASES, what))?;
        to.replace(folder::ALIASES, &aliases)?;
        // Last: without it the copy is no keystore.
        to.replace(folder::HEADER, &read_header(&from)?.encode())
    }
}
