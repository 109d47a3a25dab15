//! How one wrapped key gets from a master key to another.

use std::sync::Arc;

use crate::kms::{Context, KeyArn, KeyRef, KeyService, KmsError, Rewrapped, Verdict, Wrapped};
use crate::secret::{Key, scrub_stack};

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
}

impl Method {
    /// The KMS that the keys go to.
    pub(super) fn target(&self) -> &dyn KeyService {
        match self {
            Self::Within(kms) | Self::Move { to: kms, .. } => &**kms,
        }
    }

    /// How many calls side by side are worth it.
    pub(super) fn parallelism(&self) -> usize {
        match self {
            Self::Within(kms) => kms.parallelism(),
            Self::Move { from, to } => from.parallelism().max(to.parallelism()),
        }
    }

    /// How many calls a second leave room for others.
    pub(super) fn fair_rate(&self) -> Option<std::num::NonZeroU32> {
        match self {
            Self::Within(kms) => kms.fair_rate(),
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
            Self::Move { .. } => true,
        }
    }

    /// How many calls one key takes.
    pub fn calls(&self) -> u64 {
        if self.takes_keys_through_here() { 2 } else { 1 }
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
        let (here, there, within) = match self {
            Self::Within(kms) => (kms, kms, Some(kms)),
            // It has been there before: an earlier move to another key was cut short.
            Self::Move { to: there, .. } if to.is_home(from) => (there, there, Some(there)),
            Self::Move { from, to } => (from, to, None),
        };
        if let Some(kms) = within.filter(|kms| kms.has_reencrypt()) {
            return kms.reencrypt(wrapped, (&source, context), (&to.key(), context));
        }
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
