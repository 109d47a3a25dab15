//! A wrapped data key as this keystore writes it, 84 bytes:
//!
//! ```text
//! "KFW" 0x01 (4) ‖ key id (16) ‖ material version (u32) ‖ nonce (12) ‖ key (32) ‖ tag (16)
//! ```
//! Integers are big-endian. Associated data: the bytes before the nonce, then the encryption
//! context ([`Context::encode`]).

use super::id::Id;
use super::seal::{SEALED, Sealed};
use crate::kms::{Context, Wrapped};
use crate::secret::Key;

const MAGIC: [u8; 4] = *b"KFW\x01";
const HEADER: usize = 24;

/// The parts of a wrapped data key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Blob {
    /// The master key that it names.
    pub(super) key: Id,
    /// Which of its versions, counted from 1.
    pub(super) version: u32,
    sealed: Sealed,
}

impl Blob {
    /// Wraps `secret` under one version of a master key.
    pub(super) fn wrap(
        (key, version, material): (Id, u32, &Key),
        context: &Context,
        secret: &Key,
    ) -> Self {
        let sealed = Sealed::seal(material, &aad(key, version, context), secret);
        Self { key, version, sealed }
    }

    /// The data key, if it was wrapped under `material` with this context.
    pub(super) fn unwrap(&self, material: &Key, context: &Context) -> Option<Key> {
        self.sealed.open(material, &aad(self.key, self.version, context))
    }

    pub(super) fn encode(&self) -> Wrapped {
        let mut bytes = header(self.key, self.version).to_vec();
        bytes.extend(self.sealed.0);
        Wrapped(bytes)
    }

    /// `None` for anything that [`Blob::encode`] does not write.
    pub(super) fn parse(wrapped: &Wrapped) -> Option<Self> {
        let bytes: &[u8; HEADER + SEALED] = wrapped.0.as_slice().try_into().ok()?;
        let rest = bytes.strip_prefix(&MAGIC)?;
        let (key, rest) = rest.split_first_chunk()?;
        let (version, sealed) = rest.split_first_chunk()?;
        Some(Self {
            key: Id(*key),
            version: u32::from_be_bytes(*version),
            sealed: Sealed(sealed.try_into().ok()?),
        })
    }
}

fn header(key: Id, version: u32) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..20].copy_from_slice(&key.0);
    bytes[20..].copy_from_slice(&version.to_be_bytes());
    bytes
}

fn aad(key: Id, version: u32, context: &Context) -> Vec<u8> {
    let mut aad = header(key, version).to_vec();
    aad.extend(context.encode());
    aad
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::VolumeId;
    use data_encoding::HEXLOWER;

    #[test]
    fn every_changed_byte_is_noticed() {
        let (key, material, secret) = (Id::random(), Key::random(), Key::random());
        let context = Context::volume(VolumeId::random());
        let wrapped = Blob::wrap((key, 3, &material), &context, &secret).encode();
        let blob = Blob::parse(&wrapped).expect("its own encoding");
        assert_eq!((blob.key, blob.version), (key, 3));
        assert_eq!(blob.unwrap(&material, &context).expect("same").expose(), secret.expose());
        for at in 0..wrapped.0.len() {
            let mut bad = wrapped.clone();
            bad.0[at] ^= 0x10;
            let opened = Blob::parse(&bad).and_then(|b| b.unwrap(&material, &context));
            assert!(opened.is_none(), "byte {at}");
        }
        for len in 0..wrapped.0.len() {
            assert!(Blob::parse(&Wrapped(wrapped.0[..len].to_vec())).is_none());
        }
    }

    /// A blob of format 1 opens for ever.
    #[test]
    fn golden() {
        let context = Context::volume(VolumeId([9; 16]));
        let text = include_str!("golden-blob.hex");
        let bytes = HEXLOWER.decode(text.trim_end().as_bytes()).expect("hex");
        let blob = Blob::parse(&Wrapped(bytes)).expect("format 1");
        let material = Key::build(|k| k.fill(1));
        assert_eq!(blob.unwrap(&material, &context).expect("opens").expose(), &[2; 32]);
    }
}
