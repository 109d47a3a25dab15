//! What is to be on disk when a program is told so: writes with O_SYNC and O_DSYNC, and syncfs(2).

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::Duration;

use crate::slow_store::ROLES;
use crate::support::mapping::Map;
use crate::support::slow::SlowDisk;
use crate::support::{Store, files, skipped, wait_for};

const WRITES: u64 = 10;

/// With `--direct-io` the kernel leaves the sync to the daemon, which made none.
#[test]
fn a_write_to_a_file_that_is_open_for_that_is_synced() {
    if skipped("fuse") {
        return;
    }
    let disk = SlowDisk::new(ROLES);
    let store = Store::unmade().at(disk.path().join("store")).made(&[]);
    for transport in ["auto", "off"] {
        for how in [&[][..], &["--direct-io"], &["--writeback"]] {
            let mount = store.mount(&[&["--io-uring", transport], how].concat());
            for (flags, each) in [(libc::O_SYNC, 1), (libc::O_DSYNC, 1), (0, 0)] {
                let mut open = File::options();
                open.write(true).create(true).truncate(true).custom_flags(flags);
                let file = open.open(mount.at("file")).expect("opened");
                // The first brings the file's key along.
                file.write_all_at(b"first", 0).expect("written");
                let before = disk.syncs();
                for n in 0..WRITES {
                    file.write_all_at(b"more", n * 5000).expect("written");
                }
                let syncs = disk.syncs() - before;
                assert!(syncs >= each * WRITES, "{how:?}, {flags:o}: {syncs} syncs");
                if each == 0 && how != ["--writeback"] {
                    assert!(syncs < WRITES, "{how:?}: {syncs} syncs that nobody asked for");
                }
            }
        }
    }
}

/// The file of the store that has this inode number.
fn beneath(store: &Store, ino: u64) -> PathBuf {
    let is_it = |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|m| m.ino() == ino);
    files(&store.tree()).into_iter().find(is_it).expect("it has a name")
}

/// syncfs(2) of a mount has the kernel save what it alone has: pages of maps, and with
/// `--writeback` of writes. It does not wait for them, nor sync the store (docs/SEMANTICS.md): FUSE
/// asks no daemon for that.
#[test]
fn syncfs_brings_all_that_was_written_into_the_store() {
    if skipped("fuse") {
        return;
    }
    for how in [&[][..], &["--writeback"]] {
        let store = Store::new(&[]);
        let mount = store.mount(how);
        let mut open = File::options();
        open.read(true).write(true).create(true).truncate(true);
        let [written, mapped] = ["written", "mapped"].map(|name| {
            let file = open.open(mount.at(name)).expect("made");
            file.set_len(1 << 20).expect("grown");
            file
        });
        let map = Map::shared(&mapped, 1 << 20);
        (0..1 << 20).step_by(4096).for_each(|at| map.set(at, 7));
        written.write_all_at(&vec![7; 1 << 20], 0).expect("written");
        rustix::fs::syncfs(&written).expect("synced");
        for file in [&written, &mapped] {
            let beneath = beneath(&store, file.metadata().expect("there").ino());
            // By itself the kernel saves what is older than half a minute.
            wait_for("all of it in the store", Duration::from_secs(15), || {
                fs::metadata(&beneath).expect("there").blocks() * 512 >= 1 << 20
            });
        }
    }
}
