//! The cryptographic calls.

use std::sync::Arc;

use super::blob::Blob;
use super::cached::Source;
use super::folder::KeystoreFolder;
use super::id::{Id, arn};
use super::record::{MAX_FILE, Record};
use super::{LoadedKey, LocalKms, file_of, not_found, now};
use crate::kms::{
    Context, Generated, KeyRef, KeyService, KeyState, KmsError, Rewrapped, Unwrapped, Verdict,
    Wrapped,
};
use crate::secret::Key;

impl LocalKms {
    /// The key that `key` names, if it may be used now.
    fn usable(&self, key: &KeyRef) -> Result<(Id, Arc<LoadedKey>), KmsError> {
        let (id, entry) = match self.unchanged(key) {
            Some(found) => found,
            None => {
                let folder = self.place.open()?;
                let id = self.resolve(&folder, key)?;
                (id, self.entry(&folder, id)?)
            }
        };
        check_usable(&entry.record)?;
        Ok((id, entry))
    }

    /// The key that an id or an ARN names, where its file is as it was when it was read. It saves
    /// opening two folders for each data key.
    fn unchanged(&self, key: &KeyRef) -> Option<(Id, Arc<LoadedKey>)> {
        let id = self.own_id(&key.0).ok()?;
        let known = self.keys.lock().get(&id).cloned()?;
        let stamp = self.place.key_stamp(&file_of(id))?;
        known.is_of(stamp).then_some((id, known.value))
    }

    /// One key as it is now.
    fn entry(&self, folder: &KeystoreFolder, id: Id) -> Result<Arc<LoadedKey>, KmsError> {
        let root = self.root()?;
        let parse = |file: &[u8]| {
            let record = Record::parse(id, file)?;
            let material = match record.state {
                KeyState::Enabled => record
                    .open(self.id, root)
                    .ok_or("its key material does not open under this keystore's key")?,
                _ => Vec::new(),
            };
            Ok(LoadedKey { record, material })
        };
        let name = file_of(id);
        let keys = folder.keys()?;
        let source = Source { folder: &keys, name: &name, limit: MAX_FILE, now: now(), parse };
        let old = self.keys.lock().get(&id).cloned();
        let found = source.get(old);
        let mut cache = self.keys.lock();
        match found {
            Ok(Some(cached)) => {
                cache.insert(id, cached.clone());
                Ok(cached.value)
            }
            Ok(None) => {
                cache.remove(&id);
                Err(not_found(&id.to_string()))
            }
            Err(e) => Err(e.into()),
        }
    }

    fn wrap(&self, (id, entry): &(Id, Arc<LoadedKey>), context: &Context, key: &Key) -> Wrapped {
        let newest = entry.material.last().expect("an enabled key has material");
        Blob::wrap((*id, entry.record.versions(), newest), context, key).encode()
    }
}

/// Refuses a key that is not enabled, with the API's code.
pub(super) fn check_usable(record: &Record) -> Result<(), KmsError> {
    let id = record.id;
    if record.is_gone(now()) {
        return Err(not_found(&id.to_string()));
    }
    let code = match record.state {
        KeyState::Enabled => return Ok(()),
        KeyState::Disabled => "DisabledException",
        _ => "KMSInvalidStateException",
    };
    Err(KmsError::new(Verdict::Refused, code, format!("key {id} is {}", record.state.name())))
}

fn invalid_ciphertext(what: &str) -> KmsError {
    KmsError::new(Verdict::ThisKey, "InvalidCiphertextException", what)
}

fn unwrap(
    (id, entry): &(Id, Arc<LoadedKey>),
    wrapped: &Wrapped,
    context: &Context,
) -> Result<Key, KmsError> {
    let blob = Blob::parse(wrapped)
        .ok_or_else(|| invalid_ciphertext("this is not a wrapped key of an embedded keystore"))?;
    if blob.key != *id {
        let what = format!("the wrapped key is under {}, not under {id}", blob.key);
        return Err(KmsError::new(Verdict::ThisKey, "IncorrectKeyException", what));
    }
    let index = (blob.version as usize).checked_sub(1);
    let material = index.and_then(|i| entry.material.get(i)).ok_or_else(|| {
        invalid_ciphertext("the wrapped key names a version of its master key that there is not")
    })?;
    blob.unwrap(material, context).ok_or_else(|| {
        invalid_ciphertext("the wrapped key is damaged, or belongs to another file or volume")
    })
}

impl KeyService for LocalKms {
    fn generate(&self, key: &KeyRef, context: &Context) -> Result<Generated, KmsError> {
        let master = self.usable(key)?;
        let key = Key::random();
        let wrapped = self.wrap(&master, context, &key);
        Ok(Generated { key, wrapped, master: arn(self.id, master.0) })
    }

    // The demanded key's state is checked before the wrapped key is looked at: where both are
    // bad, the refusal is what the mount must act on.
    fn decrypt(
        &self,
        key: &KeyRef,
        wrapped: &Wrapped,
        context: &Context,
    ) -> Result<Unwrapped, KmsError> {
        let master = self.usable(key)?;
        let key = unwrap(&master, wrapped, context)?;
        Ok(Unwrapped { key, master: arn(self.id, master.0) })
    }

    fn reencrypt(
        &self,
        wrapped: &Wrapped,
        from: (&KeyRef, &Context),
        to: (&KeyRef, &Context),
    ) -> Result<Rewrapped, KmsError> {
        let (source, target) = (self.usable(from.0)?, self.usable(to.0)?);
        let key = unwrap(&source, wrapped, from.1)?;
        let wrapped = self.wrap(&target, to.1, &key);
        Ok(Rewrapped { wrapped, master: arn(self.id, target.0) })
    }

    fn encrypt(&self, to: &KeyRef, plain: &Key, context: &Context) -> Result<Rewrapped, KmsError> {
        let target = self.usable(to)?;
        let wrapped = self.wrap(&target, context, plain);
        Ok(Rewrapped { wrapped, master: arn(self.id, target.0) })
    }
}
