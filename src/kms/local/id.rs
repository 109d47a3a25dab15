//! Ids of keystores and keys, in the spelling that KMS uses.

use std::fmt;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::kms::KeyArn;
use crate::secret::random_bytes;

/// A random id, written as a UUID in lower case: `1b4e28ba-2fa1-4d3b-a3f5-ef19b5a7633b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Id(pub(super) [u8; 16]);

impl Id {
    /// A fresh UUID of version 4.
    pub(super) fn random() -> Self {
        let mut id: [u8; 16] = random_bytes();
        id[6] = id[6] & 0x0f | 0x40;
        id[8] = id[8] & 0x3f | 0x80;
        Self(id)
    }

    /// The id that `text` spells, in the one accepted spelling.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let hex: String = text.chars().filter(|&c| c != '-').collect();
        let bytes = HEXLOWER.decode(hex.as_bytes()).ok()?;
        let id = Self(bytes.try_into().ok()?);
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = HEXLOWER.encode(&self.0);
        let (a, b, c, d, e) = (&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
        write!(f, "{a}-{b}-{c}-{d}-{e}")
    }
}

impl TryFrom<String> for Id {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("not an id")
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        id.to_string()
    }
}

const ARN: &str = "arn:kmsfs:kms:local:";

/// The ARN of a key in a keystore.
pub(super) fn arn(keystore: Id, key: Id) -> KeyArn {
    KeyArn(format!("{ARN}{keystore}:key/{key}"))
}

/// The keystore and key that an ARN names.
pub(super) fn parse_arn(text: &str) -> Option<(Id, Id)> {
    let (keystore, key) = text.strip_prefix(ARN)?.split_once(":key/")?;
    Some((Id::parse(keystore)?, Id::parse(key)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling() {
        let id = Id::random();
        let text = id.to_string();
        assert_eq!(Id::parse(&text), Some(id));
        assert_eq!(Id::parse(&text.to_uppercase()), None);
        assert_eq!(Id::parse(&text.replace('-', "")), None);
        assert_eq!(Id::parse(&format!("{text}-")), None);
        let keystore = Id::random();
        assert_eq!(parse_arn(&arn(keystore, id).0), Some((keystore, id)));
        assert_eq!(parse_arn(&format!("{} ", arn(keystore, id).0)), None);
    }
}
