//! Every reader of the store's bytes against bytes of an enemy's choice: what encode makes, bent in
//! places, and pure noise. No reader panics; what it accepts has one spelling; and what is sealed
//! opens to what was sealed or not at all.
//!
//! `KMSFS_TEST_CASES` sets the number of cases for each (default 3,000).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use kmsfs::content::{ContentCipher, FirstPage, Opened, capacity, parse_header, plain_size};
use kmsfs::ids::{BranchId, DirId, FileId, LinkId, PageId, VolumeId};
use kmsfs::kms::{KeyArn, Wrapped};
use kmsfs::names::{self, DiskLink, DiskName, LinkText, VolumeKeys, XattrBlock};
use kmsfs::recovery::{Identities, Recipients, Sealed};
use kmsfs::secret::Key;
use kmsfs::store::{BranchFile, Line, Page, SecondWrap, VolumeFile, WrapKind};
use proptest::prelude::*;
use proptest::sample::Index;

const VOLUME: VolumeId = VolumeId([7; 16]);
const FILE: FileId = FileId([9; 16]);
const PAGE: usize = 4096;

fn cases() -> ProptestConfig {
    let cases = std::env::var("KMSFS_TEST_CASES").ok().and_then(|n| n.parse().ok());
    ProptestConfig { cases: cases.unwrap_or(3000), failure_persistence: None, ..Default::default() }
}

fn keys() -> VolumeKeys {
    VolumeKeys::derive(&Key::build(|k| k.fill(3)), VOLUME)
}

/// One thing done to bytes.
#[derive(Clone, Debug)]
enum Bend {
    Set(Index, u8),
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize),
    Cut(Index),
}

fn bend() -> impl Strategy<Value = Bend> {
    let at = any::<Index>();
    // Of what JSON and the alphabets are made of, more often than of the rest.
    let byte = prop_oneof![any::<u8>(), prop::sample::select(&b"{}[]\",:0-9azAZ+/=\\ \n\0"[..])];
    prop_oneof![
        (at.clone(), byte.clone()).prop_map(|(i, b)| Bend::Set(i, b)),
        (at.clone(), 0..8_u8).prop_map(|(i, bit)| Bend::Flip(i, bit)),
        (at.clone(), prop::collection::vec(byte, 1..20)).prop_map(|(i, b)| Bend::Insert(i, b)),
        (at.clone(), 1..30_usize).prop_map(|(i, n)| Bend::Remove(i, n)),
        (at.clone(), 1..60_usize).prop_map(|(i, n)| Bend::Repeat(i, n)),
        at.prop_map(Bend::Cut),
    ]
}

fn bent(bytes: &[u8], bends: &[Bend]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for bend in bends {
        let i = |at: &Index| at.index(out.len() + 1);
        match bend {
            Bend::Set(at, b) if !out.is_empty() => {
                let i = at.index(out.len());
                out[i] = *b;
            }
            Bend::Flip(at, bit) if !out.is_empty() => {
                let i = at.index(out.len());
                out[i] ^= 1 << bit;
            }
            Bend::Insert(at, more) => {
                let i = i(at);
                out.splice(i..i, more.iter().copied());
            }
            Bend::Remove(at, n) => {
                let i = i(at);
                out.drain(i..(i + n).min(out.len()));
            }
            Bend::Repeat(at, n) => {
                let i = i(at);
                let part = out[i..(i + n).min(out.len())].to_vec();
                out.splice(i..i, part);
            }
            Bend::Cut(at) => out.truncate(i(at)),
            Bend::Set(..) | Bend::Flip(..) => {}
        }
    }
    out
}

fn bends() -> impl Strategy<Value = Vec<Bend>> {
    prop::collection::vec(bend(), 0..6)
}

fn noise() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..300)
}

