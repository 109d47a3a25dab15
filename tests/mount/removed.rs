//! The keys of removed files: how long they stay, and for what.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::support::{EKEYREJECTED, PATIENCE, Store, errno, files, kmsfs, run, skipped, wait_for};

/// Sidecar lines and bodies of links in the store.
fn kept(store: &Store) -> (usize, usize) {
    let pages = files(&store.path().join("keys")).into_iter();
    let pages = pages.filter(|p| !p.to_string_lossy().contains("/keys/removed/"));
    let lines = pages.map(|p| fs::read_to_string(p).map_or(0, |text| text.lines().count())).sum();
    (lines, files(&store.path().join("links")).len())
}

fn copy(from: &Path, to: &Path, part: &str) {
    run(Command::new("cp").arg("-a").arg(from.join(part)).arg(to));
}

/// Makes a file, a long symlink and a file to be replaced.
fn furnish(at: &Path) {
    fs::write(at.join("removed"), "it was removed").expect("written");
    fs::write(at.join("replaced"), "it was replaced").expect("written");
    fs::write(at.join("cut"), "it was cut").expect("written");
    symlink("t".repeat(3500), at.join("link")).expect("made");
}

fn take_away(at: &Path) {
    fs::remove_file(at.join("removed")).expect("removed");
    fs::write(at.join("new"), "the new one").expect("written");
    fs::rename(at.join("new"), at.join("replaced")).expect("replaced");
    fs::write(at.join("cut"), "other content").expect("written");
    fs::remove_file(at.join("link")).expect("removed");
}

/// Whoever copied a store in use lost each file that was removed or replaced between the copy of
/// the tree and that of the keys.
#[test]
fn a_copy_of_files_and_then_of_keys_loses_no_file() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    furnish(&mount.root());
    let backup = store.outside("backup");
    fs::create_dir(&backup).expect("made");
    copy(&store.path(), &backup, "files");
    take_away(&mount.root());
    mount.unmount();
    let mount = store.mount(&[]);
    for part in ["keys", "links", "lock", "volume.json", "volume.json.bak"] {
        copy(&store.path(), &backup, part);
    }
    mount.unmount();
    run(Command::new("chmod").arg("700").arg(&backup));
    let at = store.outside("restored");
    fs::create_dir(&at).expect("made");
    run(kmsfs().arg("mount").arg(&backup).arg(&at));
    let read = |name: &str| fs::read_to_string(at.join(name));
    let found = [read("removed"), read("replaced"), read("cut")].map(Result::ok);
    let link = fs::read_link(at.join("link")).map(|target| target.as_os_str().len());
    run(kmsfs().arg("unmount").arg(&at));
    let wanted = ["it was removed", "it was replaced", "it was cut"];
    assert_eq!(found, wanted.map(|text| Some(text.to_owned())));
    assert_eq!(link.expect("its body is there"), 3500);
    // Nothing of it is told as left over while it is in its grace.
    let said = run(kmsfs().arg("fsck").arg(store.path()));
    assert!(said.ends_with("0 damage, 0 leftovers\n"), "{said}");
}

#[test]
fn a_grace_ends_in_mounted_time_and_at_once_where_there_is_none() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&["--removed-key-grace", "0s"]);
    furnish(&mount.root());
    take_away(&mount.root());
    mount.unmount();
    assert_eq!(kept(&store), (2, 0), "of replaced and cut");
    let mount = store.mount(&["--removed-key-grace", "1s"]);
    furnish(&mount.root());
    take_away(&mount.root());
    let journal = || files(&store.path().join("keys/removed"));
    wait_for("an entry in the journal", PATIENCE, || !journal().is_empty());
    wait_for("the end of the grace", PATIENCE, || {
        let is_over = journal().iter().all(|path| path.ends_with("clock"));
        is_over && kept(&store).1 == 0
    });
    mount.unmount();
    assert_eq!(kept(&store), (2, 0));
}

#[test]
fn shred_removes_the_keys_of_removed_files_too() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&["--names", "plain"]);
    let mount = store.mount(&[]);
    furnish(&mount.root());
    fs::write(mount.at("secret"), "an earlier state of it").expect("written");
    let earlier = store.outside("earlier");
    fs::copy(store.tree().join("secret"), &earlier).expect("copied");
    fs::write(mount.at("secret"), "a secret").expect("written");
    take_away(&mount.root());
    run(kmsfs().args(["shred", "--yes"]).arg(mount.at("secret")));
    assert_eq!(errno(fs::read(mount.at("secret"))), Some(EKEYREJECTED));
    mount.unmount();
    assert_eq!(kept(&store), (2, 0), "of replaced and cut");
    fs::copy(&earlier, store.tree().join("again")).expect("put back");
    let mount = store.mount(&[]);
    assert_eq!(errno(fs::read(mount.at("again"))), Some(EKEYREJECTED));
}
