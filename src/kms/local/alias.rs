//! `aliases.json`: names for keys.
//!
//! ```text
//! {"format":1,"aliases":{"alias/NAME":ID,…}}
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::id::Id;
use super::json;
use crate::kms::{KmsError, Verdict};

const FORMAT: u32 = 1;
const PREFIX: &str = "alias/";
const RESERVED: &str = "alias/aws/";
const MAX_NAME: usize = 256;
/// How many aliases a keystore holds at most.
pub(super) const MAX_ALIASES: usize = 5000;
/// The longest file that is read.
pub(super) const MAX_FILE: u64 = 2 << 20;

/// Every alias, with its `alias/`, and its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Aliases {
    format: u32,
    pub(super) aliases: BTreeMap<String, Id>,
}

impl Aliases {
    pub(super) fn new() -> Self {
        Self { format: FORMAT, aliases: BTreeMap::new() }
    }

    /// The names of one key, sorted.
    pub(super) fn of(&self, key: Id) -> Vec<String> {
        self.aliases.iter().filter(|&(_, &k)| k == key).map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        json::encode(self)
    }

    pub(super) fn parse(file: &[u8]) -> Result<Self, String> {
        let aliases: Self = json::parse(file)?;
        if aliases.format != FORMAT {
            return Err(format!("unknown format {}", aliases.format));
        }
        if let Some(bad) = aliases.aliases.keys().find(|name| check_name(name).is_err()) {
            return Err(format!("{bad:?} cannot be an alias"));
        }
        Ok(aliases)
    }
}

/// Whether `text` means to be an alias.
pub(super) fn is_alias(text: &str) -> bool {
    text.starts_with(PREFIX)
}

/// Whether `name` can be an alias, as KMS has it.
pub(super) fn check_name(name: &str) -> Result<(), KmsError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"/_-".contains(&b);
    let what = match name.strip_prefix(PREFIX) {
        None => "an alias starts with alias/",
        Some("") => "an alias has a name after alias/",
        Some(_) if name.starts_with(RESERVED) => "names that start with alias/aws/ are reserved",
        Some(_) if name.len() > MAX_NAME => "an alias has at most 256 characters",
        Some(rest) if !rest.bytes().all(allowed) => {
            "an alias consists of letters, digits, slashes, hyphens and underscores"
        }
        Some(_) => return Ok(()),
    };
    let message = format!("{name:?}: {what}");
    Err(KmsError::new(Verdict::Invalid, "ValidationException", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_changed_byte_of_the_file_is_damage() {
        let mut aliases = Aliases::new();
        aliases.aliases.insert("alias/kmsfs".to_owned(), Id::random());
        let file = aliases.encode();
        assert_eq!(Aliases::parse(&file), Ok(aliases));
        for at in 0..file.len() {
            for bit in 0..8 {
                let mut bad = file.clone();
                bad[at] ^= 1 << bit;
                assert!(Aliases::parse(&bad).is_err(), "byte {at} bit {bit}");
            }
        }
    }

    #[test]
    fn names_are_those_of_kms() {
        let long = format!("alias/{}", "x".repeat(250));
        for good in ["alias/a", "alias/a/b_c-D9", long.as_str()] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        let longer = format!("{long}x");
        for bad in ["a", "alias/", "alias/aws/x", "alias/a b", "alias/é", longer.as_str()] {
            let error = check_name(bad).expect_err(bad);
            assert_eq!(
                (error.verdict, error.code.as_str()),
                (Verdict::Invalid, "ValidationException")
            );
        }
    }
}
