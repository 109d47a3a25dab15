//! `user.*` attributes: the name hashed, name and value sealed together.
//!
//! ```text
//! value on disk   nonce 12 | ciphertext | tag 16, with the name on disk as associated data
//! sealed in it    length of the name, u16 big-endian | name | value | 0x80 | zeros to 16·k
//! ```

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use data_encoding::BASE64URL_NOPAD;
use zeroize::Zeroizing;

use super::keys::VolumeKeys;
use super::sealed::{open as open_bytes, seal as seal_bytes};

const PREFIX: &str = "user.kmsfs.";
const HASH: usize = 24;
/// The hash in base64url.
const HASH_TEXT: usize = 32;
/// Ends the value, which may itself end with zeros; padding hides its exact length.
const END: u8 = 0x80;
const BLOCK: usize = 16;

/// Not an attribute of this volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an attribute of this volume")]
pub struct BadXattr;

/// The name on disk.
pub fn disk_name(keys: &VolumeKeys, name: &[u8]) -> OsString {
    let hash = keys.hash_xattr_name(name);
    format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&hash[..HASH])).into()
}

/// Whether a name on disk is of a sealed attribute.
pub fn is_sealed_name(name: &OsStr) -> bool {
    name.as_bytes()
        .strip_prefix(PREFIX.as_bytes())
        .is_some_and(|hash| hash.len() == HASH_TEXT && BASE64URL_NOPAD.decode(hash).is_ok())
}

/// Seals a name (whole, with `user.`) and a value.
pub fn seal(keys: &VolumeKeys, name: &[u8], value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(name.len()).expect("the kernel's names have at most 255 bytes");
    let room = (2 + name.len() + value.len() + 1).next_multiple_of(BLOCK);
    let mut clear = Zeroizing::new(Vec::with_capacity(room));
    clear.extend_from_slice(&len.to_be_bytes());
    clear.extend_from_slice(name);
    clear.extend_from_slice(value);
    clear.push(END);
    clear.resize(room, 0);
    seal_bytes(&keys.xattr_value, disk_name(keys, name).as_bytes(), &clear)
}

/// Opens name and value.
///
/// # Errors
/// [`BadXattr`], also where the name inside is not the disk name's.
pub fn open(
    keys: &VolumeKeys,
    on_disk: &OsStr,
    bytes: &[u8],
) -> Result<(Vec<u8>, Vec<u8>), BadXattr> {
    let clear = open_bytes(&keys.xattr_value, on_disk.as_bytes(), bytes).ok_or(BadXattr)?;
    let (len, rest) = clear.split_first_chunk::<2>().ok_or(BadXattr)?;
    let (name, padded) =
        rest.split_at_checked(usize::from(u16::from_be_bytes(*len))).ok_or(BadXattr)?;
    let end = padded.iter().rposition(|b| *b != 0).ok_or(BadXattr)?;
    let (value, padding) = padded.split_at(end);
    let exact = clear.len().is_multiple_of(BLOCK) && padding.len() <= BLOCK && padding[0] == END;
    if !exact || disk_name(keys, name) != on_disk {
        return Err(BadXattr);
    }
    Ok((name.to_vec(), value.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::VolumeId;
    use crate::secret::Key;

    #[test]
    fn an_attribute_opens_under_its_own_name_only() {
        let keys = VolumeKeys::derive(&Key::build(|k| k.fill(8)), VolumeId([1; 16]));
        let sealed = seal(&keys, b"user.a", b"value");
        let (a, b) = (disk_name(&keys, b"user.a"), disk_name(&keys, b"user.b"));
        assert_eq!(open(&keys, &a, &sealed), Ok((b"user.a".to_vec(), b"value".to_vec())));
        assert_eq!(open(&keys, &b, &sealed), Err(BadXattr));
        assert!(is_sealed_name(&a) && !is_sealed_name(OsStr::new("user.kmsfs.a")));
    }

    #[test]
    fn values_of_every_length_come_back_with_their_zeros() {
        let keys = VolumeKeys::derive(&Key::build(|k| k.fill(8)), VolumeId([1; 16]));
        let on_disk = disk_name(&keys, b"user.a");
        for len in (0..40).chain([4000, 65_000]) {
            for byte in [0, END, 7] {
                let value = vec![byte; len];
                let sealed = seal(&keys, b"user.a", &value);
                assert_eq!((sealed.len() - 12) % BLOCK, 0);
                assert_eq!(open(&keys, &on_disk, &sealed), Ok((b"user.a".to_vec(), value)));
            }
        }
    }

    #[test]
    fn other_padding_is_refused() {
        let keys = VolumeKeys::derive(&Key::build(|k| k.fill(8)), VolumeId([1; 16]));
        let on_disk = disk_name(&keys, b"user.a");
        let open_clear = |clear: &[u8]| {
            let sealed = seal_bytes(&keys.xattr_value, on_disk.as_bytes(), clear);
            open(&keys, &on_disk, &sealed)
        };
        let good = *b"\0\x06user.a1234567\x80";
        assert!(open_clear(&good).is_ok());
        assert!(open_clear(&good[..15]).is_err(), "no end");
        assert!(open_clear(&[&good[..], &[0; 16]].concat()).is_err(), "a block too many");
        assert!(open_clear(&[&good[..], &[0; 3]].concat()).is_err(), "not a multiple of 16");
        assert!(open_clear(&[0; 16]).is_err() && open_clear(&[]).is_err());
    }
}
