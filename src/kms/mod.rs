//! Master keys: the two traits through which a KMS is used and administered.
//!
//! [`KeyService`] is what a mount needs, [`KeyAdmin`] what `kmsfs key` needs. The terms and the
//! behaviour are those of the AWS KMS API. [`local`] is the embedded keystore, `aws` (feature
//! `aws`) AWS KMS itself, `vault` (feature `vault`) the Transit engine of OpenBao and HashiCorp
//! Vault, `pkcs11` (feature `pkcs11`) an HSM.

#[cfg(feature = "aws")]
pub mod aws;
mod context;
pub mod cost;
mod counters;
mod error;
#[cfg(any(feature = "aws", feature = "vault"))]
mod limits;
pub mod local;
mod multi_region;
#[cfg(feature = "pkcs11")]
pub mod pkcs11;
pub mod policy;
#[cfg(any(feature = "aws", feature = "vault"))]
mod proxy;
#[cfg(any(feature = "aws", feature = "vault"))]
mod url;
#[cfg(feature = "vault")]
pub mod vault;

use std::fmt;
use std::num::NonZeroU32;

pub use context::Context;
pub use counters::{Calls, Counted, Counters};
pub use error::{KmsError, Verdict};
#[cfg(any(feature = "aws", feature = "vault"))]
pub use limits::CALL;
pub use multi_region::region_of;

use crate::escape::is_steering;
use crate::secret::Key;

/// The variables that name a proxy for what is asked with TLS. The first that is not empty counts.
pub const PROXY_VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
/// Those that name the hosts which are asked without it.
pub const NO_PROXY_VARIABLES: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// What a user names a master key by: a key id, an ARN, or `alias/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyRef(pub String);

/// The longest name of a key that is taken from a store: KMS accepts no longer one.
const MAX_NAME: usize = 2048;

/// A text of the store's that names a key: printable ASCII without blanks, as each KMS has it.
fn key_name(text: String) -> Result<String, String> {
    match text.as_bytes() {
        [] => Err("the name of a key is empty".to_owned()),
        name if name.len() > MAX_NAME => Err(format!("a key's name of {} bytes", name.len())),
        name if name.iter().all(u8::is_ascii_graphic) => Ok(text),
        _ => Err("a key's name is not printable ASCII".to_owned()),
    }
}

/// The longest path within a server that is taken from a store.
const MAX_PATH: usize = 256;

/// Whether a text is names between single slashes, as paths within a server are: what it is put
/// into leads nowhere else.
pub fn is_path(text: &str) -> bool {
    let is_part = |part: &str| {
        let fine = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
        !part.is_empty() && part != "." && part != ".." && part.bytes().all(fine)
    };
    text.len() <= MAX_PATH && text.split('/').all(is_part)
}

/// Whether a text can be the label of a PKCS#11 token: up to 32 bytes, padded with blanks there.
pub fn is_token_label(text: &str) -> bool {
    (1..=32).contains(&text.len()) && text.trim() == text && !text.contains(is_steering)
}

impl KeyRef {
    /// From a store's text.
    ///
    /// # Errors
    /// Where it can be no key's.
    pub fn parse(text: String) -> Result<Self, String> {
        key_name(text).map(Self)
    }
}

impl fmt::Display for KeyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The ARN of a master key: what a KMS answers, never an alias.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyArn(pub String);

impl KeyArn {
    /// From a store's text.
    ///
    /// # Errors
    /// Where it can be no key's.
    pub fn parse(text: String) -> Result<Self, String> {
        key_name(text).map(Self)
    }

    /// Who issues it: a keystore, or an account in a region; `None` for what is no key's ARN.
    pub fn home(&self) -> Option<&str> {
        self.0.rsplit_once(":key/").map(|(home, _)| home)
    }
}

impl fmt::Display for KeyArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&KeyArn> for KeyRef {
    fn from(arn: &KeyArn) -> Self {
        Self(arn.0.clone())
    }
}

/// A wrapped data key: opaque bytes of the KMS, at most 6,144.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrapped(pub Vec<u8>);

/// The longest wrapped key that a KMS returns (`CiphertextBlob`).
pub const MAX_WRAPPED: usize = 6144;

/// What GenerateDataKey gives: a fresh data key, in clear and wrapped.
#[derive(Debug)]
pub struct Generated {
    /// The plaintext data key.
    pub key: Key,
    /// The same key under the master key.
    pub wrapped: Wrapped,
    /// The master key that wrapped it.
    pub master: KeyArn,
}

/// What Decrypt gives.
#[derive(Debug)]
pub struct Unwrapped {
    /// The plaintext data key. That it is the right one is for the caller to check: neither
    /// GCM-SIV nor every KMS commits to its key.
    pub key: Key,
    /// The master key that the wrapped key was under.
    pub master: KeyArn,
}

/// What ReEncrypt and Encrypt give.
#[derive(Debug)]
pub struct Rewrapped {
    /// The data key under the new master key.
    pub wrapped: Wrapped,
    /// That master key.
    pub master: KeyArn,
}

/// The cryptographic half of a KMS. A call may take as long as the network does; it is never
/// made from a FUSE worker.
pub trait KeyService: Send + Sync {
    /// How many calls side by side get more done than one after another: 1 where a call is
    /// computed here, more where it waits for a network.
    fn parallelism(&self) -> usize {
        1
    }

    /// How many calls a second leave room for others who share the KMS; `None` where nobody does.
    fn fair_rate(&self) -> Option<NonZeroU32> {
        None
    }

    /// Whether it has [`KeyService::reencrypt`]. Where it has not, a rewrap is Decrypt and Encrypt.
    fn has_reencrypt(&self) -> bool {
        true
    }

