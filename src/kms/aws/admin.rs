//! The administrative calls.

use std::collections::HashMap;

use aws_sdk_kms::types::{KeyMetadata, KeyState as State};

use super::client::AwsKms;
use super::errors::malformed;
use crate::kms::{
    AliasInfo, KeyAdmin, KeyArn, KeyInfo, KeyRef, KeyState, KmsError, LastUse, Verdict,
};

/// Days that a deletion may wait, as the API has them.
const WINDOW: std::ops::RangeInclusive<u32> = 7..=30;

fn info(what: &str, found: Option<KeyMetadata>) -> Result<KeyInfo, KmsError> {
    let found = found.ok_or_else(|| malformed(what, "the answer describes no key"))?;
    let seconds = |at: aws_sdk_kms::primitives::DateTime| u64::try_from(at.secs()).unwrap_or(0);
    Ok(KeyInfo {
        arn: KeyArn(found.arn.ok_or_else(|| malformed(what, "the answer has no ARN"))?),
        state: match found.key_state {
            Some(State::Enabled) => KeyState::Enabled,
            Some(State::Disabled) => KeyState::Disabled,
            Some(State::PendingDeletion | State::PendingReplicaDeletion) => {
                KeyState::PendingDeletion
            }
            Some(State::PendingImport) => KeyState::PendingImport,
            _ => KeyState::Unavailable,
        },
        id: found.key_id,
        aliases: Vec::new(),
        created: found.creation_date.map_or(0, seconds),
        description: found.description.unwrap_or_default(),
        deletion: found.deletion_date.map(seconds),
        versions: None,
    })
}

impl AwsKms {
    fn describe_bare(&self, key: &str) -> Result<KeyInfo, KmsError> {
        let key = self.names.asked(&KeyRef(key.to_owned()))?.0;
        let what = &format!("DescribeKey of {key}");
        let answer = self.run(self.client.describe_key().key_id(key).send());
        let found = info(what, answer.map_err(|e| self.error(what, &e))?.key_metadata)?;
        Ok(KeyInfo { arn: self.names.told(found.arn), ..found })
    }

