//! Sidecar pages: bytes, lines, whole pages.

use kmsfs::ids::FileId;
use kmsfs::kms::KeyArn;
use kmsfs::store::{Line, Page, WrapKind};

use crate::{Damaged, FILES, Raw, text};

fn page_of(damaged: &Damaged, id: FileId) -> Raw {
    let page = id.page().to_string();
    Raw::in_store(&damaged.volume.sim.root(), &["keys", &page[..2], &page])
}

fn ids(damaged: &Damaged) -> Vec<(&'static str, FileId)> {
    FILES.iter().map(|(name, _)| (*name, damaged.id(name))).collect()
}

#[test]
fn every_byte_of_a_sidecar_page() {
    let damaged = Damaged::new();
    let ids = ids(&damaged);
    assert!(ids.iter().all(|(_, id)| id.page() == ids[0].1.page()), "all on one page");
    let raw = page_of(&damaged, ids[0].1);
    let bytes = raw.bytes();
    let starts = || bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1);
    let line_of = |i: usize| starts().filter(|start| *start <= i).count();
    raw.flip_each(|i| {
        for (name, id) in &ids {
            // A newline is a byte of both lines that it parts.
            let own = [line_of(i), line_of(i + 1)].contains(&usize::from(id.slot()));
            match damaged.read(name, *id) {
                Ok(got) => assert!(!own && got == text(name), "byte {i}, {name}"),
                Err(libc::EKEYREJECTED) => assert!(own, "byte {i} costs {name}"),
                // It reads as another master key, which there is not.
                Err(libc::EKEYREVOKED) => {
                    let line = bytes[..i].rsplit(|b| *b == b'\n').next().expect("a part");
                    assert!(own && line.ends_with_arn(), "byte {i}, {name}");
                }
                Err(e) => panic!("byte {i}, {name}: errno {e}"),
            }
        }
    });
    for (name, id) in ids {
        assert_eq!(damaged.read(name, id), Ok(text(name)), "{name} is whole again");
    }
}

trait EndsWithArn {
    fn ends_with_arn(&self) -> bool;
}

impl EndsWithArn for [u8] {
    /// Whether what follows in this line is still its master key's name.
    fn ends_with_arn(&self) -> bool {
        let text = String::from_utf8_lossy(self);
        text.rsplit_once("\"master\":\"").is_some_and(|(_, arn)| !arn.contains('"'))
    }
}

/// The page's lines, changed and put back.
fn change_lines(raw: &Raw, change: impl FnOnce(&mut Vec<Line>)) {
    let mut lines: Vec<Line> = Page::parse(&raw.bytes()).readable().collect();
    change(&mut lines);
    raw.set(&Page::of(&lines).encode());
}

fn slot(lines: &mut [Line], id: FileId) -> &mut Line {
    lines.iter_mut().find(|l| l.slot == id.slot()).expect("it has a line")
}

#[test]
fn lines_exchanged() {
    let damaged = Damaged::new();
    let (f, g) = (damaged.id("f"), damaged.id("g"));
    let raw = page_of(&damaged, f);
    let before = raw.bytes();
    let rejected = || {
        for (name, id) in [("f", f), ("g", g)] {
            assert_eq!(damaged.read(name, id), Err(libc::EKEYREJECTED), "{name}");
        }
        assert_eq!(damaged.read("one", damaged.id("one")), Ok(text("one")));
    };
    change_lines(&raw, |lines| {
        slot(lines, f).slot = 999 % 64;
        slot(lines, g).slot = f.slot();
        slot(lines, FileId::new(f.page(), 999 % 64)).slot = g.slot();
    });
    rejected();
    raw.set(&before);
    change_lines(&raw, |lines| {
        // Keys alone, the checks staying; then the checks alone.
        let (key_f, key_g) = (slot(lines, f).key.clone(), slot(lines, g).key.clone());
        (slot(lines, f).key, slot(lines, g).key) = (key_g, key_f);
    });
    rejected();
    raw.set(&before);
    change_lines(&raw, |lines| {
        let (of_f, of_g) = (slot(lines, f).check, slot(lines, g).check);
        (slot(lines, f).check, slot(lines, g).check) = (of_g, of_f);
    });
    rejected();
    raw.set(&before);
    // Where several claim one slot, the one whose check verifies counts.
    change_lines(&raw, |lines| {
        let mut other = slot(lines, g).clone();
        other.slot = f.slot();
        lines.insert(0, other);
    });
    assert_eq!(damaged.read("f", f), Ok(text("f")));
    assert_eq!(damaged.read("g", g), Ok(text("g")));
}

#[test]
fn pages_exchanged_or_gone() {
    // A second mount takes its keys from a page of its own.
    let damaged = Damaged::new();
    damaged.volume.create("later").expect("made");
    damaged.volume.write("later", 0, b"of another page").expect("written");
    let damaged = Damaged::over(damaged.volume.unmount());
    let (f, later) = (damaged.id("f"), damaged.id("later"));
    assert_ne!(f.page(), later.page());
    let (one, two) = (page_of(&damaged, f), page_of(&damaged, later));
    let (bytes_one, bytes_two) = (one.bytes(), two.bytes());
    one.set(&bytes_two);
    two.set(&bytes_one);
    for (name, id) in [("f", f), ("later", later)] {
        assert_eq!(damaged.read(name, id), Err(libc::EKEYREJECTED), "{name}");
    }
    one.set(&bytes_one);
    assert_eq!(damaged.read("f", f), Ok(text("f")));
    one.dir.unlink(&one.name).expect("removed");
    assert_eq!(damaged.read("f", f), Err(libc::EKEYREJECTED));
    let refused = damaged.volume.write("f", 0, b"new").map_err(|e| e.0);
    assert_eq!(refused, Err(libc::EKEYREJECTED), "it never gets a new key");
}

/// Whoever can write the store can name any key in a line: a key of another account must not be
/// asked for, and must cost the volume no more than that file.
#[test]
fn a_line_that_names_a_foreign_key_costs_its_file_alone() {
    let damaged = Damaged::new();
    let f = damaged.id("f");
    let raw = page_of(&damaged, f);
    let before = raw.bytes();
    for foreign in ["arn:aws:kms:eu-west-1:666666666666:key/theirs", "alias/theirs", ""] {
        change_lines(&raw, |lines| {
            slot(lines, f).kind = WrapKind::Master(KeyArn(foreign.to_owned()));
        });
        assert_ne!(raw.bytes(), before, "{foreign:?} is in the line");
        assert_eq!(damaged.read("f", f), Err(libc::EKEYREJECTED), "{foreign:?}");
        for name in ["one", "g"] {
            assert_eq!(damaged.read(name, damaged.id(name)), Ok(text(name)), "{name}");
        }
        raw.set(&before);
        assert_eq!(damaged.read("f", f), Ok(text("f")), "whole again after {foreign:?}");
    }
}