fn line(slot: u16, key: Vec<u8>, branch: bool) -> Line {
    let kind = if branch {
        WrapKind::Branch(BranchId([5; 16]))
    } else {
        WrapKind::Master(KeyArn("arn:aws:kms:local:000000000000:key/1".to_owned()))
    };
    // Beside the KMS alone.
    let second = (!branch && slot % 2 == 1)
        .then(|| SecondWrap { branch: BranchId([6; 16]), key: Wrapped(vec![2; 60]) });
    Line { slot, kind, key: Wrapped(key), second, check: [1; 32] }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn headers(bends in bends(), noise in noise()) {
        let header = kmsfs::content::Header { file: FILE }.encode();
        for bytes in [bent(&header, &bends), noise] {
            if let Ok(FirstPage::Keyed(read)) = parse_header(&bytes) {
                prop_assert_eq!(&read.encode()[..], &bytes[..]);
            }
        }
    }

    #[test]
    fn records(len in 0..4100_usize, record in prop::sample::select(vec![0_u64, 1, 2, u64::MAX >> 13]), bends in bends()) {
        let cipher = ContentCipher::new(&Key::build(|k| k.fill(4)), VOLUME, FILE);
        let room = usize::try_from(capacity(record)).expect("a page at most");
        let plain = vec![0x5a; len.min(room)];
        let mut page = vec![0; PAGE];
        cipher.seal(record, &plain, &mut page, [6; 12]);
        let mut read = bent(&page, &bends);
        read.resize(PAGE, 0);
        let mut out = vec![0xff; room];
        match cipher.open(record, &read, &mut out) {
            Ok(Opened::Data) => {
                prop_assert_eq!(&read, &page);
                prop_assert_eq!(&out[..plain.len()], &plain[..]);
            }
            // The tag alone says that there is a hole.
            Ok(_) => prop_assert!(read[PAGE - 16..].iter().chain(&out).all(|b| *b == 0)),
            Err(_) => prop_assert!(read != page),
        }
    }

    #[test]
    fn sizes(disk in any::<u64>()) {
        // Any size that a file can have on disk means one size of content, never a larger one.
        prop_assert!(plain_size(disk) <= disk);
    }

    #[test]
    fn sidecars(slots in prop::collection::vec((0..600_u16, prop::collection::vec(any::<u8>(), 0..64), any::<bool>()), 0..5), bends in bends(), noise in noise()) {
        let lines: Vec<Line> = slots.into_iter().map(|(s, k, b)| line(s, k, b)).collect();
        for bytes in [bent(&Page::of(&lines).encode(), &bends), noise] {
            let page = Page::parse(&bytes);
            for read in page.readable() {
                let text = read.encode();
                prop_assert_eq!(Line::parse(&text), Ok(read));
                prop_assert!(bytes.windows(text.len()).any(|w| w == text));
            }
            prop_assert_eq!(Page::parse(&page.encode()), page);
        }
    }

    #[test]
    fn branch_files(key in prop::collection::vec(any::<u8>(), 1..64), bends in bends(), noise in noise()) {
        let master = KeyArn("arn:aws:kms:local:000000000000:key/1".to_owned());
        let sealed = Sealed { age: key.clone(), mac: [key[0]; 32] };
        let recovery = (key[0] % 2 == 0).then_some(sealed);
        let text = BranchFile { recovery, ..BranchFile::by_kms(master, Wrapped(key)) }.encode();
        prop_assert!(BranchFile::parse(&text).is_ok());
        for bytes in [bent(&text, &bends), noise] {
            if let Ok(file) = BranchFile::parse(&bytes) {
                prop_assert_eq!(file.encode(), bytes);
            }
        }
    }

    #[test]
    fn volume_files(bends in bends(), noise in noise()) {
        for vectors in [include_str!("vectors/v2.json"), include_str!("vectors/v2-recovery.json")] {
            let vectors: serde_json::Value = serde_json::from_str(vectors).expect("JSON");
            let text = vectors["volume_json"].as_str().expect("a text").as_bytes();
            prop_assert!(VolumeFile::parse(text).is_ok());
            for bytes in [bent(text, &bends), noise.clone()] {
                if let Ok(file) = VolumeFile::parse(&bytes) {
                    prop_assert_eq!(file.encode(), bytes);
                }
            }
        }
    }

    /// The one that is opened before anything proves it.
    #[test]
    fn sealed_keys(bends in bends(), noise in noise()) {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("vectors/v2-recovery.json")).expect("JSON");
        let secret = vectors["identities"][0].as_str().expect("a text");
        let identities = Identities::parse(secret).expect("one");
        let all: Vec<String> = identities.recipients().collect();
        let key = Key::build(|out| out.fill(9));
        let sealed = Recipients::try_from(all).expect("one").seal(&key);
        for bytes in [bent(&sealed, &bends), noise] {
            if let Ok(opened) = identities.open(&bytes) {
                prop_assert_eq!((opened.expose(), bytes), (key.expose(), sealed.clone()));
            }
        }
    }

    #[test]
    fn file_names(name in prop::collection::vec(1..=255_u8, 1..255), bends in bends(), noise in noise()) {
        let (keys, dir) = (keys(), DirId([2; 16]));
        match names::encrypt(&keys, dir, &name) {
            DiskName::Short(entry) => {
                let read = bent(entry.as_bytes(), &bends);
                if let Ok(got) = names::decrypt(&keys, dir, &read) {
                    prop_assert_eq!(&read[..], entry.as_bytes());
                    prop_assert_eq!(got, name);
                }
            }
            DiskName::Long { entry, text, .. } => {
                let read = bent(text.as_bytes(), &bends);
                if let Ok(got) = names::decrypt_long(&keys, dir, entry.as_bytes(), &read) {
                    prop_assert_eq!(&read[..], text.as_bytes());
                    prop_assert_eq!(got, name);
                }
            }
        }
        prop_assert!(names::decrypt(&keys, dir, &noise).is_err());
    }

    #[test]
    fn symlinks(target in prop::collection::vec(1..=255_u8, 1..3000), bends in bends(), noise in noise()) {
        let keys = keys();
        match names::seal_link(&keys, &target) {
            DiskLink::Inline(text) => {
                let read = bent(text.as_bytes(), &bends);
                if let Ok(LinkText::Inline(sealed)) = names::parse_link(&read)
                    && let Ok(got) = names::open_inline(&keys, &sealed)
                {
                    prop_assert_eq!(&read[..], text.as_bytes());
                    prop_assert_eq!(got, target);
                }
            }
            DiskLink::Body { id, body, .. } => {
                let read = bent(&body, &bends);
                if let Ok(got) = names::open_body(&keys, id, &read) {
                    prop_assert_eq!(read, body);
                    prop_assert_eq!(got, target);
                }
            }
        }
        if let Ok(LinkText::Inline(sealed)) = names::parse_link(&noise) {
            prop_assert!(names::open_inline(&keys, &sealed).is_err());
        }
        prop_assert!(names::open_body(&keys, LinkId([1; 16]), &noise).is_err());
    }

    #[test]
    fn attributes(value in noise(), bends in bends(), noise in noise()) {
        let keys = keys();
        let disk = names::xattr_disk_name(&keys, b"user.colour");
        let sealed = names::seal_xattr(&keys, b"user.colour", &value);
        let read = bent(&sealed, &bends);
        if let Ok(got) = names::open_xattr(&keys, &disk, &read) {
            prop_assert_eq!(read, sealed);
            prop_assert_eq!(got, (b"user.colour".to_vec(), value));
        }
        prop_assert!(names::open_xattr(&keys, OsStr::from_bytes(&noise), &noise).is_err());
    }

    #[test]
    fn attribute_blocks(
        entries in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..20), noise()), 1..8),
        apart in any::<bool>(),
        bends in bends(),
        noise in noise(),
    ) {
        let keys = keys();
        let mut block = XattrBlock::default();
        for (name, value) in &entries {
            block = block.with(name, value).unwrap_or(block);
        }
        if apart || block.says_nothing() {
            block = block.with_apart();
        }
        let sealed = block.seal(&keys);
        prop_assert!(sealed.len() <= 4028);
        let read = bent(&sealed, &bends);
        match XattrBlock::open(&keys, &read) {
            Ok(got) => {
                prop_assert_eq!(read, sealed);
                prop_assert_eq!(got, block);
            }
            Err(_) => prop_assert_ne!(read, sealed),
        }
        prop_assert!(XattrBlock::open(&keys, &noise).is_err());
    }

    #[test]
    fn ids(text in "\\PC{0,40}") {
        if let Ok(id) = VolumeId::parse(&text) {
            prop_assert_eq!(id.to_string(), text.clone());
        }
        if let Ok(id) = PageId::parse(&text) {
            prop_assert_eq!(id.to_string(), text);
        }
    }
}
