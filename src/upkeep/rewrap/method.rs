//! How one wrapped key gets from a master key to another.

use std::sync::Arc;

use super::recover::Second;
use crate::keys::Opener;
use crate::kms::{Context, KeyArn, KeyRef, KeyService, KmsError, Rewrapped, Verdict, Wrapped};
use crate::secret::{Key, scrub_stack};
use crate::store::Store;

/// From where to where.
#[derive(Clone)]
pub enum Method {
    /// Within one KMS: ReEncrypt, where no key in clear leaves it; Decrypt and Encrypt where the
    /// KMS has no ReEncrypt.
    Within(Arc<dyn KeyService>),
    /// From one KMS to another: Decrypt here, Encrypt there. Each key passes through this
    /// process's memory for a moment.
    Move {
        /// Where the keys are.
        from: Arc<dyn KeyService>,
        /// Where they go.
        to: Arc<dyn KeyService>,
    },
    /// Their master key is gone: what is sealed to the recipients of the recovery is opened here,
    /// and encrypted there.
    Recover {
        /// Who opens it.
        by: Arc<Opener>,
        /// Where the keys go.
        to: Arc<dyn KeyService>,
    },
}

/// A wrapped key as it lies in the store.
pub(super) struct Old<'a> {
    pub(super) key: &'a Wrapped,
    pub(super) master: &'a KeyArn,
    /// How it is recovered.
    pub(super) second: Second<'a>,
}

impl Method {
    /// The KMS that the keys go to.
    pub(super) fn target(&self) -> &dyn KeyService {
        match self {
            Self::Within(kms) | Self::Move { to: kms, .. } | Self::Recover { to: kms, .. } => {
                &**kms
            }
        }
    }

    /// Whether it takes its keys from no KMS.
    pub(super) fn is_recovery(&self) -> bool {
        matches!(self, Self::Recover { .. })
    }

    /// How many calls side by side are worth it.
    pub(super) fn parallelism(&self) -> usize {
        match self {
            Self::Within(kms) | Self::Recover { to: kms, .. } => kms.parallelism(),
            Self::Move { from, to } => from.parallelism().max(to.parallelism()),
        }
    }

    /// How many calls a second leave room for others.
    pub(super) fn fair_rate(&self) -> Option<std::num::NonZeroU32> {
        match self {
            Self::Within(kms) | Self::Recover { to: kms, .. } => kms.fair_rate(),
            Self::Move { from, to } => match (from.fair_rate(), to.fair_rate()) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (one, other) => one.or(other),
            },
        }
    }

    /// Whether keys in clear pass through this process's memory.
    pub fn takes_keys_through_here(&self) -> bool {
        match self {
            Self::Within(kms) => !kms.has_reencrypt(),
            Self::Move { .. } | Self::Recover { .. } => true,
        }
    }

    /// How many calls one key takes.
    pub fn calls(&self) -> u64 {
        match self {
            Self::Within(kms) if !kms.has_reencrypt() => 2,
            Self::Move { .. } => 2,
            Self::Within(_) | Self::Recover { .. } => 1,
        }
    }

    /// Wraps a key under `to` that is under another master key. A key that passes through here in
    /// clear is looked at by `proof`; one that does not, the mount proves at its next use.
    ///
    /// # Errors
    /// Of the KMS. `ThisKey` where the proof fails, or where the recovery does not open it.
    pub(super) fn carry(
        &self,
        store: &Store,
        old: &Old<'_>,
        to: &Target,
        context: &Context,
        proof: impl FnOnce(&Key) -> bool,
    ) -> Result<Rewrapped, KmsError> {
        let source = KeyRef::from(old.master);
        let (here, there, within) = match self {
            Self::Within(kms) => (kms, kms, Some(kms)),
            // It has been there before: an earlier move to another key was cut short.
            Self::Move { to: there, .. } if to.is_home(old.master) => (there, there, Some(there)),
            Self::Move { from, to } => (from, to, None),
            Self::Recover { by, to: there } => {
                let opened = old.second.open(by, store);
                let key = opened.map_err(|why| this_key(&why))?;
                return put(&**there, key, to, context, proof);
            }
        };
        if let Some(kms) = within.filter(|kms| kms.has_reencrypt()) {
            return kms.reencrypt(old.key, (&source, context), (&to.key(), context));
        }
        let opened = here.decrypt(&source, old.key, context)?;
        put(&**there, opened.key, to, context, proof)
    }
}

fn put(
    there: &dyn KeyService,
    key: Key,
    to: &Target,
    context: &Context,
    proof: impl FnOnce(&Key) -> bool,
) -> Result<Rewrapped, KmsError> {
    let moved = match proof(&key) {
        true => there.encrypt(&to.key(), &key, context),
        false => Err(this_key("what it unwraps to is not the key that it was")),
    };
    drop(key);
    scrub_stack();
    moved
}

fn this_key(why: &str) -> KmsError {
    KmsError::new(Verdict::ThisKey, "InvalidCiphertextException", why)
}

/// The master key that all is to be under.
pub(super) enum Target {
    /// As the user named it; what it is, the KMS has not said yet.
    Asked(KeyRef),
    /// What it is.
    Known(KeyArn),
}

impl Target {
    fn key(&self) -> KeyRef {
        match self {
            Self::Asked(key) => key.clone(),
            Self::Known(arn) => arn.into(),
        }
    }

    fn is_home(&self, arn: &KeyArn) -> bool {
        matches!(self, Self::Known(target) if target.home() == arn.home())
    }
}
