//! A wrapped data key as this provider writes it, 65 bytes and the length of the CKA_ID:
//!
//! ```text
//! "KFP" 0x01 (4) ‖ n (1) ‖ CKA_ID (n: 1 to 64) ‖ nonce (12) ‖ key (32) ‖ tag (16)
//! ```
//! AES-256-GCM. Associated data: the bytes before the nonce, then the encryption context
//! ([`Context::encode`]).

use super::names::{KeyId, LONGEST_ID};
use crate::kms::{Context, Wrapped};

const MAGIC: [u8; 4] = *b"KFP\x01";
/// Of AES-GCM, in bytes.
pub(super) const NONCE: usize = 12;
/// A sealed key: its 32 bytes, and a tag of 16.
pub(super) const SEALED: usize = 48;

/// The parts of a wrapped data key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Blob {
    /// The master key that it names.
    pub(super) id: KeyId,
    pub(super) nonce: [u8; NONCE],
    pub(super) sealed: [u8; SEALED],
}

impl Blob {
    pub(super) fn encode(&self) -> Wrapped {
        let mut bytes = header(&self.id);
        bytes.extend(self.nonce);
        bytes.extend(self.sealed);
        Wrapped(bytes)
    }

    /// `None` for anything that [`Blob::encode`] does not write.
    pub(super) fn parse(wrapped: &Wrapped) -> Option<Self> {
        let rest = wrapped.0.strip_prefix(&MAGIC)?;
        let (n, rest) = rest.split_first()?;
        let (id, rest) = rest.split_at_checked(usize::from(*n))?;
        let (nonce, sealed) = rest.split_first_chunk()?;
        Some(Self { id: KeyId::new(id.to_vec())?, nonce: *nonce, sealed: sealed.try_into().ok()? })
    }
}

fn header(id: &KeyId) -> Vec<u8> {
    const { assert!(LONGEST_ID <= u8::MAX as usize) };
    let n = u8::try_from(id.bytes().len()).expect("an id has at most 64 bytes");
    let mut bytes = MAGIC.to_vec();
    bytes.push(n);
    bytes.extend(id.bytes());
    bytes
}

/// What a wrapped key is bound to.
pub(super) fn aad(id: &KeyId, context: &Context) -> Vec<u8> {
    let mut aad = header(id);
    aad.extend(context.encode());
    aad
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;
    use crate::ids::VolumeId;

    fn sample() -> Blob {
        let id = KeyId::new((0..16).collect()).expect("16 bytes");
        Blob { id, nonce: [7; NONCE], sealed: [8; SEALED] }
    }

    /// Opened on a token in `tests/kms/pkcs11`.
    #[test]
    fn golden() {
        let bytes = HEXLOWER.decode(include_str!("golden-blob.hex").trim_end().as_bytes());
        let wrapped = Wrapped(bytes.expect("hex"));
        let blob = Blob::parse(&wrapped).expect("format 1");
        assert_eq!((blob.id.to_string().as_str(), blob.nonce), ("a1b2c3", [3; NONCE]));
        assert_eq!(blob.encode(), wrapped);
    }

    /// Wrapped keys that are there depend on it, byte for byte.
    #[test]
    fn associated_data_has_one_spelling() {
        let volume = VolumeId([9; 16]);
        let text = aad(&KeyId::new(vec![0xa1, 0xb2]).expect("2 bytes"), &Context::volume(volume));
        let mut wanted = b"KFP\x01\x02\xa1\xb2\0\0\0\x02".to_vec();
        for part in ["kmsfs:use", "volume", "kmsfs:volume", &volume.to_string()] {
            wanted.extend([0, 0, 0, u8::try_from(part.len()).expect("short")]);
            wanted.extend(part.as_bytes());
        }
        assert_eq!(text, wanted);
    }

    #[test]
    fn only_what_is_written_is_read() {
        let whole = sample().encode();
        assert_eq!(Blob::parse(&whole), Some(sample()));
        for len in 0..whole.0.len() {
            assert_eq!(Blob::parse(&Wrapped(whole.0[..len].to_vec())), None, "{len} bytes");
        }
        let mut longer = whole.clone();
        longer.0.push(0);
        assert_eq!(Blob::parse(&longer), None);
        for n in [0, 15, 17, 65, 255] {
            let mut other = whole.clone();
            other.0[4] = n;
            assert_eq!(Blob::parse(&other), None, "an id of {n} bytes");
        }
        for at in 0..4 {
            let mut other = whole.clone();
            other.0[at] ^= 1;
            assert_eq!(Blob::parse(&other), None, "byte {at}");
        }
    }
}
