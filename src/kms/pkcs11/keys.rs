//! Objects of a token that are master keys: AES, of 256 bits, with a CKA_ID.

use cryptoki::error::Error;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};

use super::errors;
use super::names::{KeyId, Names, Sought};
use super::session::Open;
use crate::kms::{KeyRef, KeyState, KmsError, Verdict};

/// Of 256 bits, in bytes.
const LENGTH: u64 = 32;

/// A key as it is now.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) handle: ObjectHandle,
    pub(super) id: KeyId,
    /// Its CKA_LABEL, where that is text.
    pub(super) label: String,
    /// CKA_ENCRYPT.
    pub(super) encrypt: bool,
    /// CKA_DECRYPT.
    pub(super) decrypt: bool,
}

impl Found {
    /// Enabled is what can do both.
    pub(super) fn state(&self) -> KeyState {
        if self.encrypt && self.decrypt { KeyState::Enabled } else { KeyState::Disabled }
    }
}

/// Why an object is no key of kmsfs.
enum Odd {
    NoId,
    NotOf256Bits,
}

impl Odd {
    fn told(&self) -> &'static str {
        match self {
            Self::NoId => "it has no CKA_ID of 1 to 64 bytes: give it one",
            Self::NotOf256Bits => "it is no AES key of 256 bits",
        }
    }
}

/// The attributes that a search goes by, of every key that kmsfs may use.
fn template() -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(true),
    ]
}

fn look(open: &Open, handle: ObjectHandle) -> Result<Result<Found, Odd>, Error> {
    let asked = [
        AttributeType::Id,
        AttributeType::Label,
        AttributeType::ValueLen,
        AttributeType::Encrypt,
        AttributeType::Decrypt,
    ];
    let (mut id, mut label, mut length) = (None, Vec::new(), None);
    let (mut encrypt, mut decrypt) = (false, false);
    for attribute in open.session.get_attributes(handle, &asked)? {
        match attribute {
            Attribute::Id(bytes) => id = KeyId::new(bytes),
            Attribute::Label(bytes) => label = bytes,
            Attribute::ValueLen(n) => length = Some(*n),
            Attribute::Encrypt(may) => encrypt = may,
            Attribute::Decrypt(may) => decrypt = may,
            _ => {}
        }
    }
    // A token need not tell the length: then the mechanism does.
    if length.is_some_and(|n| n != LENGTH) {
        return Ok(Err(Odd::NotOf256Bits));
    }
    let label = String::from_utf8(label).unwrap_or_default();
    Ok(id.map(|id| Found { handle, id, label, encrypt, decrypt }).ok_or(Odd::NoId))
}

fn with(open: &Open, what: &str, by: Option<Attribute>) -> Result<Vec<ObjectHandle>, KmsError> {
    let mut template = template();
    template.extend(by);
    open.session.find_objects(&template).map_err(|e| errors::of(what, &e))
}

/// The key that `key` names, as it is now.
///
/// # Errors
/// `Refused` where the token has none; `Invalid` where it has several, or what it has is none for
/// kmsfs.
pub(super) fn find(
    open: &Open,
    names: &Names,
    what: &str,
    key: &KeyRef,
) -> Result<Found, KmsError> {
    let sought = names.sought(key)?;
    let by_id = |id: &KeyId| with(open, what, Some(Attribute::Id(id.bytes().to_vec())));
    let by_label = |label: &str| with(open, what, Some(Attribute::Label(label.into())));
    let handles = match &sought {
        Sought::Id(id) => by_id(id)?,
        Sought::Label(label) => by_label(label)?,
        Sought::IdOrLabel(id, label) => match by_id(id)? {
            none if none.is_empty() => by_label(label)?,
            some => some,
        },
    };
    let invalid = |why: &str| {
        let why = format!("{what}: {why}");
        Err(KmsError::new(Verdict::Invalid, "ValidationException", why))
    };
    match handles[..] {
        [] => {
            open.check()?;
            let why = format!("{what}: the token has no such key");
            Err(KmsError::new(Verdict::Refused, "NotFoundException", why))
        }
        [handle] => match look(open, handle).map_err(|e| errors::of(what, &e))? {
            Ok(found) => Ok(found),
            Err(odd) => invalid(odd.told()),
        },
        _ => invalid(
            "the token has several keys of that name: name one by its id, if that is its own",
        ),
    }
}

/// Every key that kmsfs could use.
///
/// # Errors
/// The module's.
pub(super) fn all(open: &Open, what: &str) -> Result<Vec<Found>, KmsError> {
    let mut found = Vec::new();
    for handle in with(open, what, None)? {
        match look(open, handle).map_err(|e| errors::of(what, &e))? {
            Ok(key) => found.push(key),
            Err(odd) => log::info!("{what}: a key is left out: {}", odd.told()),
        }
    }
    if found.is_empty() {
        open.check()?;
    }
    Ok(found)
}
