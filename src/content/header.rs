//! The header that begins a content file: which sidecar line its key is in.
//!
//! magic "KMFS" | version 1 | suite 1 (AES-256-GCM-SIV) | flags u16 = 0 | file id 16

use super::geometry::HEADER;
use crate::ids::FileId;

const PREFIX: [u8; 8] = [b'K', b'M', b'F', b'S', 1, 1, 0, 0];

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The file's id.
    pub file: FileId,
}

/// What the first bytes of a file say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstPage {
    /// It has a key.
    Keyed(Header),
    /// Zeros: it has none yet, and every record must be a hole.
    Keyless,
}

/// Bytes that no header has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a header of format version 1")]
pub struct BadHeader;

/// Whether these bytes begin as a header of any version does.
pub fn has_magic(bytes: &[u8]) -> bool {
    bytes.starts_with(&PREFIX[..4])
}

impl Header {
    /// The one spelling.
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&PREFIX);
        bytes[8..].copy_from_slice(&self.file.0);
        bytes
    }
}

/// Reads the first 24 bytes of a file.
///
/// # Errors
/// [`BadHeader`] for anything that `encode` does not make, but zeros.
pub fn parse(bytes: &[u8]) -> Result<FirstPage, BadHeader> {
    if bytes.len() != HEADER {
        return Err(BadHeader);
    }
    if bytes.iter().all(|b| *b == 0) {
        return Ok(FirstPage::Keyless);
    }
    let file = bytes.strip_prefix(&PREFIX).and_then(|id| id.try_into().ok()).ok_or(BadHeader)?;
    Ok(FirstPage::Keyed(Header { file: FileId(file) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_byte_is_another_file_or_no_header() {
        let header = Header { file: FileId([5; 16]) };
        let bytes = header.encode();
        assert_eq!(parse(&bytes), Ok(FirstPage::Keyed(header)));
        for i in 0..HEADER {
            let mut flipped = bytes;
            flipped[i] ^= 0x40;
            assert_eq!(parse(&flipped).is_ok(), i >= 8, "byte {i}");
            assert_ne!(parse(&flipped), Ok(FirstPage::Keyed(header)));
        }
        assert_eq!(parse(&[0; HEADER]), Ok(FirstPage::Keyless));
    }
}
