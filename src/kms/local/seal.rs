//! A key sealed under another key.
//!
//! ```text
//! nonce (12) ‖ AES-256-GCM-SIV of the key (32) ‖ tag (16)
//! ```
//! The nonce is random. GCM-SIV authenticates it together with the associated data, and a nonce
//! drawn twice would only show that the same key was sealed twice.

use aes_gcm_siv::aead::AeadInOut;
use aes_gcm_siv::{Aes256GcmSiv, KeyInit, Nonce, Tag};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::secret::{Key, fill_random};

const NONCE: usize = 12;
const BODY: usize = NONCE + 32;
/// The length of a sealed key.
pub(super) const SEALED: usize = BODY + 16;

/// A sealed key; in JSON, lower-case hex.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Sealed(pub(super) [u8; SEALED]);

impl Sealed {
    /// Seals `secret` under `key`, bound to `aad`.
    pub(super) fn seal(key: &Key, aad: &[u8], secret: &Key) -> Self {
        let mut out = [0; SEALED];
        fill_random(&mut out[..NONCE]);
        let (nonce, rest) = out.split_at_mut(NONCE);
        let (body, tag) = rest.split_at_mut(32);
        let nonce = Nonce::try_from(&*nonce).expect("split at the nonce's length");
        body.copy_from_slice(secret.expose());
        let made = cipher(key)
            .encrypt_inout_detached(&nonce, aad, body.into())
            .expect("32 bytes and a short AAD are far below GCM-SIV's limits");
        tag.copy_from_slice(&made);
        Self(out)
    }

    /// The key inside; `None` when it was not sealed under `key` with `aad`, or was changed.
    pub(super) fn open(&self, key: &Key, aad: &[u8]) -> Option<Key> {
        let nonce = Nonce::try_from(&self.0[..NONCE]).ok()?;
        let tag = Tag::try_from(&self.0[BODY..]).ok()?;
        let mut opened = Err(aes_gcm_siv::Error);
        let secret = Key::build(|out| {
            out.copy_from_slice(&self.0[NONCE..BODY]);
            opened =
                cipher(key).decrypt_inout_detached(&nonce, aad, out.as_mut_slice().into(), &tag);
        });
        opened.ok().map(|()| secret)
    }
}

fn cipher(key: &Key) -> Aes256GcmSiv {
    Aes256GcmSiv::new(key.expose().into())
}

impl TryFrom<String> for Sealed {
    type Error = &'static str;
    fn try_from(hex: String) -> Result<Self, Self::Error> {
        let bytes = HEXLOWER.decode(hex.as_bytes()).map_err(|_| "not lower-case hex")?;
        bytes.try_into().map(Self).map_err(|_| "not a sealed key's length")
    }
}

impl From<Sealed> for String {
    fn from(sealed: Sealed) -> Self {
        HEXLOWER.encode(&sealed.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_changed_byte_is_noticed() {
        let (key, secret) = (Key::random(), Key::random());
        let sealed = Sealed::seal(&key, b"aad", &secret);
        let opened = sealed.open(&key, b"aad").expect("unchanged");
        assert_eq!(opened.expose(), secret.expose());
        assert!(sealed.open(&key, b"aae").is_none());
        assert!(sealed.open(&Key::random(), b"aad").is_none());
        for at in 0..SEALED {
            let mut bad = sealed.clone();
            bad.0[at] ^= 1;
            assert!(bad.open(&key, b"aad").is_none(), "byte {at}");
        }
    }
}
