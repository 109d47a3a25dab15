//! Identifiers that the store, the keyring and the KMS share.
//!
//! They are random or derived numbers, not secrets: each lies in clear in the store.

use std::fmt;

use data_encoding::HEXLOWER;

/// A text that is not the one spelling of an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not {1} lower-case hex digits")]
pub struct BadId(String, usize);

fn from_hex<const N: usize>(text: &str) -> Result<[u8; N], BadId> {
    let bad = || BadId(text.to_owned(), N * 2);
    let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| bad())?;
    bytes.try_into().map_err(|_| bad())
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $len:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// A fresh random identifier.
            pub fn random() -> Self {
                Self(crate::secret::random_bytes())
            }

            /// The text form: lower-case hex, and nothing else.
            ///
            /// # Errors
            /// Any other spelling is [`BadId`].
            pub fn parse(text: &str) -> Result<Self, BadId> {
                from_hex(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

hex_id!(
    /// Identifies a volume (a store); 16 random bytes chosen by `init`.
    VolumeId, 16
);
hex_id!(
    /// Identifies a directory: the nonce and associated data of its names.
    DirId, 16
);
hex_id!(
    /// Identifies a sidecar page, which holds the wrapped keys of up to 64 files.
    PageId, 14
);
hex_id!(
    /// Identifies the body of a very long symlink target.
    LinkId, 16
);
hex_id!(
    /// Identifies a branch key.
    BranchId, 16
);

impl DirId {
    /// The root directory's id, which is written nowhere.
    pub const ROOT: Self = Self([0; 16]);
}

impl PageId {
    /// The id of the page that is made after this one: the number that it is, least significant
    /// byte first, and one. So successive pages lie in successive folders of the store.
    #[must_use]
    pub fn next(self) -> Self {
        let mut bytes = self.0;
        for byte in &mut bytes {
            let (sum, carries) = byte.overflowing_add(1);
            *byte = sum;
            if !carries {
                break;
            }
        }
        Self(bytes)
    }
}

/// How many files one sidecar page serves.
pub const SLOTS: u16 = 64;

/// Identifies a file's content and data key: a page id and a slot on that page.
///
/// Layout: page id (14 bytes) ‖ slot (u16, big-endian).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub [u8; 16]);

impl FileId {
    /// The id of one slot of a page.
    pub fn new(page: PageId, slot: u16) -> Self {
        let mut bytes = [0; 16];
        bytes[..14].copy_from_slice(&page.0);
        bytes[14..].copy_from_slice(&slot.to_be_bytes());
        Self(bytes)
    }

    /// The sidecar page that holds this file's wrapped key.
    pub fn page(&self) -> PageId {
        let mut page = [0; 14];
        page.copy_from_slice(&self.0[..14]);
        PageId(page)
    }

    /// The line of that page.
    pub fn slot(&self) -> u16 {
        u16::from_be_bytes([self.0[14], self.0[15]])
    }

    /// The text form: 32 lower-case hex digits.
    ///
    /// # Errors
    /// Any other spelling is [`BadId`].
    pub fn parse(text: &str) -> Result<Self, BadId> {
        from_hex(text).map(Self)
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_id_is_page_then_slot_big_endian() {
        let id = FileId::new(PageId([7; 14]), 0x0102);
        assert_eq!(&id.0[14..], &[1, 2]);
        assert_eq!((id.page(), id.slot()), (PageId([7; 14]), 0x0102));
        assert_eq!(FileId::parse(&id.to_string()), Ok(id));
    }

    #[test]
    fn pages_are_counted_from_their_first_byte() {
        let mut bytes = [0xff; 14];
        bytes[1] = 3;
        let next = PageId(bytes).next();
        assert_eq!(next.0[..3], [0, 4, 0xff]);
        assert_eq!(PageId([0xff; 14]).next(), PageId([0; 14]));
    }

    #[test]
    fn only_one_spelling_is_accepted() {
        let text = DirId([0xab; 16]).to_string();
        assert!(DirId::parse(&text.to_uppercase()).is_err());
        assert!(DirId::parse(&text[..30]).is_err());
        assert!(DirId::parse(&format!("{text} ")).is_err());
    }
}
