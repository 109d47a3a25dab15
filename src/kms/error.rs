//! What went wrong at the KMS, by who must act.

/// What a failed call means for the mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The KMS refuses the master key: disabled, pending deletion, not found, access denied.
    Refused,
    /// No answer that counts: unreachable, throttled, a fault of the server.
    Unavailable,
    /// No answer that counts, for the KMS does not know who asks: credentials are missing,
    /// expired or wrong, or this machine's clock is off. A mount treats it as an outage.
    Credentials,
    /// This wrapped key alone: invalid ciphertext, another key's, the wrong context.
    ThisKey,
    /// The request itself is wrong: a bad name, a window out of range.
    Invalid,
}

/// A failed call to a KMS. `code` is the API's error code (`DisabledException`, …), `message`
/// what a user can be told; neither ever holds key material.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct KmsError {
    /// What it means.
    pub verdict: Verdict,
    /// The API's error code.
    pub code: String,
    /// What happened to which key, and why.
    pub message: String,
}

impl KmsError {
    /// An error with its code and message.
    pub fn new(verdict: Verdict, code: &str, message: impl Into<String>) -> Self {
        Self { verdict, code: code.to_owned(), message: message.into() }
    }
}
