//! What a key is called: in an answer, in a store, and by its user.
//!
//! ```text
//! vault:NAMESPACE/MOUNT:key/NAME     the ARN: vault:transit:key/kmsfs, vault:team/a/transit:key/kmsfs
//! NAME, alias/NAME                   what a user may say
//! ```
//! The server's address is no part of it: a server moves, and others of its cluster answer for it.

use super::place::Place;
use crate::kms::{KeyArn, KeyRef, KmsError, Verdict, is_path};

/// Longer than any that Transit takes.
const LONGEST: usize = 256;

/// Transit's own rule: letters, digits and `_`, with `-` and `.` inside.
fn is_name(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = text.as_bytes();
    let ends =
        bytes.first().is_some_and(|b| is_word(*b)) && bytes.last().is_some_and(|b| is_word(*b));
    ends && bytes.len() <= LONGEST && bytes.iter().all(|b| is_word(*b) || b"-.".contains(b))
}

/// What names of keys begin with.
#[derive(Clone, Debug)]
pub(super) struct Names {
    home: String,
}

impl Names {
    /// Of a place.
    ///
    /// # Errors
    /// `Invalid` where its namespace or mount is no path.
    pub(super) fn of(place: &Place) -> Result<Self, KmsError> {
        let bad = |what: &str, text: &str| {
            let why = format!("{text:?} is no path of a {what}: letters, digits, - _ . and /");
            Err(KmsError::new(Verdict::Invalid, "VaultPath", why))
        };
        if !place.namespace.is_empty() && !is_path(&place.namespace) {
            return bad("namespace", &place.namespace);
        }
        if !is_path(&place.mount) {
            return bad("secrets engine", &place.mount);
        }
        let slash = if place.namespace.is_empty() { "" } else { "/" };
        Ok(Self { home: format!("vault:{}{slash}{}", place.namespace, place.mount) })
    }

    /// The ARN of a key.
    pub(super) fn arn(&self, name: &str) -> KeyArn {
        KeyArn(format!("{}:key/{name}", self.home))
    }

    /// The name in Transit of what a user or a store names.
    ///
    /// # Errors
    /// `Refused` for a key of another place; `Invalid` for what is no name.
    pub(super) fn name_of<'a>(&self, key: &'a KeyRef) -> Result<&'a str, KmsError> {
        let text = key.0.as_str();
        let name = match text.rsplit_once(":key/") {
            Some((home, name)) if home == self.home => name,
            Some(_) => {
                let why = format!("{key} is not a key of {}", self.home);
                return Err(KmsError::new(Verdict::Refused, "NotFoundException", why));
            }
            None => text.strip_prefix("alias/").unwrap_or(text),
        };
        if is_name(name) {
            return Ok(name);
        }
        let why =
            format!("{name:?} is no name of a key: letters, digits and _, with - and . inside");
        Err(KmsError::new(Verdict::Invalid, "ValidationException", why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(namespace: &str, mount: &str) -> Result<Names, String> {
        let (namespace, mount) = (namespace.to_owned(), mount.to_owned());
        Names::of(&Place { namespace, mount, ..Place::sample() }).map_err(|e| e.code)
    }

    #[test]
    fn a_key_has_one_name_and_three_spellings() {
        let at = names("team/a", "transit").expect("paths");
        let arn = at.arn("k-1.b_");
        assert_eq!(
            (arn.0.as_str(), arn.home()),
            ("vault:team/a/transit:key/k-1.b_", Some("vault:team/a/transit"))
        );
        for said in ["k-1.b_", "alias/k-1.b_", &arn.0] {
            assert_eq!(at.name_of(&KeyRef(said.to_owned())).as_deref(), Ok("k-1.b_"), "{said}");
        }
        let verdict = |said: &str| at.name_of(&KeyRef(said.to_owned())).expect_err(said).verdict;
        for said in ["vault:transit:key/k", "arn:aws:kms:eu-west-1:1:key/k", ":key/k"] {
            assert_eq!(verdict(said), Verdict::Refused, "{said}");
        }
        for said in
            ["", "a/b", "../sys/seal", "-a", "a.", "a b", "a?x", "alias/alias/a", "schlüssel"]
        {
            assert_eq!(verdict(said), Verdict::Invalid, "{said}");
        }
    }

    #[test]
    fn paths_lead_nowhere_else() {
        assert_eq!(names("", "transit").expect("a path").arn("k").0, "vault:transit:key/k");
        for bad in ["", "/transit", "transit/", "a//b", "a/../sys", ".", "a?b", "a:key", "a b"] {
            assert_eq!(names("", bad).err().as_deref(), Some("VaultPath"), "{bad}");
            assert!(bad.is_empty() || names(bad, "transit").is_err(), "{bad}");
        }
    }
}
