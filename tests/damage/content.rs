//! Content files: bytes, records, headers, sizes.

use std::cell::RefCell;

use kmsfs::fs::OpenFor;

use crate::{Damaged, FILES, text};

const PAGE: usize = 4096;
const HEADER: usize = 24;
/// The first bytes of the records of a file, and what lies behind the last.
const RECORDS: [usize; 4] = [0, 4044, 8112, 9000];

/// Reads what a record holds.
fn read_record(damaged: &Damaged, name: &str, record: usize) -> Result<Vec<u8>, i32> {
    let (from, to) = (RECORDS[record], RECORDS[record + 1]);
    let volume = &damaged.volume;
    let read = volume.at(name, |ino| {
        volume.run(|fs| fs.open(ino, OpenFor::Reading))?;
        let buf = RefCell::new(vec![0; to - from]);
        let done = volume.run(|fs| fs.read(ino, from as u64, &mut buf.borrow_mut()));
        volume.run(|fs| fs.release(ino, OpenFor::Reading))?;
        done.map(|n| buf.into_inner()[..n].to_vec())
    });
    read.map_err(|e| e.0)
}

#[test]
fn every_byte_of_a_content_file() {
    let damaged = Damaged::new();
    for (name, _) in FILES {
        let (raw, id, whole) = (damaged.file(name), damaged.id(name), text(name));
        let pages = raw.bytes().len() / PAGE;
        raw.flip_each(|i| {
            let got = damaged.read(name, id);
            match i {
                // The file id: another file's key, or none.
                8..HEADER => assert!(
                    matches!(got, Err(libc::EBADMSG | libc::EKEYREJECTED)),
                    "{name}, byte {i}: {got:?}"
                ),
                // The marker is never read: its bytes only count.
                _ if i >= pages * PAGE => assert_eq!(got, Ok(whole.clone()), "{name}, byte {i}"),
                _ => assert_eq!(got, Err(libc::EBADMSG), "{name}, byte {i}"),
            }
            if pages > 1 && (HEADER..pages * PAGE).contains(&i) {
                // The other records are as they were.
                for record in (0..pages).filter(|record| *record != i / PAGE) {
                    let wanted = whole[RECORDS[record]..RECORDS[record + 1]].to_vec();
                    assert_eq!(read_record(&damaged, name, record), Ok(wanted), "byte {i}");
                }
            }
        });
        assert_eq!(damaged.read(name, id), Ok(whole), "{name} is whole again");
    }
}

#[test]
fn records_swapped_within_a_file() {
    let damaged = Damaged::new();
    let (raw, id) = (damaged.file("f"), damaged.id("f"));
    let bytes = raw.bytes();
    raw.put(PAGE, &bytes[2 * PAGE..3 * PAGE]);
    raw.put(2 * PAGE, &bytes[PAGE..2 * PAGE]);
    assert_eq!(damaged.read("f", id), Err(libc::EBADMSG));
    assert_eq!(read_record(&damaged, "f", 0), Ok(text("f")[..RECORDS[1]].to_vec()));
    for record in [1, 2] {
        assert_eq!(read_record(&damaged, "f", record), Err(libc::EBADMSG));
    }
}

#[test]
fn records_of_another_file() {
    for record in [1, 2] {
        let damaged = Damaged::new();
        let from = damaged.file("g").bytes();
        damaged.file("f").put(record * PAGE, &from[record * PAGE..(record + 1) * PAGE]);
        for other in 0..3 {
            let wanted = text("f")[RECORDS[other]..RECORDS[other + 1]].to_vec();
            let wanted = if other == record { Err(libc::EBADMSG) } else { Ok(wanted) };
            assert_eq!(read_record(&damaged, "f", other), wanted);
        }
    }
}

#[test]
fn a_header_of_another_file() {
    let damaged = Damaged::new();
    let from = damaged.file("g").bytes();
    damaged.file("f").put(0, &from[..HEADER]);
    for record in 0..3 {
        assert_eq!(read_record(&damaged, "f", record), Err(libc::EBADMSG));
    }
    // With its first record it is that file, cut short and then damaged.
    damaged.file("f").put(0, &from[..PAGE]);
    assert_eq!(read_record(&damaged, "f", 0), Ok(text("g")[..RECORDS[1]].to_vec()));
    for record in [1, 2] {
        assert_eq!(read_record(&damaged, "f", record), Err(libc::EBADMSG));
    }
}

/// A tag of zeros makes a record a hole: stated, and all that it can do.
#[test]
fn a_record_without_its_tag_is_a_hole() {
    for record in 0..3 {
        let damaged = Damaged::new();
        let raw = damaged.file("f");
        raw.put((record + 1) * PAGE - 16, &[0; 16]);
        let mut wanted = text("f");
        wanted[RECORDS[record]..RECORDS[record + 1]].fill(0);
        assert_eq!(damaged.read("f", damaged.id("f")), Ok(wanted));
    }
    // Without a header there are records that no key opens; it never gets a new one.
    let damaged = Damaged::new();
    let id = damaged.id("f");
    let raw = damaged.file("f");
    raw.put(0, &[0; HEADER]);
    assert_eq!(damaged.read("f", id), Err(libc::EBADMSG));
    raw.put(PAGE - 16, &[0; 16]);
    assert_eq!(damaged.read("f", id), Err(libc::EBADMSG));
    assert_eq!(damaged.volume.write("f", 0, b"new").map_err(|e| e.0), Err(libc::EBADMSG));
    assert!(raw.bytes()[..HEADER].iter().all(|b| *b == 0), "no key was given");
}

/// Cut or extended at any byte, a file is shorter, or ends in zeros.
#[test]
fn every_size_of_a_content_file() {
    let damaged = Damaged::new();
    let (raw, id, whole) = (damaged.file("f"), damaged.id("f"), text("f"));
    let bytes = raw.bytes();
    let check = |size: usize| {
        raw.set_size(size as u64);
        let got = damaged.read("f", id).unwrap_or_else(|e| panic!("{size} bytes: errno {e}"));
        let known = got.len().min(whole.len());
        assert!(got[..known] == whole[..known], "{size} bytes: another content");
        assert!(got[known..].iter().all(|b| *b == 0), "{size} bytes: not zeros");
        got.len()
    };
    let mut last = whole.len();
    for size in (0..bytes.len()).rev() {
        let len = check(size);
        assert!(len <= last, "the shorter, the shorter: {size} bytes");
        last = len;
    }
    raw.set(&bytes);
    last = whole.len();
    for size in bytes.len()..=bytes.len() + 2 * PAGE {
        let len = check(size);
        assert!(len >= last, "the longer, the longer: {size} bytes");
        last = len;
    }
    // Cut, and extended again: what was cut is gone, or its record is damaged for all to see.
    for size in (0..bytes.len()).step_by(37) {
        raw.set(&bytes);
        raw.set_size(size as u64);
        raw.set_size(bytes.len() as u64);
        let (tail, got) = (size / PAGE * PAGE, damaged.read("f", id));
        match got {
            Ok(got) => {
                let same = got.iter().zip(&whole).all(|(a, b)| a == b || *a == 0);
                assert!(same && got.len() == whole.len(), "cut at {size}");
            }
            Err(e) => assert!(e == libc::EBADMSG && tail < 3 * PAGE, "cut at {size}: {e}"),
        }
    }
}
