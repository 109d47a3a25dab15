//! What can be wrong with a keystore, by who must act.

use std::io;

use crate::kms::{KmsError, Verdict};

/// A keystore that cannot be made, opened or changed. No variant holds key material.
#[derive(Debug, thiserror::Error)]
pub enum KeystoreError {
    /// There is no keystore at this path: another path, or a new keystore.
    #[error("there is no keystore at {at}")]
    Missing {
        /// The path.
        at: String,
    },
    /// A keystore was to be made where something lies already: another path.
    #[error("{at} is not empty, and a keystore is made only in an absent or empty folder")]
    NotEmpty {
        /// The path.
        at: String,
    },
    /// The passphrase does not open this keystore: the right one.
    #[error("the passphrase does not open the keystore {at}")]
    WrongPassphrase {
        /// The path.
        at: String,
    },
    /// The keystore is sealed, and no passphrase was given: give it.
    #[error("the keystore {at} is sealed, and this needs its passphrase")]
    PassphraseNeeded {
        /// The path.
        at: String,
    },
    /// A file is not what was written: restore it from a backup.
    #[error("{at}/{file} is damaged: {what}")]
    Damaged {
        /// The keystore's path.
        at: String,
        /// The file within it.
        file: String,
        /// What is wrong with it.
        what: String,
    },
    /// A passphrase, or the work that guards it, falls short of the minimum: someone lowered
    /// it, or the passphrase is empty.
    #[error("the keystore {at} would be too weakly sealed: {what}")]
    TooWeak {
        /// The path.
        at: String,
        /// What falls short.
        what: String,
    },
    /// Another process keeps the lock: wait, or end it.
    #[error("another process has been changing the keystore {at} for {seconds} seconds")]
    Busy {
        /// The path.
        at: String,
        /// How long this one waited.
        seconds: u64,
    },
    /// The backing filesystem failed.
    #[error("cannot {doing} in the keystore {at}: {source}")]
    Io {
        /// What was to be done.
        doing: String,
        /// The keystore's path.
        at: String,
        /// The system's answer.
        source: io::Error,
    },
}

impl From<KeystoreError> for KmsError {
    fn from(e: KeystoreError) -> Self {
        let (verdict, code) = match e {
            KeystoreError::Missing { .. } => (Verdict::Unavailable, "KeystoreMissing"),
            KeystoreError::PassphraseNeeded { .. } => (Verdict::Unavailable, "PassphraseNeeded"),
            KeystoreError::Damaged { .. } => (Verdict::Unavailable, "KeystoreDamaged"),
            KeystoreError::Busy { .. } => (Verdict::Unavailable, "KeystoreBusy"),
            KeystoreError::Io { .. } => (Verdict::Unavailable, "KeystoreUnavailable"),
            KeystoreError::NotEmpty { .. }
            | KeystoreError::WrongPassphrase { .. }
            | KeystoreError::TooWeak { .. } => (Verdict::Invalid, "ValidationException"),
        };
        Self::new(verdict, code, e.to_string())
    }
}
