//! The administrative calls. A key of Transit's is named by its maker, has no alias, and is
//! deleted at once or not at all.

use data_encoding::HEXLOWER;
use serde::Serialize;

use super::answer::{self, Described, Listed};
use super::client::VaultKms;
use super::errors::ACCESS_DENIED;
use super::http::Ask;
use crate::kms::{AliasInfo, KeyAdmin, KeyInfo, KeyRef, KeyState, KmsError, Verdict};
use crate::secret::random_bytes;

/// What Transit makes of a data key, and binds to associated data.
#[derive(Serialize)]
struct Make {
    #[serde(rename = "type")]
    kind: &'static str,
    derived: bool,
}

fn unsupported(what: &str, why: &str) -> KmsError {
    let why = format!("{what}: {why}");
    KmsError::new(Verdict::Invalid, "UnsupportedOperationException", why)
}

impl VaultKms {
    fn describe_named(&self, what: &str, name: &str) -> Result<Described, KmsError> {
        answer::data(what, &self.ask(what, &format!("keys/{name}"), Ask::Get)?)
    }

    fn info(&self, key: Described) -> KeyInfo {
        let times = key.keys.values().filter_map(serde_json::Value::as_u64);
        KeyInfo {
            arn: self.names.arn(&key.name),
            state: if key.soft_deleted { KeyState::Disabled } else { KeyState::Enabled },
            aliases: Vec::new(),
            created: times.min().unwrap_or(0),
            description: String::new(),
            deletion: None,
            versions: Some(key.latest_version),
            id: key.name,
        }
    }

    /// A key of this name, which there is none of yet.
    fn make(&self, name: &str, description: &str) -> Result<KeyInfo, KmsError> {
        let what = &format!("CreateKey {name}");
        // Transit answers well, and changes nothing, where there is one.
        match self.describe_named(what, name) {
            Err(e) if e.code == "NotFoundException" => {}
            Err(e) => return Err(e),
            Ok(_) => {
                let why = format!("{what}: there is a key of this name");
                return Err(KmsError::new(Verdict::Invalid, "AlreadyExistsException", why));
            }
        }
        if !description.is_empty() {
            log::warn!("{what}: Transit keeps no description");
        }
        let make = Make { kind: "aes256-gcm96", derived: false };
        self.post(what, &format!("keys/{name}"), &make)?;
        Ok(self.info(self.describe_named(what, name)?))
    }

    /// A key that there is, and in which state.
    fn found<'a>(&self, what: &str, key: &'a KeyRef) -> Result<(&'a str, Described), KmsError> {
        let name = self.names.name_of(key)?;
        Ok((name, self.describe_named(what, name)?))
    }

    /// A key that there is, or that whoever asks may not look at: a soft deletion of one that is
    /// not there is answered well.
    fn there<'a>(&self, what: &str, key: &'a KeyRef) -> Result<&'a str, KmsError> {
        match self.found(what, key) {
            Err(e) if e.code != ACCESS_DENIED => Err(e),
            _ => self.names.name_of(key),
        }
    }
}

/// Where a server has no soft deletion, as HashiCorp's Vault has none.
fn no_soft_deletion(what: &str, name: &str, e: KmsError) -> KmsError {
    if e.code != "UnsupportedOperationException" {
        return e;
    }
    let why = format!(
        "this server's Transit cannot disable a key. Take the right to use it away: revoke the \
         tokens of the mount, or change its policy; or retire what {name} has wrapped so far: \
         rotate it, and set min_decryption_version to its latest version"
    );
    unsupported(what, &why)
}

impl KeyAdmin for VaultKms {
    fn create(&self, description: &str) -> Result<KeyInfo, KmsError> {
        self.make(&format!("kmsfs-{}", HEXLOWER.encode(&random_bytes::<8>())), description)
    }

    fn create_as(&self, alias: &str, description: &str) -> Result<KeyInfo, KmsError> {
        let name = KeyRef(alias.to_owned());
        self.make(self.names.name_of(&name)?, description)
    }

    fn list(&self) -> Result<Vec<KeyInfo>, KmsError> {
        let what = "ListKeys";
        let listed = match self.ask(what, "keys?list=true", Ask::Get) {
            Ok(reply) => answer::data::<Listed>(what, &reply)?.keys,
            // A list of nothing is not found.
            Err(e) if e.code == "NotFoundException" => Vec::new(),
            Err(e) => return Err(e),
        };
        let mut all = Vec::new();
        for name in listed {
            // Not taken for a path unseen.
            let key = KeyRef(name);
            match self.found(&format!("DescribeKey of {key}"), &key) {
                Ok((_, found)) => all.push(self.info(found)),
                Err(e) if e.verdict == Verdict::Refused => log::warn!("left out: {e}"),
                Err(e) => return Err(e),
            }
        }
        all.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        Ok(all)
    }

    fn describe(&self, key: &KeyRef) -> Result<KeyInfo, KmsError> {
        self.found(&format!("DescribeKey of {key}"), key).map(|(_, found)| self.info(found))
    }

    fn disable(&self, key: &KeyRef) -> Result<(), KmsError> {
        let what = &format!("DisableKey of {key}");
        let name = self.there(what, key)?;
        let done = self.ask(what, &format!("keys/{name}/soft-delete"), Ask::Delete);
        done.map(drop).map_err(|e| no_soft_deletion(what, name, e))
    }

    fn enable(&self, key: &KeyRef) -> Result<(), KmsError> {
        let what = &format!("EnableKey of {key}");
        let name = self.there(what, key)?;
        let path = format!("keys/{name}/soft-delete-restore");
        let done = self.ask(what, &path, Ask::Post(b"{}"));
        done.map(drop).map_err(|e| no_soft_deletion(what, name, e))
    }

    fn rotate(&self, key: &KeyRef) -> Result<(), KmsError> {
        let what = &format!("RotateKeyOnDemand of {key}");
        let (name, found) = self.found(what, key)?;
        if found.soft_deleted {
            // Transit's own answer is a fault of the server, 500.
            let why = format!("{what}: the key is disabled (soft-deleted)");
            return Err(KmsError::new(Verdict::Refused, "DisabledException", why));
        }
        self.ask(what, &format!("keys/{name}/rotate"), Ask::Post(b"{}")).map(drop)
    }

    fn schedule_deletion(&self, key: &KeyRef, _days: u32) -> Result<u64, KmsError> {
        let what = &format!("ScheduleKeyDeletion of {key}");
        let why = "Transit deletes at once and for good: disable the key instead, and have its \
                   server delete it when nothing needs it any more";
        Err(unsupported(what, why))
    }

    fn cancel_deletion(&self, key: &KeyRef) -> Result<(), KmsError> {
        Err(unsupported(&format!("CancelKeyDeletion of {key}"), "Transit schedules none"))
    }

    fn set_alias(&self, name: &str, _key: &KeyRef) -> Result<(), KmsError> {
        let why = "Transit has no aliases: alias/NAME is the key NAME";
        Err(unsupported(&format!("CreateAlias {name}"), why))
    }

    fn remove_alias(&self, name: &str) -> Result<(), KmsError> {
        let why = "Transit has no aliases: alias/NAME is the key NAME";
        Err(unsupported(&format!("DeleteAlias {name}"), why))
    }

    fn aliases(&self) -> Result<Vec<AliasInfo>, KmsError> {
        Ok(Vec::new())
    }
}
