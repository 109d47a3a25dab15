//! What keys are called above this folder, and in the region that is asked.

use crate::kms::multi_region::{region_of, with_region};
use crate::kms::{KeyArn, KeyRef, KmsError, Verdict};

/// How the names that a store has become those that the KMS knows, and back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// They are the same.
    Same,
    /// A region is asked in the place of another: its replicas of multi-Region keys.
    Replica {
        /// The region in the names that a store has.
        home: String,
        /// The region that is asked.
        region: String,
    },
}

impl Names {
    /// What the region that is asked calls a key. Aliases are of their region alone: one of the same
    /// name may lead to another key.
    ///
    /// # Errors
    /// `Refused` for a key that has no replicas.
    pub(super) fn asked(&self, key: &KeyRef) -> Result<KeyRef, KmsError> {
        let Self::Replica { home, region } = self else { return Ok(key.clone()) };
        let text = key.0.as_str();
        let there = if text.starts_with("alias/") || text.starts_with("mrk-") {
            Some(text.to_owned())
        } else if region_of(text) != Some(home) {
            None
        } else if text.contains(":alias/") {
            with_region(text, region)
        } else {
            KeyArn(text.to_owned()).in_region(region).map(|arn| arn.0)
        };
        there.map(KeyRef).ok_or_else(|| {
            let why = format!("{key} is no multi-Region key of {home}: {region} has no replica");
            KmsError::new(Verdict::Refused, "NotFoundException", why)
        })
    }

    /// What a store calls the key that the KMS has answered with.
    pub(super) fn told(&self, answered: KeyArn) -> KeyArn {
        match self {
            Self::Replica { home, region } if region_of(&answered.0) == Some(region) => {
                answered.in_region(home).unwrap_or(answered)
            }
            _ => answered,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica() -> Names {
        Names::Replica { home: "us-east-1".to_owned(), region: "eu-west-1".to_owned() }
    }

    fn arn(region: &str, name: &str) -> String {
        format!("arn:aws:kms:{region}:111122223333:{name}")
    }

    #[test]
    fn a_replica_is_asked_by_its_own_name_and_known_by_the_stores() {
        let asked = |text: &str| replica().asked(&KeyRef(text.to_owned())).map(|key| key.0);
        for name in ["key/mrk-1", "alias/x"] {
            assert_eq!(asked(&arn("us-east-1", name)), Ok(arn("eu-west-1", name)));
        }
        for same in ["mrk-1", "alias/x"] {
            assert_eq!(asked(same).as_deref(), Ok(same));
        }
        let told = |region: &str, name: &str| replica().told(KeyArn(arn(region, name))).0;
        assert_eq!(told("eu-west-1", "key/mrk-1"), arn("us-east-1", "key/mrk-1"));
        for (region, name) in [("eu-west-1", "key/1"), ("eu-west-2", "key/mrk-1")] {
            assert_eq!(told(region, name), arn(region, name), "nobody's replica");
        }
    }

    /// Whoever can write a store can name any key in it.
    #[test]
    fn no_other_key_is_asked_for() {
        for other in [
            &arn("us-east-1", "key/1"),
            &arn("eu-west-1", "key/mrk-1"),
            &arn("eu-west-2", "alias/x"),
            "1234",
            "vault:transit:key/mrk-1",
        ] {
            let refused = replica().asked(&KeyRef(other.to_owned())).map_err(|e| e.verdict);
            assert_eq!(refused, Err(Verdict::Refused), "{other}");
            assert_eq!(Names::Same.asked(&KeyRef(other.to_owned())), Ok(KeyRef(other.to_owned())));
        }
    }
}
