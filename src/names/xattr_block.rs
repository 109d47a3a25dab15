//! The attribute block: those of an inode's `user.*` attributes that fit, sealed together. A
//! filesystem that gives a file little room for attributes (ext4: one block) holds so many more of
//! them than each on its own.
//!
//! ```text
//! value on disk   nonce 12 | ciphertext | tag 16, with the name on disk as associated data
//! sealed in it    apart, 0 or 1 | entries | zeros to 16·k
//! an entry        length of the name, u8 | length of the value, u16 big-endian | name | value
//! ```
//!
//! Names are without `user.`, and in ascending order.

use std::ops::Range;

use zeroize::Zeroizing;

use super::keys::VolumeKeys;
use super::sealed::{open as open_bytes, seal as seal_bytes};
use super::xattr::BadXattr;

/// The block's name on disk.
pub const NAME: &str = "user.kmsfs";
/// The most that is sealed in a block, in bytes: what ext4 has room for where its blocks are 4 KiB.
const MOST: usize = 4000;
/// The longest name: the kernel's have 255 bytes (xattr(7)), of which `user.` is left out.
const LONGEST: u8 = 250;
const UNIT: usize = 16;
/// Before each name and value: their lengths.
const LENGTHS: usize = 3;
/// Before the entries.
const HEAD: usize = 1;

/// Whether an inode may have attributes apart from its block. Without a block it has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Apart {
    /// It has none, and nobody has to look.
    #[default]
    None,
    /// It may have some.
    Some,
}

/// What a block says. It comes before what lies apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct XattrBlock {
    /// Whether there may be more.
    pub apart: Apart,
    /// As they are sealed.
    entries: Zeroizing<Vec<u8>>,
}

/// An entry, and where it lies among the others.
struct Entry<'a> {
    name: &'a [u8],
    value: &'a [u8],
    at: Range<usize>,
}

fn is_length(name: u8) -> bool {
    (1..=LONGEST).contains(&name)
}

/// The entry that begins at this place, if one is there whole.
fn entry(entries: &[u8], start: usize) -> Option<Entry<'_>> {
    let (&len, rest) = entries.get(start..)?.split_first().filter(|(len, _)| is_length(**len))?;
    let (value_len, rest) = rest.split_first_chunk()?;
    let (name, rest) = rest.split_at_checked(usize::from(len))?;
    let (value, _) = rest.split_at_checked(usize::from(u16::from_be_bytes(*value_len)))?;
    Some(Entry { name, value, at: start..start + LENGTHS + name.len() + value.len() })
}

impl XattrBlock {
    fn all(&self) -> impl Iterator<Item = Entry<'_>> {
        let mut end = 0;
        std::iter::from_fn(move || {
            let next = entry(&self.entries, end)?;
            end = next.at.end;
            Some(next)
        })
    }

    /// The value of a name, which is without `user.` in this and all other functions.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.all().find(|entry| entry.name == name).map(|entry| entry.value)
    }

    /// All names, in ascending order.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.all().map(|entry| entry.name)
    }

    /// Whether it says nothing: such a block is not kept.
    pub fn says_nothing(&self) -> bool {
        self.apart == Apart::None && self.entries.is_empty()
    }

    /// The same with this value in the place of what the name had; `None` where that does not fit.
    pub fn with(&self, name: &[u8], value: &[u8]) -> Option<Self> {
        let lengths = (u8::try_from(name.len()).ok()?, u16::try_from(value.len()).ok()?);
        let at = self.place(name);
        let len = self.entries.len() - at.len() + LENGTHS + name.len() + value.len();
        if !is_length(lengths.0) || padded(len) > MOST {
            return None;
        }
        let mut entries = Zeroizing::new(Vec::with_capacity(len));
        entries.extend_from_slice(&self.entries[..at.start]);
        entries.push(lengths.0);
        entries.extend_from_slice(&lengths.1.to_be_bytes());
        entries.extend_from_slice(name);
        entries.extend_from_slice(value);
        entries.extend_from_slice(&self.entries[at.end..]);
        Some(Self { apart: self.apart, entries })
    }

    /// The same without a name.
    #[must_use]
    pub fn without(&self, name: &[u8]) -> Self {
        let mut without = self.clone();
        without.entries.drain(self.place(name));
        without
    }

    /// The same, and there may be more.
    #[must_use]
    pub fn with_apart(&self) -> Self {
        Self { apart: Apart::Some, entries: self.entries.clone() }
    }

    /// Where a name's entry lies; where there is none, the place where it would.
    fn place(&self, name: &[u8]) -> Range<usize> {
        match self.all().find(|entry| entry.name >= name) {
            Some(entry) if entry.name == name => entry.at,
            Some(entry) => entry.at.start..entry.at.start,
            None => self.entries.len()..self.entries.len(),
        }
    }

    /// Seals it.
    pub fn seal(&self, keys: &VolumeKeys) -> Vec<u8> {
        let len = padded(self.entries.len());
        let mut clear = Zeroizing::new(Vec::with_capacity(len));
        clear.push(u8::from(self.apart == Apart::Some));
        clear.extend_from_slice(&self.entries);
        clear.resize(len, 0);
        seal_bytes(&keys.xattr_value, NAME.as_bytes(), &clear)
    }

    /// Opens it.
    ///
    /// # Errors
    /// [`BadXattr`]
    pub fn open(keys: &VolumeKeys, bytes: &[u8]) -> Result<Self, BadXattr> {
        let clear = open_bytes(&keys.xattr_value, NAME.as_bytes(), bytes).ok_or(BadXattr)?;
        Self::parse(&clear).ok_or(BadXattr)
    }

    /// `None` for what [`XattrBlock::seal`] does not make.
    fn parse(clear: &[u8]) -> Option<Self> {
        let (head, entries) = clear.split_first()?;
        let apart = match head {
            0 => Apart::None,
            1 => Apart::Some,
            _ => return None,
        };
        let (mut end, mut last) = (0, &[][..]);
        while let Some(entry) = entry(entries, end) {
            if entry.name <= last {
                return None;
            }
            (end, last) = (entry.at.end, entry.name);
        }
        let exact = clear.len() == padded(end) && clear.len() <= MOST;
        let block = Self { apart, entries: Zeroizing::new(entries[..end].to_vec()) };
        (exact && entries[end..].iter().all(|b| *b == 0) && !block.says_nothing()).then_some(block)
    }
}