    /// The mount has locked: closes connections, with what answers left in their buffers. The next
    /// call makes new ones.
    fn forget(&self) {}

    /// GenerateDataKey with `KeySpec` AES_256.
    ///
    /// # Errors
    /// See [`KmsError::verdict`].
    fn generate(&self, key: &KeyRef, context: &Context) -> Result<Generated, KmsError>;

    /// Decrypt, demanding that the wrapped key is under `key`.
    ///
    /// # Errors
    /// See [`KmsError::verdict`].
    fn decrypt(
        &self,
        key: &KeyRef,
        wrapped: &Wrapped,
        context: &Context,
    ) -> Result<Unwrapped, KmsError>;

    /// ReEncrypt: from one master key and context to another, the data key never in clear
    /// outside the KMS.
    ///
    /// # Errors
    /// See [`KmsError::verdict`].
    fn reencrypt(
        &self,
        wrapped: &Wrapped,
        from: (&KeyRef, &Context),
        to: (&KeyRef, &Context),
    ) -> Result<Rewrapped, KmsError>;

    /// Encrypt: wraps a data key that there is already. Only for a volume that moves from one
    /// KMS to another: everywhere else a key is made by [`KeyService::generate`].
    ///
    /// # Errors
    /// See [`KmsError::verdict`].
    fn encrypt(&self, to: &KeyRef, plain: &Key, context: &Context) -> Result<Rewrapped, KmsError>;
}

/// The state of a master key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum KeyState {
    /// Usable.
    Enabled,
    /// Every cryptographic call is refused until it is enabled.
    Disabled,
    /// Refused, and deleted when its window ends; cancelling leaves it Disabled.
    PendingDeletion,
    /// Refused until its key material is imported. AWS KMS only.
    #[serde(skip)]
    PendingImport,
    /// Refused for a reason of the KMS's own: being made, changed, replicated, or in a custom
    /// key store that is out of reach. AWS KMS only.
    #[serde(skip)]
    Unavailable,
}

impl KeyState {
    /// The API's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Enabled => "Enabled",
            Self::Disabled => "Disabled",
            Self::PendingDeletion => "PendingDeletion",
            Self::PendingImport => "PendingImport",
            Self::Unavailable => "Unavailable",
        }
    }
}

/// What DescribeKey and ListKeys tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    /// The key id.
    pub id: String,
    /// The ARN.
    pub arn: KeyArn,
    /// The state.
    pub state: KeyState,
    /// Aliases that point to it, with their `alias/`, sorted.
    pub aliases: Vec<String>,
    /// When it was made, in seconds since 1970; 0 where the KMS does not tell.
    pub created: u64,
    /// What its maker called it; may be empty.
    pub description: String,
    /// When it will be deleted, in seconds since 1970; only in `PendingDeletion`.
    pub deletion: Option<u64>,
    /// How many versions of key material it has, where the KMS tells.
    pub versions: Option<u32>,
}

/// One alias and the key id it points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliasInfo {
    /// The name, with its `alias/`.
    pub name: String,
    /// The target's key id.
    pub target: String,
}

/// When a master key was last used, as its KMS tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LastUse {
    /// In seconds since 1970, and by which operation.
    At {
        /// When.
        when: u64,
        /// The operation, as the KMS calls it.
        operation: String,
        /// The record of it in CloudTrail.
        event: Option<String>,
    },
    /// Not since this time, in seconds since 1970: the KMS has kept no record of before.
    NotSince(u64),
    /// The KMS keeps no record.
    Unknown,
}

/// The administrative half of a KMS.
pub trait KeyAdmin: Send + Sync {
    /// CreateKey.
    ///
    /// # Errors
    /// Of this and every other method: see [`KmsError::verdict`].
    fn create(&self, description: &str) -> Result<KeyInfo, KmsError>;
    /// CreateKey, and CreateAlias for it. Where keys are named by their makers, `alias/NAME` is the
    /// key NAME.
    fn create_as(&self, alias: &str, description: &str) -> Result<KeyInfo, KmsError> {
        let key = self.create(description)?;
        self.set_alias(alias, &KeyRef(key.id.clone()))?;
        Ok(key)
    }
    /// ListKeys with DescribeKey, sorted by creation time, then id.
    fn list(&self) -> Result<Vec<KeyInfo>, KmsError>;
    /// DescribeKey.
    fn describe(&self, key: &KeyRef) -> Result<KeyInfo, KmsError>;
    /// DisableKey.
    fn disable(&self, key: &KeyRef) -> Result<(), KmsError>;
    /// EnableKey.
    fn enable(&self, key: &KeyRef) -> Result<(), KmsError>;
    /// RotateKeyOnDemand: new key material; the old stays for decryption.
    fn rotate(&self, key: &KeyRef) -> Result<(), KmsError>;
    /// ScheduleKeyDeletion in `days` (7 to 30); answers when, in seconds since 1970.
    fn schedule_deletion(&self, key: &KeyRef, days: u32) -> Result<u64, KmsError>;
    /// CancelKeyDeletion; the key is then Disabled.
    fn cancel_deletion(&self, key: &KeyRef) -> Result<(), KmsError>;
    /// CreateAlias or UpdateAlias.
    fn set_alias(&self, name: &str, key: &KeyRef) -> Result<(), KmsError>;
    /// DeleteAlias.
    fn remove_alias(&self, name: &str) -> Result<(), KmsError>;
    /// ListAliases, sorted by name.
    fn aliases(&self) -> Result<Vec<AliasInfo>, KmsError>;
    /// GetKeyLastUsage. `Unknown` where the KMS keeps no record.
    fn last_use(&self, _key: &KeyRef) -> Result<LastUse, KmsError> {
        Ok(LastUse::Unknown)
    }
}
