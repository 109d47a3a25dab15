use std::collections::BTreeSet;
use std::ffi::OsStr;

use super::*;
use crate::disk::{Directory, File, Open, Range, Replace, names, read_all};
use crate::durable;

fn name(text: &str) -> &OsStr {
    OsStr::new(text)
}

fn synced_file(sim: &Sim, bytes: &[u8]) -> File {
    let root = sim.root();
    let file = root.open(name("f"), Open::Create(0o600)).expect("new");
    file.write_at(bytes, 0).expect("written");
    file.sync_all().expect("synced");
    root.sync().expect("synced");
    file
}

/// Every content of "f" that a power cut may leave; `None` where it is missing.
fn outcomes(sim: &Sim) -> BTreeSet<Option<Vec<u8>>> {
    let all = sim.crash();
    assert!(all.count() < 10_000);
    all.states(10_000, 0).map(|s| read_all(&*s.root(), name("f"), 1 << 20).ok()).collect()
}

fn listings(sim: &Sim) -> BTreeSet<Vec<String>> {
    let all = sim.crash();
    all.states(10_000, 0)
        .map(|s| {
            let mut found = names(&*s.root()).expect("listed");
            found.sort();
            found.into_iter().map(|n| n.to_string_lossy().into_owned()).collect()
        })
        .collect()
}

#[test]
fn what_is_synced_stays() {
    let sim = Sim::new();
    synced_file(&sim, b"abc");
    assert_eq!(outcomes(&sim), BTreeSet::from([Some(b"abc".to_vec())]));
}

#[test]
fn of_unsynced_writes_any_may_stay() {
    let sim = Sim::new();
    let file = synced_file(&sim, &[1; 8192]);
    file.write_at(&[2; 8192], 0).expect("written");
    let whole = |a, b| Some([vec![a; 4096], vec![b; 4096]].concat());
    let wanted = BTreeSet::from([whole(1, 1), whole(1, 2), whole(2, 1), whole(2, 2)]);
    assert_eq!(outcomes(&sim), wanted);
}

#[test]
fn an_append_may_leave_either_half() {
    let sim = Sim::new();
    let file = synced_file(&sim, b"ab");
    file.write_at(b"cd", 2).expect("written");
    let wanted = [&b"ab"[..], b"ab\0\0", b"abcd"].map(|b| Some(b.to_vec()));
    assert_eq!(outcomes(&sim), BTreeSet::from(wanted));
}

#[test]
fn what_follows_a_lost_cut_is_lost() {
    let sim = Sim::new();
    let file = synced_file(&sim, b"abcd");
    file.set_size(1).expect("cut");
    file.write_at(b"X", 1).expect("written");
    let wanted = [&b"abcd"[..], b"a", b"a\0", b"aX"].map(|b| Some(b.to_vec()));
    assert_eq!(outcomes(&sim), BTreeSet::from(wanted));
}

#[test]
fn a_punched_page_takes_no_space() {
    let sim = Sim::new();
    let file = synced_file(&sim, &[1; 8192]);
    file.range(Range::Punch, 0, 4096).expect("punched");
    assert_eq!((file.stat().expect("stat").blocks, file.stat().expect("stat").size), (8, 8192));
    assert_eq!(file.seek_data(0).expect("sought"), Some(4096));
    assert_eq!(outcomes(&sim).len(), 2);
}

#[test]
fn entries_are_kept_in_order() {
    let sim = Sim::new();
    let root = sim.root();
    root.symlink(name("a"), name("x")).expect("made");
    root.symlink(name("b"), name("x")).expect("made");
    root.unlink(name("a")).expect("removed");
    let wanted: [&[&str]; 4] = [&[], &["a"], &["a", "b"], &["b"]];
    let wanted = wanted.map(|l| l.iter().map(|s| (*s).to_owned()).collect());
    assert_eq!(listings(&sim), BTreeSet::from(wanted));
    root.sync().expect("synced");
    assert_eq!(listings(&sim).len(), 1);
}

