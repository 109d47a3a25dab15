//! The administrative calls. A key is an object of the token; its label is the one name that it
//! has, and it is destroyed at once or not at all.

use cryptoki::mechanism::Mechanism;
use cryptoki::object::Attribute;
use cryptoki::types::Ulong;
use data_encoding::HEXLOWER;

use super::client::Pkcs11Kms;
use super::errors;
use super::keys::{self, Found};
use super::names::{KeyId, Names, is_label};
use crate::kms::{AliasInfo, KeyAdmin, KeyInfo, KeyRef, KeyState, KmsError, Verdict};
use crate::secret::random_bytes;

fn unsupported(what: &str, why: &str) -> KmsError {
    let why = format!("{what}: {why}");
    KmsError::new(Verdict::Invalid, "UnsupportedOperationException", why)
}

fn info(names: &Names, key: &Found) -> KeyInfo {
    let named = Some(&key.label).filter(|label| is_label(label));
    KeyInfo {
        id: key.id.to_string(),
        arn: names.arn(&key.id),
        state: key.state(),
        aliases: named.map(|label| format!("alias/{label}")).into_iter().collect(),
        created: 0,
        description: String::new(),
        deletion: None,
        versions: None,
    }
}

/// What a new key is: it does not leave the token, and does nothing but what kmsfs needs.
fn template(id: &KeyId, label: &str) -> Vec<Attribute> {
    vec![
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Modifiable(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Sign(false),
        Attribute::Verify(false),
        Attribute::Derive(false),
        Attribute::ValueLen(Ulong::new(32)),
        Attribute::Id(id.bytes().to_vec()),
        Attribute::Label(label.into()),
    ]
}

impl Pkcs11Kms {
    fn make(&self, label: &str, description: &str) -> Result<KeyInfo, KmsError> {
        let what = format!("CreateKey {label}");
        if !is_label(label) {
            let why = format!("{what}: a label is printable ASCII without blanks");
            return Err(KmsError::new(Verdict::Invalid, "ValidationException", why));
        }
        if !description.is_empty() {
            log::warn!("{what}: a token keeps no description");
        }
        let id = KeyId::new(random_bytes::<16>().to_vec()).expect("16 bytes are an id");
        let (names, label) = (self.names.clone(), label.to_owned());
        self.changers.call(&what.clone(), move |open| {
            let name = KeyRef(format!("alias/{label}"));
            match keys::find(open, &names, &what, &name) {
                Err(e) if e.code == "NotFoundException" => {}
                Err(e) if e.verdict != Verdict::Invalid => return Err(e),
                _ => {
                    let why = format!("{what}: there is a key of this name");
                    return Err(KmsError::new(Verdict::Invalid, "AlreadyExistsException", why));
                }
            }
            let made = open.session.generate_key(&Mechanism::AesKeyGen, &template(&id, &label));
            made.map_err(|e| errors::of(&what, &e))?;
            let key = KeyRef::from(&names.arn(&id));
            keys::find(open, &names, &what, &key).map(|found| info(&names, &found))
        })
    }

    /// Lets a key be used, or no more.
    fn set(&self, what: String, key: &KeyRef, state: KeyState) -> Result<(), KmsError> {
        let (names, key) = (self.names.clone(), key.clone());
        let may = state == KeyState::Enabled;
        self.changers.call(&what.clone(), move |open| {
            let found = keys::find(open, &names, &what, &key)?;
            if (found.encrypt, found.decrypt) == (may, may) {
                return Ok(());
            }
            let both = [Attribute::Encrypt(may), Attribute::Decrypt(may)];
            open.session.update_attributes(found.handle, &both).map_err(|e| {
                let e = errors::of(&what, &e);
                if e.verdict != Verdict::Invalid {
                    return e;
                }
                let why = "this token does not let CKA_ENCRYPT and CKA_DECRYPT of this key be \
                           changed. Destroy the key, or take the token out";
                unsupported(&what, &format!("{why} ({})", e.message))
            })
        })
    }
}

const NO_ALIASES: &str = "a token has no aliases: alias/NAME is the key with the label NAME";

impl KeyAdmin for Pkcs11Kms {
    fn create(&self, description: &str) -> Result<KeyInfo, KmsError> {
        self.make(&format!("kmsfs-{}", HEXLOWER.encode(&random_bytes::<8>())), description)
    }

    fn create_as(&self, alias: &str, description: &str) -> Result<KeyInfo, KmsError> {
        self.make(alias.strip_prefix("alias/").unwrap_or(alias), description)
    }

    fn list(&self) -> Result<Vec<KeyInfo>, KmsError> {
        let names = self.names.clone();
        self.callers.call("ListKeys", move |open| {
            let mut all = keys::all(open, "ListKeys")?;
            all.sort_by(|a, b| a.id.cmp(&b.id));
            Ok(all.iter().map(|key| info(&names, key)).collect())
        })
    }

    fn describe(&self, key: &KeyRef) -> Result<KeyInfo, KmsError> {
        let (names, key) = (self.names.clone(), key.clone());
        let what = format!("DescribeKey of {key}");
        self.callers.call(&what.clone(), move |open| {
            keys::find(open, &names, &what, &key).map(|found| info(&names, &found))
        })
    }

    fn disable(&self, key: &KeyRef) -> Result<(), KmsError> {
        self.set(format!("DisableKey of {key}"), key, KeyState::Disabled)
    }

    fn enable(&self, key: &KeyRef) -> Result<(), KmsError> {
        self.set(format!("EnableKey of {key}"), key, KeyState::Enabled)
    }

    fn rotate(&self, key: &KeyRef) -> Result<(), KmsError> {
        let why = "a key of a token has one value: make another key, and rewrap to it";
        Err(unsupported(&format!("RotateKeyOnDemand of {key}"), why))
    }

    fn schedule_deletion(&self, key: &KeyRef, _days: u32) -> Result<u64, KmsError> {
        let why = "a token destroys at once and for good: disable the key instead, and destroy it \
                   with the token's own tool when nothing needs it any more";
        Err(unsupported(&format!("ScheduleKeyDeletion of {key}"), why))
    }

    fn cancel_deletion(&self, key: &KeyRef) -> Result<(), KmsError> {
        Err(unsupported(&format!("CancelKeyDeletion of {key}"), "a token schedules none"))
    }

    fn set_alias(&self, name: &str, _key: &KeyRef) -> Result<(), KmsError> {
        Err(unsupported(&format!("CreateAlias {name}"), NO_ALIASES))
    }

    fn remove_alias(&self, name: &str) -> Result<(), KmsError> {
        Err(unsupported(&format!("DeleteAlias {name}"), NO_ALIASES))
    }

    fn aliases(&self) -> Result<Vec<AliasInfo>, KmsError> {
        Ok(Vec::new())
    }
}
