//! Symlink targets: sealed inline, or in a body of their own when very long.

use std::ffi::OsString;

use data_encoding::BASE64URL_NOPAD;

use super::keys::VolumeKeys;
use super::sealed::{open, pad, seal as seal_bytes, unpad};
use crate::ids::LinkId;

/// The longest target whose text still fits a symlink (4095 bytes): padded to a multiple of 16,
/// with nonce and tag, in base64. Longer ones have a body.
const INLINE: usize = 3040;

/// A target as it lies on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskLink {
    /// The symlink's own target.
    Inline(OsString),
    /// The symlink's target `+ID`, and a body to be written first.
    Body {
        /// `+ID`.
        text: OsString,
        /// The body's id.
        id: LinkId,
        /// The body.
        body: Vec<u8>,
    },
}

/// What a symlink on disk says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkText {
    /// The sealed target.
    Inline(Vec<u8>),
    /// Where the body is.
    Body(LinkId),
}

/// Not a target of this volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a symlink target of this volume")]
pub struct BadLink;

/// Seals a target.
pub fn seal(keys: &VolumeKeys, target: &[u8]) -> DiskLink {
    if target.len() <= INLINE {
        let sealed = seal_bytes(&keys.link, b"", &pad(target));
        return DiskLink::Inline(BASE64URL_NOPAD.encode(&sealed).into());
    }
    seal_body(keys, target)
}

/// Seals a target in a body, whatever its length: for a filesystem whose symlinks are short.
pub fn seal_body(keys: &VolumeKeys, target: &[u8]) -> DiskLink {
    let id = LinkId::random();
    let body = seal_bytes(&keys.link, &id.0, &pad(target));
    DiskLink::Body { text: format!("+{id}").into(), id, body }
}

/// Reads a symlink's text.
///
/// # Errors
/// [`BadLink`].
pub fn parse(text: &[u8]) -> Result<LinkText, BadLink> {
    if let Some(id) = text.strip_prefix(b"+") {
        let id = std::str::from_utf8(id).map_err(|_| BadLink)?;
        return LinkId::parse(id).map(LinkText::Body).map_err(|_| BadLink);
    }
    BASE64URL_NOPAD.decode(text).map(LinkText::Inline).map_err(|_| BadLink)
}

/// Opens an inline target.
///
/// # Errors
/// [`BadLink`].
pub fn open_inline(keys: &VolumeKeys, sealed: &[u8]) -> Result<Vec<u8>, BadLink> {
    open(&keys.link, b"", sealed).and_then(|p| unpad(&p)).ok_or(BadLink)
}

/// Opens a body; it is bound to its id.
///
/// # Errors
/// [`BadLink`].
pub fn open_body(keys: &VolumeKeys, id: LinkId, body: &[u8]) -> Result<Vec<u8>, BadLink> {
    open(&keys.link, &id.0, body).and_then(|p| unpad(&p)).ok_or(BadLink)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::VolumeId;
    use crate::secret::Key;

    #[test]
    fn every_flipped_bit_is_seen() {
        let keys = VolumeKeys::derive(&Key::build(|k| k.fill(8)), VolumeId([1; 16]));
        let DiskLink::Inline(text) = seal(&keys, b"../target") else {
            panic!("nine bytes are inline")
        };
        for bit in 0..text.len() * 8 {
            let mut flipped = text.as_encoded_bytes().to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let opened = match parse(&flipped) {
                Ok(LinkText::Inline(sealed)) => open_inline(&keys, &sealed),
                Ok(LinkText::Body(_)) | Err(_) => Err(BadLink),
            };
            assert_eq!(opened, Err(BadLink), "bit {bit}");
        }
    }

    #[test]
    fn targets_of_every_length_come_back() {
        let keys = VolumeKeys::derive(&Key::build(|k| k.fill(8)), VolumeId([1; 16]));
        for len in [1, 15, 16, 17, 2000, 3040, 3041, 4095] {
            let target = vec![b'x'; len];
            let back = match seal(&keys, &target) {
                DiskLink::Inline(text) => {
                    assert!(text.len() <= 4095, "{len}");
                    let LinkText::Inline(s) = parse(text.as_encoded_bytes()).expect("ours") else {
                        panic!("inline text parses as inline")
                    };
                    open_inline(&keys, &s)
                }
                DiskLink::Body { text, id, body } => {
                    assert_eq!(parse(text.as_encoded_bytes()), Ok(LinkText::Body(id)));
                    assert!(open_body(&keys, LinkId::random(), &body).is_err());
                    open_body(&keys, id, &body)
                }
            };
            assert_eq!(back, Ok(target));
        }
    }
}
