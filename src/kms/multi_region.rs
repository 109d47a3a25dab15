//! Multi-Region keys of AWS KMS: one key id and one key material in several regions, where each
//! region's key has an ARN, a state and a policy of its own.

use super::KeyArn;

/// The region in an ARN of AWS KMS, a key's or an alias's.
pub fn region_of(arn: &str) -> Option<&str> {
    parts(arn).map(|[_, _, _, region, ..]| region).filter(|region| !region.is_empty())
}

/// `arn`, the partition, `kms`, the region, the account, and what it names there.
fn parts(arn: &str) -> Option<[&str; 6]> {
    let parts: Vec<_> = arn.splitn(6, ':').collect();
    let parts: [_; 6] = parts.try_into().ok()?;
    matches!(parts, ["arn", _, "kms", ..]).then_some(parts)
}

/// The ARN with another region in it; `None` for what is no ARN of AWS KMS.
pub(super) fn with_region(arn: &str, region: &str) -> Option<String> {
    let mut parts = parts(arn)?;
    parts[3] = region;
    Some(parts.join(":"))
}

impl KeyArn {
    /// What this multi-Region key is called in another region, if it was replicated there; `None`
    /// for a key that cannot be in two.
    pub fn in_region(&self, region: &str) -> Option<Self> {
        let is_multi_region = self.0.contains(":key/mrk-");
        is_multi_region.then(|| with_region(&self.0, region))?.map(Self)
    }

    /// Whether either unwraps what the other has wrapped: they are one key, or one multi-Region key
    /// in two regions.
    pub fn is_related_to(&self, other: &Self) -> bool {
        let anywhere = |key: &Self| key.in_region("");
        self == other || anywhere(self).is_some_and(|key| Some(key) == anywhere(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arn(region: &str, account: &str, id: &str) -> KeyArn {
        KeyArn(format!("arn:aws:kms:{region}:{account}:key/{id}"))
    }

    #[test]
    fn an_arn_names_its_region() {
        assert_eq!(region_of("arn:aws:kms:eu-west-1:1:key/x"), Some("eu-west-1"));
        assert_eq!(region_of("arn:aws-cn:kms:cn-north-1:1:alias/x"), Some("cn-north-1"));
        for other in ["alias/x", "arn:kmsfs:local::1:key/x", "arn:aws:kms::1:key/x", "arn:aws:kms"]
        {
            assert_eq!(region_of(other), None, "{other}");
        }
    }

    #[test]
    fn only_a_multi_region_key_is_in_two_regions() {
        let (here, there) = (arn("us-east-1", "1", "mrk-a"), arn("eu-west-1", "1", "mrk-a"));
        assert_eq!(here.in_region("eu-west-1"), Some(there.clone()));
        assert!(here.is_related_to(&there) && here.is_related_to(&here));
        let single = arn("us-east-1", "1", "a");
        assert_eq!(single.in_region("eu-west-1"), None);
        assert!(single.is_related_to(&single));
        for other in [
            arn("eu-west-1", "1", "a"),
            arn("eu-west-1", "1", "mrk-b"),
            arn("eu-west-1", "2", "mrk-a"),
            KeyArn("vault:transit:key/mrk-a".to_owned()),
        ] {
            assert!(!here.is_related_to(&other) && !single.is_related_to(&other), "{other}");
        }
    }
}