/// The length of what is sealed, with so many bytes of entries.
fn padded(entries: usize) -> usize {
    (HEAD + entries).next_multiple_of(UNIT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::VolumeId;
    use crate::secret::Key;

    fn keys() -> VolumeKeys {
        VolumeKeys::derive(&Key::build(|k| k.fill(8)), VolumeId([1; 16]))
    }

    fn block(entries: &[(&[u8], &[u8])]) -> XattrBlock {
        let add =
            |b: XattrBlock, (name, value): &(&[u8], &[u8])| b.with(name, value).expect("fits");
        entries.iter().fold(XattrBlock::default(), add)
    }

    #[test]
    fn a_block_comes_back_with_its_names_in_order() {
        let long = [b'n'; 250];
        let b = block(&[(b"b", b"2"), (b"a", b""), (&long, &[0; 300]), (b"a0", b"\0\0")]);
        for b in [b.clone(), b.with_apart(), XattrBlock::default().with_apart()] {
            let sealed = b.seal(&keys());
            assert_eq!((sealed.len() - 28) % UNIT, 0);
            assert_eq!(XattrBlock::open(&keys(), &sealed), Ok(b));
        }
        let names: Vec<&[u8]> = b.names().collect();
        assert_eq!(names, [&b"a"[..], b"a0", b"b", &long]);
        assert_eq!((b.get(b"a"), b.get(b"c")), (Some(&b""[..]), None));
        assert_eq!(b.without(b"a").get(b"a"), None);
    }

    /// The figures that docs/FORMAT.md and docs/SEMANTICS.md tell.
    #[test]
    fn it_takes_what_a_block_of_ext4_has_room_for_and_no_more() {
        let mut b = XattrBlock::default();
        let mut count = 0;
        while let Some(more) = b.with(format!("{count:011}").as_bytes(), &[7; 8]) {
            (b, count) = (more, count + 1);
        }
        assert_eq!((count, b.seal(&keys()).len()), (181, 28 + 3984));
        let alone = |len| XattrBlock::default().with(b"name", &vec![1; len]);
        assert!(alone(4000 - 8).is_some() && alone(4000 - 7).is_none() && alone(1 << 16).is_none());
        let replaced = b.with(b"00000000000", &[1; 8]).expect("as long as before");
        assert_eq!(replaced.seal(&keys()).len(), b.seal(&keys()).len());
        assert_eq!(b.with(b"00000000000", &[1; 60]), None);
        assert!(b.with(b"", b"").is_none() && b.with(&[b'n'; 251], b"").is_none());
    }

    #[test]
    fn other_spellings_are_refused() {
        let open = |clear: &[u8]| {
            XattrBlock::open(&keys(), &seal_bytes(&keys().xattr_value, NAME.as_bytes(), clear))
        };
        let good = *b"\0\x01\0\x01a1\x01\0\x02b22\0\0\0\0";
        assert_eq!(open(&good), Ok(block(&[(b"a", b"1"), (b"b", b"22")])));
        assert!(open(&[&[1; 1], &good[1..]].concat()).is_ok_and(|b| b.apart == Apart::Some));
        let bad: [(&[u8], &str); 9] = [
            (&[&[2; 1], &good[1..]].concat(), "an unknown head"),
            (b"\0\x01\0\x02b22\x01\0\x01a1\0\0\0\0", "names out of order"),
            (b"\0\x01\0\x01a1\x01\0\x01a2\0\0\0\0\0", "a name twice"),
            (b"\0\x01\0\x01a1\x01\0\x08b220000", "a value beyond the end"),
            (b"\0\x01\0\x01a1\0\0\0\0\0\0\0\0\0\x01", "no zeros"),
            (&good[..15], "not a multiple of 16"),
            (&[&good[..], &[0; 16]].concat(), "a unit too many"),
            (&[0; 16], "nothing said"),
            (&[], "no head"),
        ];
        for (clear, why) in bad {
            assert_eq!(open(clear), Err(BadXattr), "{why}");
        }
        let long = |len: usize| [&[0, 1][..], &u16::to_be_bytes(len as u16), b"a"].concat();
        let padded = |len: usize, all: usize| {
            let mut clear = [long(len), vec![9; len]].concat();
            clear.resize(all, 0);
            clear
        };
        assert!(open(&padded(3995, 4000)).is_ok());
        assert_eq!(open(&padded(3996, 4016)), Err(BadXattr), "beyond the limit");
    }
}
