//! File names: encrypted deterministically within a directory.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use data_encoding::BASE64URL_NOPAD;
use sha2::{Digest, Sha256};

use super::keys::VolumeKeys;
use super::sealed::{open_with, pad, seal_with, unpad};
use crate::ids::DirId;

/// Encrypted names over this length are stored as a hash and a record.
const SHORT: usize = 160;
const NAME_MAX: usize = 255;

/// A name as it lies on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskName {
    /// The entry itself.
    Short(OsString),
    /// An entry named by a hash, and a symlink that records the name.
    Long {
        /// `+HASH`.
        entry: OsString,
        /// `+HASH.name`.
        record: OsString,
        /// The record's target.
        text: OsString,
    },
}

/// Not a name of this directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a name of this directory")]
pub struct BadName;

fn nonce(dir: DirId) -> [u8; 12] {
    dir.0[..12].try_into().expect("an id has sixteen bytes")
}

fn hashed(ciphertext: &[u8]) -> String {
    format!("+{}", BASE64URL_NOPAD.encode(&Sha256::digest(ciphertext)))
}

/// Encrypts a name of at most 255 bytes.
pub fn encrypt(keys: &VolumeKeys, dir: DirId, name: &[u8]) -> DiskName {
    let ciphertext = seal_with(&keys.name, nonce(dir), &dir.0, &pad(name));
    let text = BASE64URL_NOPAD.encode(&ciphertext);
    if text.len() <= SHORT {
        return DiskName::Short(text.into());
    }
    let entry = hashed(&ciphertext);
    DiskName::Long {
        record: format!("{entry}.name").into(),
        entry: entry.into(),
        text: text.into(),
    }
}

fn decrypt_any(keys: &VolumeKeys, dir: DirId, ciphertext: &[u8]) -> Result<Vec<u8>, BadName> {
    let padded = open_with(&keys.name, &nonce(dir), &dir.0, ciphertext).ok_or(BadName)?;
    let name = unpad(&padded).ok_or(BadName)?;
    let fits = !name.is_empty() && name.len() <= NAME_MAX && !name.contains(&b'/');
    if fits && name != b"." && name != b".." { Ok(name) } else { Err(BadName) }
}

/// Decrypts a short entry.
///
/// # Errors
/// [`BadName`] for anything that `encrypt` does not make as a short entry.
pub fn decrypt(keys: &VolumeKeys, dir: DirId, entry: &[u8]) -> Result<Vec<u8>, BadName> {
    if entry.len() > SHORT {
        return Err(BadName);
    }
    decrypt_any(keys, dir, &BASE64URL_NOPAD.decode(entry).map_err(|_| BadName)?)
}

/// Decrypts a long entry from its record's text.
///
/// # Errors
/// [`BadName`] where the two do not belong together.
pub fn decrypt_long(
    keys: &VolumeKeys,
    dir: DirId,
    entry: &[u8],
    text: &[u8],
) -> Result<Vec<u8>, BadName> {
    let ciphertext = BASE64URL_NOPAD.decode(text).map_err(|_| BadName)?;
    if text.len() <= SHORT || hashed(&ciphertext).as_bytes() != entry {
        return Err(BadName);
    }
    decrypt_any(keys, dir, &ciphertext)
}

/// Whether an entry is a long name's.
pub fn is_long_entry(entry: &[u8]) -> bool {
    entry.starts_with(b"+") && !entry.ends_with(b".name")
}

/// Whether an entry is kmsfs's own, and never shown.
pub fn is_reserved(entry: &[u8]) -> bool {
    entry.starts_with(b".") || (entry.starts_with(b"+") && entry.ends_with(b".name"))
}

/// The record of a long entry.
pub fn record_of(entry: &[u8]) -> OsString {
    let mut record = OsStr::from_bytes(entry).to_owned().into_vec();
    record.extend_from_slice(b".name");
    OsString::from_vec(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::VolumeId;
    use crate::secret::Key;
    use proptest::prelude::*;

    fn keys() -> VolumeKeys {
        VolumeKeys::derive(&Key::build(|k| k.fill(8)), VolumeId([1; 16]))
    }

    proptest! {
        #[test]
        fn a_name_comes_back_in_its_own_directory_only(
            name in proptest::collection::vec(any::<u8>().prop_filter("", |b| *b != 0 && *b != b'/'), 3..=255)
        ) {
            let (keys, dir) = (keys(), DirId([4; 16]));
            match encrypt(&keys, dir, &name) {
                DiskName::Short(entry) => {
                    prop_assert_eq!(decrypt(&keys, dir, entry.as_bytes()), Ok(name));
                    prop_assert!(decrypt(&keys, DirId([5; 16]), entry.as_bytes()).is_err());
                }
                DiskName::Long { entry, record, text } => {
                    prop_assert!(is_long_entry(entry.as_bytes()) && entry.len() < 64);
                    prop_assert_eq!(record_of(entry.as_bytes()), record);
                    prop_assert_eq!(decrypt_long(&keys, dir, entry.as_bytes(), text.as_bytes()), Ok(name));
                }
            }
        }
    }

    #[test]
    fn text_that_encrypt_does_not_make_is_refused() {
        let (keys, dir) = (keys(), DirId::ROOT);
        let long_padding = seal_with(
            &keys.name,
            nonce(dir),
            &dir.0,
            &[b'a'; 1].iter().copied().chain([0; 31]).collect::<Vec<_>>(),
        );
        assert!(decrypt(&keys, dir, BASE64URL_NOPAD.encode(&long_padding).as_bytes()).is_err());
        for bad in ["..", ".", "a/b"] {
            let sealed = seal_with(&keys.name, nonce(dir), &dir.0, &pad(bad.as_bytes()));
            assert!(decrypt(&keys, dir, BASE64URL_NOPAD.encode(&sealed).as_bytes()).is_err());
        }
    }
}
