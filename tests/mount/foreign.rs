//! What others leave in a store: file managers, NAS systems, sync clients.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::support::{Mount, Store, errno, kmsfs, run, skipped};

/// The daemon's log.
fn log(mount: &Mount<'_>) -> String {
    let volume = mount.report()["volume"].as_str().expect("an id").to_owned();
    fs::read_to_string(format!("/run/kmsfs/{volume}.log")).expect("a log")
}

/// The folder on disk of the one folder in the mount's root.
fn on_disk(store: &Store) -> PathBuf {
    let entries = fs::read_dir(store.tree()).expect("there").map(|e| e.expect("an entry").path());
    entries.into_iter().find(|path| path.is_dir()).expect("a folder")
}

fn litter(folder: &Path) {
    fs::write(folder.join(".DS_Store"), b"\0\0\0\x01Bud1").expect("written");
    fs::write(folder.join("Thumbs.db"), b"").expect("written");
    fs::create_dir_all(folder.join("@eaDir/x@SynoEAStream")).expect("made");
    fs::write(folder.join("@eaDir/index"), b"of a NAS").expect("written");
    symlink("elsewhere", folder.join("desktop.lnk")).expect("made");
}

#[test]
fn what_is_in_the_way_is_said_and_moved_aside() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    fs::create_dir(mount.at("folder")).expect("made");
    fs::write(mount.at("folder/file"), "content").expect("written");
    let folder = on_disk(&store);
    litter(&folder);
    // A mount does not see them, and said so at each listing: 3,000 lines.
    for _ in 0..3000 {
        let names: Vec<_> = fs::read_dir(mount.at("folder")).expect("listed").collect();
        assert_eq!(names.len(), 1);
    }
    fs::remove_file(mount.at("folder/file")).expect("removed");
    for _ in 0..50 {
        assert_eq!(errno(fs::remove_dir(mount.at("folder"))), Some(libc::ENOTEMPTY));
    }
    let said = log(&mount);
    assert!((2..=8).contains(&said.lines().count()), "{said}");
    let name = folder.file_name().expect("a name").to_str().expect("UTF-8");
    let cannot = said.lines().find(|line| line.contains("cannot be removed, for")).expect("said");
    assert!(cannot.contains(name) && cannot.contains("fsck STORE --repair"), "{cannot}");
    let strangers = [".DS_Store", "Thumbs.db", "@eaDir", "desktop.lnk"];
    assert!(strangers.iter().any(|stranger| cannot.contains(stranger)), "{cannot}");
    let status = run(kmsfs().arg("status").arg(mount.root()));
    assert!(status.contains("in the way of removals: files/"), "{status}");
    // With something of its own in it, a folder is just not empty.
    fs::write(mount.at("folder/own"), "content").expect("written");
    let before = log(&mount);
    assert_eq!(errno(fs::remove_dir(mount.at("folder"))), Some(libc::ENOTEMPTY));
    assert_eq!(log(&mount), before);
    mount.unmount();

    for stray in ["keys/.DS_Store", "keys/00/x (conflicted copy)", "links/ff/Thumbs.db", "@eaDir"] {
        fs::write(store.path().join(stray), "stray").expect("written");
    }
    let fsck = |args: &[&str]| {
        let keystore = store.keystore();
        run(kmsfs().arg("fsck").arg(store.path()).arg("--keystore").arg(keystore).args(args))
    };
    let found = fsck(&[]);
    for stranger in strangers {
        let line = format!("leftover  files/{name}/{stranger}: it is not of this volume");
        assert!(found.contains(&line), "{found}");
    }
    assert!(found.ends_with("0 damage, 8 leftovers\n"), "{found}");
    let repaired = fsck(&["--repair", "--yes"]);
    assert!(repaired.ends_with("8 leftovers, 8 repaired\n"), "{repaired}");
    assert!(fsck(&[]).ends_with("0 damage, 0 leftovers\n"));
    let aside = store.path().join("aside");
    let index = aside.join("files").join(name).join("@eaDir/index");
    assert_eq!(fs::read(index).expect("moved with its folder"), b"of a NAS");
    assert_eq!(fs::read(aside.join("keys/00/x (conflicted copy)")).expect("moved"), b"stray");
    let mount = store.mount(&[]);
    assert_eq!(fs::read_to_string(mount.at("folder/own")).expect("readable"), "content");
    fs::remove_file(mount.at("folder/own")).expect("removed");
    fs::remove_dir(mount.at("folder")).expect("nothing is in the way");
    assert_eq!(log(&mount).lines().count(), before.lines().count(), "nothing new to tell");
}