    /// All aliases, or those of one key.
    fn list_aliases(&self, key: Option<&str>) -> Result<Vec<AliasInfo>, KmsError> {
        let mut pages =
            self.client.list_aliases().set_key_id(key.map(str::to_owned)).into_paginator().send();
        let mut all = Vec::new();
        while let Some(page) = self.run(pages.next()) {
            let page = page.map_err(|e| self.error("ListAliases", &e))?;
            for alias in page.aliases.unwrap_or_default() {
                // An alias of AWS's own may point to nothing yet.
                if let (Some(name), Some(target)) = (alias.alias_name, alias.target_key_id) {
                    // Some servers give back the ARN that they were given.
                    let id = target.rsplit_once(":key/").map(|(_, id)| id.to_owned());
                    all.push(AliasInfo { name, target: id.unwrap_or(target) });
                }
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    fn list_ids(&self) -> Result<Vec<String>, KmsError> {
        let mut pages = self.client.list_keys().into_paginator().send();
        let mut all = Vec::new();
        while let Some(page) = self.run(pages.next()) {
            let page = page.map_err(|e| self.error("ListKeys", &e))?;
            all.extend(page.keys.unwrap_or_default().into_iter().filter_map(|k| k.key_id));
        }
        Ok(all)
    }

    /// The key policy, as the JSON text that GetKeyPolicy gives.
    ///
    /// # Errors
    /// See [`KmsError::verdict`].
    pub fn policy(&self, key: &KeyRef) -> Result<String, KmsError> {
        // It takes an id or an ARN, no alias.
        let id = self.describe_bare(&key.0)?.id;
        let what = &format!("GetKeyPolicy of {key}");
        let answer = self.run(self.client.get_key_policy().key_id(id).send());
        let answer = answer.map_err(|e| self.error(what, &e))?;
        answer.policy.ok_or_else(|| malformed(what, "the answer has no policy"))
    }
}

/// The id of what `key` names: most administrative calls take no alias.
fn id_of(kms: &AwsKms, key: &KeyRef) -> Result<String, KmsError> {
    let text = &key.0;
    let is_alias = text.starts_with("alias/") || text.contains(":alias/");
    if is_alias { kms.describe_bare(text).map(|i| i.id) } else { Ok(kms.names.asked(key)?.0) }
}

impl KeyAdmin for AwsKms {
    fn create(&self, description: &str) -> Result<KeyInfo, KmsError> {
        let call = self.client.create_key().description(description);
        let answer = self.run(call.send()).map_err(|e| self.error("CreateKey", &e))?;
        info("CreateKey", answer.key_metadata)
    }

    fn list(&self) -> Result<Vec<KeyInfo>, KmsError> {
        let mut aliases: HashMap<String, Vec<String>> = HashMap::new();
        for alias in self.list_aliases(None)? {
            aliases.entry(alias.target).or_default().push(alias.name);
        }
        let mut all = Vec::new();
        for id in self.list_ids()? {
            match self.describe_bare(&id) {
                Ok(mut key) => {
                    key.aliases = aliases.remove(&id).unwrap_or_default();
                    all.push(key);
                }
                // Others' keys of the same account, and those deleted at this moment.
                Err(e) if e.verdict == Verdict::Refused => log::warn!("left out: {e}"),
                Err(e) => return Err(e),
            }
        }
        all.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        Ok(all)
    }

    fn describe(&self, key: &KeyRef) -> Result<KeyInfo, KmsError> {
        let mut found = self.describe_bare(&key.0)?;
        // ListAliases is of the account, not of the key: who may describe it may lack that.
        match self.list_aliases(Some(&found.id)) {
            Ok(aliases) => found.aliases = aliases.into_iter().map(|a| a.name).collect(),
            Err(e) if e.verdict == Verdict::Refused => log::warn!("cannot list the aliases: {e}"),
            Err(e) => return Err(e),
        }
        Ok(found)
    }

    fn disable(&self, key: &KeyRef) -> Result<(), KmsError> {
        let id = id_of(self, key)?;
        let answer = self.run(self.client.disable_key().key_id(id).send());
        answer.map(drop).map_err(|e| self.error(&format!("DisableKey of {key}"), &e))
    }

    fn enable(&self, key: &KeyRef) -> Result<(), KmsError> {
        let id = id_of(self, key)?;
        let answer = self.run(self.client.enable_key().key_id(id).send());
        answer.map(drop).map_err(|e| self.error(&format!("EnableKey of {key}"), &e))
    }

    fn rotate(&self, key: &KeyRef) -> Result<(), KmsError> {
        let id = id_of(self, key)?;
        let answer = self.run(self.client.rotate_key_on_demand().key_id(id).send());
        answer.map(drop).map_err(|e| self.error(&format!("RotateKeyOnDemand of {key}"), &e))
    }

    fn schedule_deletion(&self, key: &KeyRef, days: u32) -> Result<u64, KmsError> {
        let what = &format!("ScheduleKeyDeletion of {key}");
        // Not left to the server: a lax one would take a window of no days.
        let window = i32::try_from(days).ok().filter(|_| WINDOW.contains(&days));
        let Some(window) = window else {
            let why = format!("{what}: the window is 7 to 30 days, not {days}");
            return Err(KmsError::new(Verdict::Invalid, "ValidationException", why));
        };
        let id = id_of(self, key)?;
        let call = self.client.schedule_key_deletion().key_id(id).pending_window_in_days(window);
        let answer = self.run(call.send()).map_err(|e| self.error(what, &e))?;
        let at = answer.deletion_date.and_then(|at| u64::try_from(at.secs()).ok());
        at.ok_or_else(|| malformed(what, "the answer says no date"))
    }

    fn cancel_deletion(&self, key: &KeyRef) -> Result<(), KmsError> {
        let id = id_of(self, key)?;
        let answer = self.run(self.client.cancel_key_deletion().key_id(id).send());
        answer.map(drop).map_err(|e| self.error(&format!("CancelKeyDeletion of {key}"), &e))
    }

    fn set_alias(&self, name: &str, key: &KeyRef) -> Result<(), KmsError> {
        let what = &format!("CreateAlias {name}");
        let id = id_of(self, key)?;
        let call = self.client.create_alias().alias_name(name).target_key_id(&id);
        let made = self.run(call.send()).map_err(|e| self.error(what, &e));
        match made {
            Err(e) if e.code == "AlreadyExistsException" => {
                let call = self.client.update_alias().alias_name(name).target_key_id(id);
                let moved = self.run(call.send());
                moved.map(drop).map_err(|e| self.error(&format!("UpdateAlias {name}"), &e))
            }
            other => other.map(drop),
        }
    }

    fn remove_alias(&self, name: &str) -> Result<(), KmsError> {
        let answer = self.run(self.client.delete_alias().alias_name(name).send());
        answer.map(drop).map_err(|e| self.error(&format!("DeleteAlias {name}"), &e))
    }

    fn aliases(&self) -> Result<Vec<AliasInfo>, KmsError> {
        self.list_aliases(None)
    }

    fn last_use(&self, key: &KeyRef) -> Result<LastUse, KmsError> {
        let id = id_of(self, key)?;
        let what = &format!("GetKeyLastUsage of {key}");
        let answer = self.run(self.client.get_key_last_usage().key_id(id).send());
        let answer = answer.map_err(|e| self.error(what, &e))?;
        let seconds = |at: aws_sdk_kms::primitives::DateTime| u64::try_from(at.secs()).ok();
        let used = answer.key_last_usage.and_then(|used| Some((used.timestamp?, used)));
        Ok(match (used, answer.tracking_start_date.and_then(seconds)) {
            (Some((at, used)), _) => LastUse::At {
                when: seconds(at).ok_or_else(|| malformed(what, "the time lies before 1970"))?,
                operation: used.operation.map_or("an operation".into(), |o| o.as_str().to_owned()),
                event: used.cloud_trail_event_id,
            },
            (None, Some(since)) => LastUse::NotSince(since),
            (None, None) => LastUse::Unknown,
        })
    }
}