#[test]
fn a_rename_between_directories_is_whole() {
    let sim = Sim::new();
    let root = sim.root();
    root.mkdir(name("d"), 0o700).expect("made");
    root.symlink(name("a"), name("x")).expect("made");
    root.sync_filesystem().expect("synced");
    let dir = root.open_dir(name("d")).expect("there");
    root.rename(name("a"), &*dir, name("b"), Replace::Over).expect("renamed");
    for state in sim.crash().states(100, 0) {
        let root = state.root();
        let dir = root.open_dir(name("d")).expect("there");
        assert_ne!(root.stat(name("a")).is_ok(), dir.stat(name("b")).is_ok());
    }
    dir.sync().expect("synced");
    assert_eq!(sim.crash().count(), 1);
}

#[test]
fn a_replaced_file_is_old_or_new_whatever_fails() {
    let sim = Sim::new();
    synced_file(&sim, b"old");
    for fault in 0..12 {
        let sim = sim.fork();
        if fault > 0 {
            sim.fail_at(fault, libc::EIO);
        }
        let done = durable::replace(&*sim.root(), name("f"), b"new", 0o600);
        for found in outcomes(&sim) {
            let found = found.expect("the file is there");
            assert!(found == b"new" || (found == b"old" && done.is_err()), "fault {fault}");
        }
    }
}

#[test]
fn a_full_disk_takes_what_fits() {
    let sim = Sim::new();
    let file = synced_file(&sim, &[1; 4096]);
    sim.limit_space(Some(1));
    let failed = file.write_at(&[2; 12288], 0).expect_err("two pages too many");
    assert_eq!(failed.raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(file.stat().expect("stat").size, 8192);
    file.set_size(4096).expect("cut");
    file.write_at(&[2; 4096], 4096).expect("the page was given back");
}

#[test]
fn renames_and_removals_follow_the_rules_of_the_kernel() {
    let sim = Sim::new();
    let root = sim.root();
    root.mkdir(name("d"), 0o700).expect("made");
    root.mkdir(name("e"), 0o700).expect("made");
    let dir = root.open_dir(name("d")).expect("there");
    dir.symlink(name("l"), name("x")).expect("made");
    let errno = |e: std::io::Result<()>| e.expect_err("refused").raw_os_error();
    let to = |from: &str, to: &dyn Directory, new: &str, how| {
        root.rename(name(from), to, name(new), how)
    };
    assert_eq!(errno(root.rmdir(name("d"))), Some(libc::ENOTEMPTY));
    assert_eq!(errno(to("e", &*root, "d", Replace::Over)), Some(libc::ENOTEMPTY));
    assert_eq!(errno(to("d", &*dir, "x", Replace::Over)), Some(libc::EINVAL));
    assert_eq!(errno(to("e", &*root, "d", Replace::Never)), Some(libc::EEXIST));
    assert_eq!(errno(to("e", &*dir, "l", Replace::Over)), Some(libc::ENOTDIR));
    to("e", &*root, "d", Replace::Exchange).expect("swapped");
    assert!(root.open_dir(name("e")).expect("there").stat(name("l")).is_ok());
    assert_eq!(errno(root.unlink(name("d"))), Some(libc::EISDIR));
    to("e", &*root, "d", Replace::Over).expect("over an empty one");
}

#[test]
fn a_number_is_reused_when_neither_a_name_nor_a_descriptor_has_it() {
    let sim = Sim::new();
    let root = sim.root();
    let make = |n: &str| {
        let file = root.open(name(n), Open::Create(0o600)).expect("new");
        file.stat().expect("there").ino
    };
    let first = make("first");
    root.unlink(name("first")).expect("removed");
    assert_ne!(make("unique"), first);

    sim.reuse_numbers();
    let held = make("held");
    root.link(name("held"), &*root, name("link")).expect("linked");
    let pin = root.open(name("held"), Open::Pin).expect("there");
    root.unlink(name("held")).expect("removed");
    assert_ne!(make("other"), held);
    root.unlink(name("link")).expect("removed");
    assert_eq!(sim.orphans(), 1);
    assert_ne!(make("another"), held);
    assert_eq!(pin.sync_all().map_err(|e| e.raw_os_error()), Err(Some(libc::EBADF)));
    drop(pin);
    assert_eq!(sim.orphans(), 0);
    assert_eq!(make("next"), held);

    // What another takes the name of is gone too, and so is a folder.
    root.rename(name("other"), &*root, name("next"), Replace::Over).expect("renamed");
    root.mkdir(name("folder"), 0o700).expect("made");
    assert_eq!(root.stat(name("folder")).expect("there").ino, held);
    root.rmdir(name("folder")).expect("removed");
    assert_eq!(make("last"), held);
}
