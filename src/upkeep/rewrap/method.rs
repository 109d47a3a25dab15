//! How one wrapped key gets from a master key to another.

use std::sync::Arc;

use crate::kms::{Context, KeyArn, KeyRef, KeyService, KmsError, Rewrapped, Verdict, Wrapped};
use crate::secret::{Key, scrub_stack};

/// From where to where.
#[derive(Clone)]
pub enum Method {
    /// ReEncrypt: within one KMS, no key in clear leaves it.
    ReEncrypt(Arc<dyn KeyService>),
    /// From one KMS to another: Decrypt here, Encrypt there. Each key passes through this
    /// process's memory for a moment.
    Move {
        /// Where the keys are.
        from: Arc<dyn KeyService>,
        /// Where they go.
        to: Arc<dyn KeyService>,
    },
}

impl Method {
    /// The KMS that the keys go to.
    pub(super) fn target(&self) -> &dyn KeyService {
        match self {
            Self::ReEncrypt(kms) | Self::Move { to: kms, .. } => &**kms,
        }
    }

    /// How many calls side by side are worth it.
    pub(super) fn parallelism(&self) -> usize {
        match self {
            Self::ReEncrypt(kms) => kms.parallelism(),
            Self::Move { from, to } => from.parallelism().max(to.parallelism()),
        }
    }

    /// How many calls a second leave room for others.
    pub(super) fn fair_rate(&self) -> Option<std::num::NonZeroU32> {
        match self {
            Self::ReEncrypt(kms) => kms.fair_rate(),
            Self::Move { from, to } => match (from.fair_rate(), to.fair_rate()) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (one, other) => one.or(other),
            },
        }
    }

    /// How many calls one key takes.
    pub fn calls(&self) -> u64 {
        match self {
            Self::ReEncrypt(_) => 1,
            Self::Move { .. } => 2,
        }
    }

    /// Wraps a key under `to` that is under `from`. A key that passes through here in clear is
    /// looked at by `proof`; one that does not, the mount proves at its next use.
    ///
    /// # Errors
    /// Of the KMS. `ThisKey` where the proof fails.
    pub(super) fn carry(
        &self,
        wrapped: &Wrapped,
        from: &KeyArn,
        to: &Target,
        context: &Context,
        proof: impl FnOnce(&Key) -> bool,
    ) -> Result<Rewrapped, KmsError> {
        let source = KeyRef::from(from);
        let (here, there) = match self {
            Self::ReEncrypt(kms) => {
                return kms.reencrypt(wrapped, (&source, context), (&to.key(), context));
            }
            // It has been there before: an earlier move to another key was cut short.
            Self::Move { to: there, .. } if to.is_home(from) => {
                return there.reencrypt(wrapped, (&source, context), (&to.key(), context));
            }
            Self::Move { from, to } => (from, to),
        };
        let opened = here.decrypt(&source, wrapped, context)?;
        let moved = if proof(&opened.key) {
            there.encrypt(&to.key(), &opened.key, context)
        } else {
            let why = "what it unwraps to is not the key that it was";
            Err(KmsError::new(Verdict::ThisKey, "InvalidCiphertextException", why))
        };
        drop(opened);
        scrub_stack();
        moved
    }
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
