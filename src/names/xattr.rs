//! `user.*` attributes: the name hashed, name and value sealed together.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use data_encoding::BASE64URL_NOPAD;

use super::keys::VolumeKeys;
use super::sealed::{open as open_bytes, seal as seal_bytes};

const PREFIX: &str = "user.kmsfs.";
const HASH: usize = 24;

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
    name.as_bytes().starts_with(PREFIX.as_bytes())
}

/// Seals name (length u16, big-endian, and bytes) and value under the disk name.
pub fn seal(keys: &VolumeKeys, name: &[u8], value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(name.len()).expect("the kernel's names have at most 255 bytes");
    let clear: Vec<u8> = len.to_be_bytes().iter().chain(name).chain(value).copied().collect();
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
    let (name, value) =
        rest.split_at_checked(usize::from(u16::from_be_bytes(*len))).ok_or(BadXattr)?;
    if disk_name(keys, name) != on_disk {
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
    }
}
