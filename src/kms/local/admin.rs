//! The administrative calls. Each change holds the folder's lock; afterwards keys whose deletion
//! window has ended are erased, which no cryptographic call ever does.

use super::alias::{self, Aliases, check_name};
use super::folder::{self, KeystoreFolder};
use super::id::{Id, arn};
use super::record::{MAX_FILE, MAX_VERSIONS, Record};
use super::service::check_usable;
use super::{KeystoreError, LocalKms, file_of, not_found, now};
use crate::durable;
use crate::kms::{AliasInfo, KeyAdmin, KeyInfo, KeyRef, KeyState, KmsError, Verdict};

const MAX_DESCRIPTION: usize = 8192;
const DAY: u64 = 24 * 60 * 60;

fn invalid(code: &str, what: impl Into<String>) -> KmsError {
    KmsError::new(Verdict::Invalid, code, what)
}

/// For a change that this state does not allow.
fn invalid_state(id: Id, what: &str) -> KmsError {
    KmsError::new(Verdict::Refused, "KMSInvalidStateException", format!("key {id} {what}"))
}

fn read_record(keys: &KeystoreFolder, id: Id) -> Result<Option<Record>, KeystoreError> {
    let name = file_of(id);
    let Some((_, bytes)) = keys.read(&name, MAX_FILE)? else { return Ok(None) };
    Record::parse(id, &bytes).map(Some).map_err(|what| keys.damaged(&name, what))
}

/// A key that is there: known, and not past its deletion date.
fn existing(keys: &KeystoreFolder, id: Id) -> Result<Record, KmsError> {
    let record = read_record(keys, id)?.filter(|record| !record.is_gone(now()));
    record.ok_or_else(|| not_found(&id.to_string()))
}

fn ids(keys: &KeystoreFolder) -> Result<Vec<Id>, KeystoreError> {
    let id_of = |name: String| {
        let id = name.strip_suffix(".json").and_then(Id::parse);
        id.ok_or_else(|| keys.damaged(&name, "it is not the file of a key"))
    };
    keys.names()?.into_iter().map(id_of).collect()
}

impl LocalKms {
    /// Makes one change under the lock.
    fn changing<T>(
        &self,
        change: impl FnOnce(&KeystoreFolder) -> Result<T, KmsError>,
    ) -> Result<T, KmsError> {
        let folder = self.place.open()?;
        let _lock = folder.lock()?;
        let done = change(&folder)?;
        // After the change, and never failing it: disabling a key is the emergency.
        if let Err(e) = self.purge(&folder) {
            log::warn!("keys past their deletion date could not all be erased: {e}");
        }
        Ok(done)
    }

    /// Changes one key's record under the lock.
    fn change_key(
        &self,
        key: &KeyRef,
        change: impl FnOnce(&mut Record) -> Result<(), KmsError>,
    ) -> Result<(), KmsError> {
        self.changing(|folder| {
            let keys = folder.keys()?;
            let mut record = existing(&keys, self.resolve(folder, key)?)?;
            let before = record.clone();
            change(&mut record)?;
            if record != before {
                keys.replace(&file_of(record.id), &record.encode())?;
            }
            Ok(())
        })
    }

    /// Erases keys whose deletion window has ended, with their aliases, and what interrupted
    /// replacements left. The caller holds the lock.
    fn purge(&self, folder: &KeystoreFolder) -> Result<(), KeystoreError> {
        let keys = folder.keys()?;
        for dir in [&folder.dir, &keys.dir] {
            durable::sweep(&**dir)
                .map_err(folder::io_error("remove left-over files", &folder.at))?;
        }
        for id in ids(&keys)? {
            if read_record(&keys, id)?.is_some_and(|record| record.is_gone(now())) {
                self.erase(folder, &keys, id)?;
            }
        }
        Ok(())
    }

    fn erase(
        &self,
        folder: &KeystoreFolder,
        keys: &KeystoreFolder,
        id: Id,
    ) -> Result<(), KeystoreError> {
        let mut aliases = Aliases::clone(&self.aliases_in(folder)?.value);
        let before = aliases.aliases.len();
        aliases.aliases.retain(|_, target| *target != id);
        if aliases.aliases.len() != before {
            folder.replace(folder::ALIASES, &aliases.encode())?;
        }
        keys.remove(&file_of(id))
    }

    fn info(&self, record: Record, aliases: &Aliases) -> KeyInfo {
        KeyInfo {
            id: record.id.to_string(),
            arn: arn(self.id, record.id),
            state: record.state,
            aliases: aliases.of(record.id),
            created: record.created,
            versions: Some(record.versions()),
            deletion: record.deletion,
            description: record.description,
        }
    }
}

