//! Recovery: keys that are sealed to offline age recipients too, beside the KMS.
//!
//! Sealing takes public keys alone, so a daemon can do it and open nothing. What is sealed is an
//! ordinary age file (age-encryption.org/v1) of 32 bytes. Anyone can seal to a public key: that a
//! sealed key is the volume's own, a MAC under the volume key says, which is not this module's.

mod identities;
mod recipients;

pub use identities::{BadIdentity, Identities, NotOpened};
pub use recipients::{BadRecipient, MOST_RECIPIENTS, Recipients};

/// An identity of age's own tests, and its recipient: nobody's.
#[cfg(test)]
pub(crate) mod sample {
    pub(crate) const SECRET: &str =
        "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";
    pub(crate) const PUBLIC: &str =
        "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";
}

/// The entries of a file of age's, identities or recipients, with the numbers of their lines: one a
/// line; empty lines, and those that begin with `#`, do not count.
pub fn entries(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = (1..).zip(text.lines().map(str::trim_end));
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// The longest sealed key that is read: sixteen recipients take about 2 KiB.
pub const MAX_SEALED: usize = 8192;

/// A key that is sealed to the volume's recipients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// An age file of the key's 32 bytes.
    pub age: Vec<u8>,
    /// HMAC-SHA256 under a subkey of the volume key over what the key is of, and the age file.
    pub mac: [u8; 32],
}
