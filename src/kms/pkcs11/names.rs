//! What a key is called: in an answer, in a store, and by its user.
//!
//! ```text
//! pkcs11:TOKEN:key/ID        the ARN: the token's label, percent-encoded; CKA_ID in hexadecimal
//! ID, LABEL, alias/LABEL     what a user may say: CKA_ID in hexadecimal, or CKA_LABEL
//! ```
//! The token's serial number is no part of it: a token that was restored on another HSM, and each
//! member of a cluster, has another.

use std::fmt;
use std::fmt::Write;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};

use crate::kms::{KeyArn, KeyRef, KmsError, Verdict, is_token_label};

/// Longer ids are not taken: a wrapped key says its own.
pub(super) const LONGEST_ID: usize = 64;
/// Of a key's label, in bytes: longer than is usual.
const LONGEST_LABEL: usize = 256;

/// A CKA_ID, of 1 to 64 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KeyId(Vec<u8>);

impl KeyId {
    /// `None` where a key of kmsfs cannot have it.
    pub(super) fn new(bytes: Vec<u8>) -> Option<Self> {
        (1..=LONGEST_ID).contains(&bytes.len()).then_some(Self(bytes))
    }

    /// From hexadecimal digits.
    fn parse(text: &str) -> Option<Self> {
        Self::new(HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

/// By what an object is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sought {
    /// The key with this CKA_ID.
    Id(KeyId),
    /// The key with this CKA_LABEL.
    Label(String),
    /// The key with this CKA_ID; where there is none, the key with this CKA_LABEL.
    IdOrLabel(KeyId, String),
}

/// What names of keys begin with.
#[derive(Clone, Debug)]
pub(super) struct Names {
    home: String,
}

impl Names {
    /// Of a token with this label.
    ///
    /// # Errors
    /// `Invalid` where it can be none's.
    pub(super) fn of(token: &str) -> Result<Self, KmsError> {
        if !is_token_label(token) {
            let why = format!("{token:?} is no label of a token: 1 to 32 bytes of text");
            return Err(KmsError::new(Verdict::Invalid, "ValidationException", why));
        }
        let mut home = "pkcs11:".to_owned();
        for byte in token.bytes() {
            // What RFC 3986 calls unreserved.
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                home.push(char::from(byte));
            } else {
                write!(home, "%{byte:02X}").expect("a String takes all that is written");
            }
        }
        Ok(Self { home })
    }

    /// The ARN of a key.
    pub(super) fn arn(&self, id: &KeyId) -> KeyArn {
        KeyArn(format!("{}:key/{id}", self.home))
    }

    /// What a user or a store names.
    ///
    /// # Errors
    /// `Refused` for a key of another token; `Invalid` for what is no name.
    pub(super) fn sought(&self, key: &KeyRef) -> Result<Sought, KmsError> {
        let text = key.0.as_str();
        let invalid = |why: String| KmsError::new(Verdict::Invalid, "ValidationException", why);
        if let Some((home, id)) = text.rsplit_once(":key/") {
            if home != self.home {
                let why = format!("{key} is not a key of {}", self.home);
                return Err(KmsError::new(Verdict::Refused, "NotFoundException", why));
            }
            let id = KeyId::parse(id);
            return id.map(Sought::Id).ok_or_else(|| invalid(format!("{key} names no CKA_ID")));
        }
        let label = text.strip_prefix("alias/").unwrap_or(text);
        if !is_label(label) {
            let why = "is no name of a key: a label of printable ASCII without blanks, or an id";
            return Err(invalid(format!("{label:?} {why}")));
        }
        Ok(match KeyId::parse(label).filter(|_| label == text) {
            Some(id) => Sought::IdOrLabel(id, label.to_owned()),
            None => Sought::Label(label.to_owned()),
        })
    }
}

/// Whether a key can be named by its label: a volume's text of it has no blanks.
pub(super) fn is_label(text: &str) -> bool {
    (1..=LONGEST_LABEL).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_name_and_three_spellings() {
        let at = Names::of("HSM 1: prod").expect("a label");
        let id = KeyId::new(vec![0xa1, 0xb2]).expect("an id");
        let arn = at.arn(&id);
        assert_eq!(arn.0, "pkcs11:HSM%201%3A%20prod:key/a1b2");
        assert_eq!(arn.home(), Some("pkcs11:HSM%201%3A%20prod"));
        let sought = |text: &str| at.sought(&KeyRef(text.to_owned()));
        assert_eq!(sought(&arn.0), Ok(Sought::Id(id.clone())));
        assert_eq!(sought("A1B2"), Ok(Sought::IdOrLabel(id, "A1B2".to_owned())));
        assert_eq!(sought("alias/a1b2"), Ok(Sought::Label("a1b2".to_owned())));
        assert_eq!(sought("kmsfs"), Ok(Sought::Label("kmsfs".to_owned())));
        for refused in ["pkcs11:other:key/a1b2", "arn:aws:kms:eu-west-1:1:key/x", ":key/a1"] {
            assert_eq!(sought(refused).expect_err(refused).verdict, Verdict::Refused);
        }
        let bare = format!("{}:key/", at.home);
        let long = "x".repeat(257);
        for invalid in ["", "alias/", "a b", "schlüssel", "a\n", &bare, &format!("{bare}xy"), &long]
        {
            assert_eq!(sought(invalid).expect_err(invalid).verdict, Verdict::Invalid);
        }
    }

    #[test]
    fn a_token_has_a_label() {
        assert_eq!(Names::of("kmsfs").expect("a label").home, "pkcs11:kmsfs");
        for bad in ["", " x", "x ", "a\x1b[2J", &"x".repeat(33)] {
            assert!(Names::of(bad).is_err(), "{bad:?}");
        }
    }
}
