//! File names: encrypted deterministically within a directory.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use data_encoding::BASE64URL_NOPAD;
use sha2::{Digest, Sha256};

use super::keys::VolumeKeys;
use super::sealed::{open_with, pad, seal_with, unpad};
use crate::ids::DirId;

/// Names over this length are stored as a hash and a record: padded, with a tag and in base64,
/// the next length would no longer fit the 255 bytes of an entry.
const SHORT: usize = 160;
/// The text of a name of [`SHORT`] bytes.
const SHORT_TEXT: usize = 235;
const HASH_TEXT: usize = 43;
const RECORD_SUFFIX: &[u8] = b".name";
const NAME_MAX: usize = 255;
const BLOCK: usize = 16;
const TAG: usize = 16;

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

/// Encrypts a name of 1 to 255 bytes, without NUL or slash.
pub fn encrypt(keys: &VolumeKeys, dir: DirId, name: &[u8]) -> DiskName {
    debug_assert!((1..=NAME_MAX).contains(&name.len()), "the caller bounds names");
    let ciphertext = seal_with(&keys.name, nonce(dir), &dir.0, &pad(name));
    let text = BASE64URL_NOPAD.encode(&ciphertext);
    if name.len() <= SHORT {
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
    if entry.len() > SHORT_TEXT {
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
    if text.len() <= SHORT_TEXT || hashed(&ciphertext).as_bytes() != entry {
        return Err(BadName);
    }
    decrypt_any(keys, dir, &ciphertext)
}

/// Whether an entry is a long name's.
pub fn is_long_entry(entry: &[u8]) -> bool {
    entry
        .strip_prefix(b"+")
        .is_some_and(|hash| hash.len() == HASH_TEXT && BASE64URL_NOPAD.decode(hash).is_ok())
}

/// The longest name that has an entry of at most so many bytes, and all shorter ones with it.
pub fn longest_within(entry: usize) -> usize {
    let text = |name: usize| BASE64URL_NOPAD.encode_len(name.next_multiple_of(BLOCK) + TAG);
    let record = 1 + HASH_TEXT + RECORD_SUFFIX.len();
    match (1..=SHORT).rev().find(|name| text(*name) <= entry) {
        Some(SHORT) if record <= entry => NAME_MAX,
        longest => longest.unwrap_or_default(),
    }
}

/// Whether an entry is the record of a long name.
pub fn is_record(entry: &[u8]) -> bool {
    entry.strip_suffix(RECORD_SUFFIX).is_some_and(is_long_entry)
}

/// Whether an entry may be a name's, in some directory of some volume. What no writer has ever made
/// is not.
pub fn is_entry(entry: &[u8]) -> bool {
    let is_sealed = |bytes: Vec<u8>| bytes.len() > TAG && bytes.len().is_multiple_of(BLOCK);
    is_long_entry(entry)
        || entry.len() <= SHORT_TEXT && BASE64URL_NOPAD.decode(entry).is_ok_and(is_sealed)
}

/// The record of a long entry.
pub fn record_of(entry: &[u8]) -> OsString {
    let mut record = OsStr::from_bytes(entry).to_owned().into_vec();
    record.extend_from_slice(RECORD_SUFFIX);
    OsString::from_vec(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::VolumeId;
    use crate::secret::Key;
    use proptest::prelude::*;

    #[test]
    fn the_longest_name_is_what_fits() {
        for entry in [0, 42, 43, 64, 142, 143, 234, 235, 255] {
            let longest = longest_within(entry);
            for len in 1..=255 {
                let fits = match encrypt(&keys(), DirId([3; 16]), &vec![b'n'; len]) {
                    DiskName::Short(name) => name.len() <= entry,
                    DiskName::Long { record, .. } => record.len() <= entry,
                };
                assert!(fits || len > longest, "{len} in {entry}");
                assert!(!fits || len != longest + 1, "{len} in {entry}");
            }
        }
        assert_eq!((longest_within(143), longest_within(255)), (80, 255));
    }

    #[test]
    fn what_others_leave_in_a_folder_is_no_entry() {
        let long = "A".repeat(236);
        for name in [".DS_Store", "Thumbs.db", "@eaDir", "desktop.ini", "Icon", ".", "+", &long] {
            assert!(!is_entry(name.as_bytes()) && !is_record(name.as_bytes()), "{name}");
        }
    }

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
    fn names_over_160_bytes_are_long_and_every_entry_fits() {
        let (keys, dir) = (keys(), DirId([4; 16]));
        for len in 1..=NAME_MAX {
            let name = vec![b'n'; len];
            match encrypt(&keys, dir, &name) {
                DiskName::Short(entry) => {
                    assert!(len <= 160 && entry.len() <= SHORT_TEXT && entry.len() >= 43);
                    assert!(!is_record(entry.as_bytes()) && !is_long_entry(entry.as_bytes()));
                    assert!(is_entry(entry.as_bytes()));
                }
                DiskName::Long { entry, record, text } => {
                    let (e, t) = (entry.as_bytes(), text.as_bytes());
                    assert!(len > 160 && is_long_entry(e) && is_entry(e) && !is_record(e));
                    assert!(is_record(record.as_bytes()) && !is_long_entry(record.as_bytes()));
                    assert_eq!(decrypt_long(&keys, dir, e, t), Ok(name));
                    assert!(decrypt(&keys, dir, t).is_err(), "a long name never stands short");
                    assert!(decrypt_long(&keys, dir, &e[..43], t).is_err());
                }
            }
        }
    }

    #[test]
    fn every_flipped_bit_of_an_entry_is_seen() {
        let (keys, dir) = (keys(), DirId([4; 16]));
        let DiskName::Short(entry) = encrypt(&keys, dir, b"a name") else {
            panic!("a name of six bytes is short")
        };
        for bit in 0..entry.len() * 8 {
            let mut flipped = entry.as_bytes().to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decrypt(&keys, dir, &flipped).is_err(), "bit {bit}");
        }
        for spelling in ["=", "A", "\n"] {
            let text = [entry.as_bytes(), spelling.as_bytes()].concat();
            assert!(decrypt(&keys, dir, &text).is_err(), "{spelling:?}");
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
