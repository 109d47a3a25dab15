//! Key policies: a model of what one says, what kmsfs wants one to say, and what is dangerous
//! in one. Pure: nothing here asks a KMS, and nothing evaluates a request as AWS does.

mod document;
mod generate;
mod lint;

pub use document::{Condition, Effect, Policy, PolicyError, Statement};
pub use generate::{Audience, Keys, Roles, generate};
pub use lint::{Finding, Severity, lint};

/// Using key material: what an administrator must not be able to do.
const CRYPTOGRAPHIC: &[&str] = &[
    "kms:Decrypt",
    "kms:Encrypt",
    "kms:GenerateDataKey",
    "kms:GenerateDataKeyPair",
    "kms:GenerateDataKeyPairWithoutPlaintext",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
];

/// Changing what others may do with the key.
const ADMINISTRATIVE: &[&str] = &[
    "kms:CreateGrant",
    "kms:DeleteAlias",
    "kms:DisableKey",
    "kms:PutKeyPolicy",
    "kms:ScheduleKeyDeletion",
    "kms:UpdateAlias",
];

/// What ends access for all, some of it for ever.
const ENDING: &[&str] =
    &["kms:DeleteImportedKeyMaterial", "kms:DisableKey", "kms:ScheduleKeyDeletion"];

/// Deciding which key a name stands for: a volume that names an alias takes its new data keys
/// from wherever the alias leads.
const ALIASES: &[&str] = &["kms:CreateAlias", "kms:DeleteAlias", "kms:UpdateAlias"];

/// The condition key of the volume's id.
const VOLUME: &str = "kms:EncryptionContext:kmsfs:volume";
/// The names in the contexts that kmsfs sends.
const CONTEXT_KEYS: &[&str] = &["kmsfs:branch", "kmsfs:file", "kmsfs:use", "kmsfs:volume"];
/// Days that a deletion should have to wait.
const WINDOW: u32 = 30;
