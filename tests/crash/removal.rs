//! The sidecar lines of removed files go, whenever their headers were read.

use std::ffi::OsStr;

use kmsfs::disk::sim::Sim;
use kmsfs::fs::{Change, OpenFor, ROOT, Reach};
use kmsfs::store::Store;

use crate::simulated::{Volume, WHO};

/// More than may wait for their headers at once.
const MANY: usize = 300;

fn name(n: usize) -> String {
    format!("f{n}")
}

/// How many lines the sidecar has.
fn lines(sim: &Sim) -> usize {
    let store = Store::open(sim.root()).expect("a store");
    let pages = (0..=255).flat_map(|shard| store.pages(shard).expect("listed"));
    let count = |page| store.read_page(page).expect("readable").map_or(0, |p| p.readable().count());
    pages.map(count).sum()
}

/// `rm -rf` of a tree on a disk, after its caches were dropped, took a millisecond a file: each
/// unlink read the file's header first, to know whose sidecar line to remove. Now the header is
/// read when the kernel forgets the inode, by which time the disk has been asked for many.
#[test]
fn cold_files_give_their_lines_up_when_they_are_forgotten() {
    let volume = Volume::new();
    for n in 0..MANY {
        volume.create(&name(n)).expect("made");
        volume.write(&name(n), 0, b"something").expect("written");
    }
    let sim = volume.unmount();
    let before = lines(&sim);
    let volume = Volume::mount(sim).expect("a good volume");
    let lookup = |n: usize| {
        let attr = volume.run(|fs| fs.lookup(ROOT, OsStr::new(&name(n))));
        attr.expect("there").attr.0.ino
    };
    let inodes: Vec<u64> = (0..MANY).map(lookup).collect();
    // One is in use beyond its last name, and one keeps another name.
    let (used, linked) = (inodes[0], inodes[1]);
    volume.run(|fs| fs.open(used, OpenFor::Reading)).expect("opened");
    volume.run(|fs| fs.link(linked, ROOT, OsStr::new("other"), WHO)).expect("linked");
    for n in 0..MANY {
        volume.run(|fs| fs.unlink(ROOT, OsStr::new(&name(n)))).expect("removed");
    }
    for ino in &inodes[1..] {
        volume.fs().forget(*ino, 1);
    }
    volume.fs().keyring().end_grace().expect("swept");
    assert_eq!(lines(&volume.sim), before - (MANY - 2));
    let read = volume.run(|fs| fs.read(used, 0, &mut [0; 9]));
    assert_eq!(read, Ok(9));
    volume.run(|fs| fs.release(used, OpenFor::Reading)).expect("released");
    volume.fs().forget(used, 1);
    assert_eq!(volume.read("other").as_deref(), Ok(&b"something"[..]));
    volume.fs().keyring().end_grace().expect("swept");
    assert_eq!(lines(&volume.sim), before - (MANY - 1));
}

/// An empty file has no header, so its key was known in memory alone: of a file that was cut to
/// nothing, and of an empty one that was punched. When the kernel forgot the inode the line stayed
/// in the sidecar for good, and the next write made another.
#[test]
fn empty_files_give_their_lines_up_when_they_are_forgotten() {
    let volume = Volume::new();
    let cut = Change { size: Some(0), ..Change::default() };
    for name in ["cut", "punched", "rewritten"] {
        volume.create(name).expect("made");
    }
    for name in ["cut", "rewritten"] {
        volume.write(name, 0, b"something").expect("written");
    }
    volume.sim.root().sync_filesystem().expect("synced");
    volume.sim.moments();

    // One is written again before it is forgotten, with the key that it had.
    let rewritten = volume.run(|fs| fs.lookup(ROOT, OsStr::new("rewritten"))).expect("there");
    volume.run(|fs| fs.setattr(rewritten.attr.0.ino, &cut)).expect("cut");
    volume.write("rewritten", 0, b"again").expect("written");
    volume.fs().forget(rewritten.attr.0.ino, 1);
    volume.at("cut", |ino| volume.run(|fs| fs.setattr(ino, &cut))).expect("cut");
    let punch = |ino| volume.run(|fs| fs.zero(ino, &mut 0, 10, Reach::KeepSize));
    volume.opened("punched", punch).expect("punched");
    volume.fs().keyring().end_grace().expect("swept");

    let pooled = volume.fs().keyring().counts().pooled;
    assert_eq!(lines(&volume.sim), pooled + 1);
    assert_eq!(volume.read("rewritten").as_deref(), Ok(&b"again"[..]));
    assert_eq!(volume.read("cut"), Ok(Vec::new()));
    // No line goes before the disk has the file without its header.
    for moment in volume.sim.moments().iter().chain([&volume.sim]) {
        for state in moment.crash().states(100, 1) {
            let read = Volume::mount(state).expect("a good volume").read("cut");
            assert!(read.is_ok(), "after a power cut: {read:?}");
        }
    }
}
