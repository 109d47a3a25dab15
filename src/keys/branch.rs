//! A branch key: it wraps data keys here, so that the KMS is not asked for each.
//!
//! nonce 12 | data key 32, encrypted | tag 16
//! AAD: volume id 16 | branch id 16 | file id 16

use aes_gcm_siv::aead::{AeadInOut, KeyInit, inout::InOutBuf};
use aes_gcm_siv::{Aes256GcmSiv, Nonce, Tag};

use crate::ids::{BranchId, FileId, VolumeId};
use crate::kms::Wrapped;
use crate::secret::{Key, Locked, random_nonce};

const NONCE: usize = 12;
const KEY: usize = 32;
const WRAPPED: usize = NONCE + KEY + 16;

/// A branch key of a volume. Its state lies in locked memory and is wiped on drop. It does not
/// know how many keys it has wrapped.
pub struct BranchKey {
    state: Locked<Aes256GcmSiv>,
    volume: VolumeId,
    id: BranchId,
}

impl std::fmt::Debug for BranchKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BranchKey({})", self.id)
    }
}

impl BranchKey {
    /// The branch key of this plaintext.
    pub fn new(key: &Key, volume: VolumeId, id: BranchId) -> Self {
        Self { state: Locked::new(Aes256GcmSiv::new(key.expose().into())), volume, id }
    }

    /// Its id.
    pub fn id(&self) -> BranchId {
        self.id
    }

    fn aad(&self, file: FileId) -> [u8; 48] {
        let mut aad = [0; 48];
        aad[..16].copy_from_slice(&self.volume.0);
        aad[16..32].copy_from_slice(&self.id.0);
        aad[32..].copy_from_slice(&file.0);
        aad
    }

    /// Wraps the data key of a file, under a fresh nonce.
    pub fn wrap(&self, key: &Key, file: FileId) -> Wrapped {
        self.wrap_with(random_nonce(), key, file)
    }

    fn wrap_with(&self, nonce: [u8; NONCE], key: &Key, file: FileId) -> Wrapped {
        let mut out = vec![0; NONCE + KEY];
        out[..NONCE].copy_from_slice(&nonce);
        let inout = InOutBuf::new(key.expose(), &mut out[NONCE..]).expect("both are 32 bytes");
        let tag = self
            .state
            .encrypt_inout_detached(&Nonce::from(nonce), &self.aad(file), inout)
            .expect("a key is far below RFC 8452's limit of 2^36 bytes");
        out.extend_from_slice(&tag);
        Wrapped(out)
    }

    /// Unwraps the data key of a file; `None` where it was not wrapped by this key for this file.
    pub fn unwrap(&self, wrapped: &Wrapped, file: FileId) -> Option<Key> {
        let wrapped: &[u8; WRAPPED] = wrapped.0.as_slice().try_into().ok()?;
        let (nonce, rest) = wrapped.split_at(NONCE);
        let (body, tag) = rest.split_at(KEY);
        let (nonce, tag) = (Nonce::try_from(nonce).ok()?, Tag::try_from(tag).ok()?);
        let mut opened = None;
        let key = Key::build(|out| {
            let inout = InOutBuf::new(body, out).expect("both are 32 bytes");
            let aad = self.aad(file);
            opened = self.state.decrypt_inout_detached(&nonce, &aad, inout, &tag).ok();
        });
        opened.map(|()| key)
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    fn counting<const N: usize>(from: u8) -> [u8; N] {
        std::array::from_fn(|i| from + u8::try_from(i).expect("small"))
    }

    fn key(from: u8) -> Key {
        Key::build(|out| *out = counting(from))
    }

    fn branch() -> BranchKey {
        BranchKey::new(&key(0xc0), VolumeId(counting(0)), BranchId(counting(0x90)))
    }

    fn file() -> FileId {
        FileId::parse("606162636465666768696a6b6c6d0005").expect("an id")
    }

    /// Made with pyca/cryptography 48:
    /// `nonce + AESGCMSIV(branch key).encrypt(nonce, data key, volume id + branch id + file id)`.
    #[test]
    fn a_wrapped_key_is_what_another_implementation_makes() {
        let nonce = counting(0x80);
        let made = branch().wrap_with(nonce, &key(0x20), file());
        assert_eq!(HEXLOWER.encode(&made.0), VECTOR);
        let back = branch().unwrap(&made, file()).expect("it is ours");
        assert_eq!(back.expose(), key(0x20).expose());
    }

    const VECTOR: &str = "808182838485868788898a8b7d779355564efacf773fe118e75a521f808c2f025528ea59daff242088ef9138ba98b1dc84f90e237252384f686c167d";

    #[test]
    fn every_flipped_bit_and_every_other_place_is_seen() {
        let made = branch().wrap(&key(0x20), file());
        assert!(branch().unwrap(&made, file()).is_some());
        for i in 0..made.0.len() {
            for bit in 0..8 {
                let mut flipped = made.clone();
                flipped.0[i] ^= 1 << bit;
                assert!(branch().unwrap(&flipped, file()).is_none(), "byte {i} bit {bit}");
            }
            assert!(branch().unwrap(&Wrapped(made.0[..i].to_vec()), file()).is_none());
        }
        assert!(branch().unwrap(&Wrapped([&made.0[..], &[0]].concat()), file()).is_none());
        assert!(branch().unwrap(&made, FileId([9; 16])).is_none(), "another file");
        let (volume, id) = (VolumeId(counting(0)), BranchId(counting(0x90)));
        for other in [
            BranchKey::new(&key(0xc1), volume, id),
            BranchKey::new(&key(0xc0), VolumeId([9; 16]), id),
            BranchKey::new(&key(0xc0), volume, BranchId([9; 16])),
        ] {
            assert!(other.unwrap(&made, file()).is_none());
        }
        assert_eq!(format!("{:?}", branch()), format!("BranchKey({id})"));
    }
}