impl KeyAdmin for LocalKms {
    fn create(&self, description: &str) -> Result<KeyInfo, KmsError> {
        if description.chars().count() > MAX_DESCRIPTION {
            let what = format!("a description has at most {MAX_DESCRIPTION} characters");
            return Err(invalid("ValidationException", what));
        }
        let record = Record::new(self.id, self.root()?, description, now());
        self.changing(|folder| {
            Ok(folder.keys()?.replace(&file_of(record.id), &record.encode())?)
        })?;
        Ok(self.info(record, &Aliases::new()))
    }

    fn list(&self) -> Result<Vec<KeyInfo>, KmsError> {
        let folder = self.place.open()?;
        let keys = folder.keys()?;
        let aliases = self.aliases_in(&folder)?;
        let mut all = Vec::new();
        for id in ids(&keys)? {
            // A key that was erased since the listing is one that is not there.
            all.extend(read_record(&keys, id)?.filter(|record| !record.is_gone(now())));
        }
        all.sort_by_key(|record| (record.created, record.id));
        Ok(all.into_iter().map(|record| self.info(record, &aliases.value)).collect())
    }

    fn describe(&self, key: &KeyRef) -> Result<KeyInfo, KmsError> {
        let folder = self.place.open()?;
        let record = existing(&folder.keys()?, self.resolve(&folder, key)?)?;
        Ok(self.info(record, &self.aliases_in(&folder)?.value))
    }

    fn disable(&self, key: &KeyRef) -> Result<(), KmsError> {
        self.change_key(key, |record| {
            check_not_pending(record)?;
            record.state = KeyState::Disabled;
            Ok(())
        })
    }

    fn enable(&self, key: &KeyRef) -> Result<(), KmsError> {
        self.change_key(key, |record| {
            check_not_pending(record)?;
            record.state = KeyState::Enabled;
            Ok(())
        })
    }

    fn rotate(&self, key: &KeyRef) -> Result<(), KmsError> {
        let root = self.root()?;
        self.change_key(key, |record| {
            check_usable(record)?;
            if record.versions() as usize >= MAX_VERSIONS {
                let what = format!("key {} has {MAX_VERSIONS} versions already", record.id);
                return Err(invalid("LimitExceededException", what));
            }
            record.add_version(self.id, root);
            Ok(())
        })
    }

    fn schedule_deletion(&self, key: &KeyRef, days: u32) -> Result<u64, KmsError> {
        if !(7..=30).contains(&days) {
            let what = format!("the window is 7 to 30 days, not {days}");
            return Err(invalid("ValidationException", what));
        }
        let at = now().saturating_add(u64::from(days) * DAY);
        self.change_key(key, |record| {
            check_not_pending(record)?;
            (record.state, record.deletion) = (KeyState::PendingDeletion, Some(at));
            Ok(())
        })?;
        Ok(at)
    }

    fn cancel_deletion(&self, key: &KeyRef) -> Result<(), KmsError> {
        self.change_key(key, |record| {
            if record.state != KeyState::PendingDeletion {
                return Err(invalid_state(record.id, "is not pending deletion"));
            }
            (record.state, record.deletion) = (KeyState::Disabled, None);
            Ok(())
        })
    }

    fn set_alias(&self, name: &str, key: &KeyRef) -> Result<(), KmsError> {
        check_name(name)?;
        self.changing(|folder| {
            let record = existing(&folder.keys()?, self.resolve(folder, key)?)?;
            check_not_pending(&record)?;
            let mut aliases = Aliases::clone(&self.aliases_in(folder)?.value);
            aliases.aliases.insert(name.to_owned(), record.id);
            if aliases.aliases.len() > alias::MAX_ALIASES {
                let what = format!("a keystore has at most {} aliases", alias::MAX_ALIASES);
                return Err(invalid("LimitExceededException", what));
            }
            Ok(folder.replace(folder::ALIASES, &aliases.encode())?)
        })
    }

    fn remove_alias(&self, name: &str) -> Result<(), KmsError> {
        check_name(name)?;
        self.changing(|folder| {
            let mut aliases = Aliases::clone(&self.aliases_in(folder)?.value);
            aliases.aliases.remove(name).ok_or_else(|| not_found(name))?;
            Ok(folder.replace(folder::ALIASES, &aliases.encode())?)
        })
    }

    fn aliases(&self) -> Result<Vec<AliasInfo>, KmsError> {
        let aliases = self.aliases_in(&self.place.open()?)?;
        let info =
            |(name, id): (&String, &Id)| AliasInfo { name: name.clone(), target: id.to_string() };
        Ok(aliases.value.aliases.iter().map(info).collect())
    }
}

fn check_not_pending(record: &Record) -> Result<(), KmsError> {
    if record.state == KeyState::PendingDeletion {
        return Err(invalid_state(record.id, "is pending deletion"));
    }
    Ok(())
}
