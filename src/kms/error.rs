//! What went wrong at the KMS, by who must act.

/// What a failed call means for the mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The KMS refuses the master key: disabled, pending deletion, not found, access denied.
    Refused,
    /// No answer that counts: unreachable, throttled, a fault of the server.
    Unavailable,
    /// No answer that counts, for this machine cannot say who asks: credentials are missing or
    /// expired, or its clock is off. A mount treats it as an outage.
    Credentials,
    /// The KMS answers that it knows nobody by these credentials: they were deleted or revoked, or
    /// their account is suspended. A mount works on for a grace of its own, and locks.
    UnknownCaller,
    /// This wrapped key alone: invalid ciphertext, another key's, the wrong context.
    ThisKey,
    /// The request itself is wrong: a bad name, a window out of range.
    Invalid,
}

impl Verdict {
    /// Whether it says neither yes nor no about a key: what is asked again later.
    pub fn is_inconclusive(self) -> bool {
        match self {
            Self::Unavailable | Self::Credentials | Self::UnknownCaller => true,
            Self::Refused | Self::ThisKey | Self::Invalid => false,
        }
    }
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
    /// Whether the KMS threw the call out because there are too many: of this mount, or of the
    /// others in the account.
    pub fn is_throttling(&self) -> bool {
        const CODES: &[&str] = &[
            "LimitExceededException",
            "RequestLimitExceeded",
            "RequestThrottledException",
            "SlowDown",
            "Throttling",
            "ThrottlingException",
            "TooManyRequestsException",
        ];
        CODES.contains(&self.code.as_str())
    }

    /// An error with its code and message.
    pub fn new(verdict: Verdict, code: &str, message: impl Into<String>) -> Self {
        Self { verdict, code: code.to_owned(), message: message.into() }
    }
}
