//! The policies that kmsfs wants: administrators apart from users, users held to one volume,
//! and nobody but a break-glass role able to end access.

use serde_json::{Value, json};

use super::{ALIASES, CONTEXT_KEYS, CRYPTOGRAPHIC, ENDING, VOLUME, WINDOW};
use crate::ids::VolumeId;
use crate::kms::KeyArn;

/// Whose policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// The key's own.
    Key,
    /// The IAM policy of the mount's role.
    Mount,
    /// The IAM policy of the role that rewraps.
    Rewrap,
    /// The IAM policy of the role that audits.
    Audit,
}

/// The ARNs of those who deal with a key. Those of `rewrap` and `audit` may be none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// They administer it and cannot use it.
    pub administrators: Vec<String>,
    /// They mount the volume.
    pub mount: Vec<String>,
    /// They rewrap it, and see no key in clear.
    pub rewrap: Vec<String>,
    /// They look at it.
    pub audit: Vec<String>,
    /// They alone disable it, schedule its deletion, and point aliases from it to another.
    pub break_glass: Vec<String>,
}

/// The master key of a volume, and the replica of it that a mount may ask in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// As the store names it.
    pub master: KeyArn,
    /// The same key in another region. Its own policy is another one than the master key's.
    pub replica: Option<KeyArn>,
}

impl Keys {
    fn resource(&self) -> Value {
        match &self.replica {
            Some(replica) => json!([self.master.0, replica.0]),
            None => json!(self.master.0),
        }
    }
}

const ADMINISTER: &[&str] = &[
    "kms:CancelKeyDeletion",
    "kms:DescribeKey",
    "kms:EnableKey",
    "kms:EnableKeyRotation",
    "kms:GetKeyPolicy",
    "kms:GetKeyRotationStatus",
    "kms:ListGrants",
    "kms:ListKeyPolicies",
    "kms:ListKeyRotations",
    "kms:ListResourceTags",
    "kms:RevokeGrant",
    "kms:RotateKeyOnDemand",
    "kms:TagResource",
    "kms:UntagResource",
    "kms:UpdateKeyDescription",
];
const AUDIT: &[&str] = &[
    "kms:DescribeKey",
    "kms:GetKeyPolicy",
    "kms:GetKeyRotationStatus",
    "kms:ListGrants",
    "kms:ListKeyPolicies",
    "kms:ListKeyRotations",
    "kms:ListResourceTags",
];
const MOUNT: &[&str] = &["kms:Decrypt", "kms:GenerateDataKey"];
const REWRAP: &[&str] = &["kms:ReEncryptFrom", "kms:ReEncryptTo"];
const BREAK_GLASS: &[&str] = &[
    "kms:CancelKeyDeletion",
    "kms:CreateAlias",
    "kms:DeleteAlias",
    "kms:DescribeKey",
    "kms:DisableKey",
    "kms:EnableKey",
    "kms:ScheduleKeyDeletion",
    "kms:UpdateAlias",
];

/// Only this volume's contexts, and nothing in them that kmsfs does not put there.
fn of_volume(volume: VolumeId) -> Value {
    json!({
        "StringEquals": { VOLUME: volume.to_string() },
        "ForAllValues:StringEquals": { "kms:EncryptionContextKeys": CONTEXT_KEYS },
    })
}

fn allow(sid: &str, principals: &[String], actions: &[&str]) -> Value {
    json!({
        "Sid": sid,
        "Effect": "Allow",
        "Principal": { "AWS": principals },
        "Action": actions,
        "Resource": "*",
    })
}

fn deny(sid: &str, actions: &[&str], condition: &Value) -> Value {
    json!({
        "Sid": sid,
        "Effect": "Deny",
        "Principal": { "AWS": "*" },
        "Action": actions,
        "Resource": "*",
        "Condition": condition,
    })
}

fn but(arns: &[String]) -> Value {
    json!({ "ArnNotEquals": { "aws:PrincipalArn": arns } })
}

/// The partition and the account that an ARN names: `aws`, `111122223333`.
fn home(master: &KeyArn) -> (&str, &str) {
    let mut parts = master.0.split(':');
    let partition = parts.nth(1).unwrap_or("aws");
    (partition, parts.nth(2).unwrap_or_default())
}

/// The policy for an audience, of the key that a volume is under.
pub fn generate(audience: Audience, keys: &Keys, volume: VolumeId, roles: &Roles) -> Value {
    let statements = match audience {
        Audience::Key => key_policy(&keys.master, volume, roles),
        Audience::Mount => vec![iam("KmsfsMount", MOUNT, keys, Some(volume)), no_other(keys)],
        Audience::Rewrap => vec![iam("KmsfsRewrap", REWRAP, keys, Some(volume)), no_other(keys)],
        Audience::Audit => vec![iam("KmsfsAudit", AUDIT, keys, None), list_all()],
    };
    json!({ "Version": "2012-10-17", "Statement": statements })
}

fn iam(sid: &str, actions: &[&str], keys: &Keys, volume: Option<VolumeId>) -> Value {
    let resource = keys.resource();
    let mut statement =
        json!({ "Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resource });
    if let Some(volume) = volume {
        statement["Condition"] = of_volume(volume);
    }
    statement
}

/// Another key's own policy may allow this role: whoever may change the store, or an alias, would
/// have data keys made under that key.
fn no_other(keys: &Keys) -> Value {
    json!({
        "Sid": "KmsfsNoOtherKey",
        "Effect": "Deny",
        "Action": CRYPTOGRAPHIC,
        "NotResource": keys.resource(),
    })
}

/// These are of the account; no key's policy can allow them.
fn list_all() -> Value {
    json!({
        "Sid": "KmsfsList",
        "Effect": "Allow",
        "Action": ["kms:ListAliases", "kms:ListKeys"],
        "Resource": "*",
    })
}

fn key_policy(master: &KeyArn, volume: VolumeId, roles: &Roles) -> Vec<Value> {
    let (partition, account) = home(master);
    let root = format!("arn:{partition}:iam::{account}:root");
    let recover = ["kms:DescribeKey", "kms:GetKeyPolicy", "kms:PutKeyPolicy"];
    let mut all = vec![allow("RecoverThePolicy", &[root], &recover)];
    let named: [(&str, &Vec<String>, &[&str], bool); 5] = [
        ("Administer", &roles.administrators, ADMINISTER, false),
        ("Mount", &roles.mount, MOUNT, true),
        ("Rewrap", &roles.rewrap, REWRAP, true),
        ("Audit", &roles.audit, AUDIT, false),
        ("BreakGlass", &roles.break_glass, BREAK_GLASS, false),
    ];
    for (sid, principals, actions, bound) in named {
        if principals.is_empty() {
            continue;
        }
        let mut statement = allow(sid, principals, actions);
        if bound {
            statement["Condition"] = of_volume(volume);
        }
        all.push(statement);
    }
    let users: Vec<_> = roles.mount.iter().chain(&roles.rewrap).cloned().collect();
    let mut using = CRYPTOGRAPHIC.to_vec();
    using.push("kms:CreateGrant");
    all.push(deny("OnlyBreakGlassEndsAccess", ENDING, &but(&roles.break_glass)));
    all.push(deny("OnlyBreakGlassMovesAliases", ALIASES, &but(&roles.break_glass)));
    all.push(deny("OnlyUsersUse", &using, &but(&users)));
    let short = json!({
        "NumericLessThan": { "kms:ScheduleKeyDeletionPendingWindowInDays": WINDOW.to_string() }
    });
    all.push(deny("NoShortDeletion", &["kms:ScheduleKeyDeletion"], &short));
    all
}
