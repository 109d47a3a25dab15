//! nonce 12 | ciphertext | tag 16, and padding with NUL to a multiple of 16.

use aes_gcm_siv::aead::{AeadInOut, inout::InOutBuf};
use aes_gcm_siv::{Aes256GcmSiv, Nonce, Tag};
use zeroize::Zeroizing;

use crate::secret::random_bytes;

const NONCE: usize = 12;
const TAG: usize = 16;
const BLOCK: usize = 16;

/// Pads with NUL to a multiple of 16, and at least to 16.
pub(super) fn pad(clear: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut padded = Zeroizing::new(clear.to_vec());
    padded.resize(clear.len().max(1).next_multiple_of(BLOCK), 0);
    padded
}

/// Takes the padding off; `None` unless it is exactly what [`pad`] made of text without NUL.
pub(super) fn unpad(padded: &[u8]) -> Option<Vec<u8>> {
    let len = padded.iter().position(|b| *b == 0).unwrap_or(padded.len());
    let exact = padded.len() == len.max(1).next_multiple_of(BLOCK);
    (exact && padded[len..].iter().all(|b| *b == 0)).then(|| padded[..len].to_vec())
}

/// ciphertext | tag under a nonce of the caller's.
pub(super) fn seal_with(
    cipher: &Aes256GcmSiv,
    nonce: [u8; NONCE],
    aad: &[u8],
    clear: &[u8],
) -> Vec<u8> {
    let mut out = vec![0; clear.len()];
    let inout = InOutBuf::new(clear, &mut out).expect("both have the same length");
    let tag = cipher
        .encrypt_inout_detached(&Nonce::from(nonce), aad, inout)
        .expect("names and attributes are far below RFC 8452's limit of 2^36 bytes");
    out.extend_from_slice(&tag);
    out
}

/// Opens ciphertext | tag.
pub(super) fn open_with(
    cipher: &Aes256GcmSiv,
    nonce: &[u8],
    aad: &[u8],
    sealed: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let (body, tag) = sealed.split_at_checked(sealed.len().checked_sub(TAG)?)?;
    let (nonce, tag) = (Nonce::try_from(nonce).ok()?, Tag::try_from(tag).ok()?);
    let mut out = Zeroizing::new(vec![0; body.len()]);
    let inout = InOutBuf::new(body, &mut out[..]).ok()?;
    cipher.decrypt_inout_detached(&nonce, aad, inout, &tag).ok()?;
    Some(out)
}

/// nonce | ciphertext | tag under a fresh nonce.
pub(super) fn seal(cipher: &Aes256GcmSiv, aad: &[u8], clear: &[u8]) -> Vec<u8> {
    let nonce: [u8; NONCE] = random_bytes();
    let mut out = nonce.to_vec();
    out.extend(seal_with(cipher, nonce, aad, clear));
    out
}

/// Opens nonce | ciphertext | tag.
pub(super) fn open(cipher: &Aes256GcmSiv, aad: &[u8], bytes: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, sealed) = bytes.split_at_checked(NONCE)?;
    open_with(cipher, nonce, aad, sealed)
}
