//! Times of access: a mount keeps them as its own options say, whatever those of the store's
//! filesystem are, and touches no other time.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::support::{Mount, Store, Tmpfs, run, skipped, wait_for};

/// The times of access, of the last change, and of the last change of attributes.
type Times = [(i64, i64); 3];

fn times(path: &Path) -> Times {
    let m = fs::symlink_metadata(path).expect("there");
    [(m.atime(), m.atime_nsec()), (m.mtime(), m.mtime_nsec()), (m.ctime(), m.ctime_nsec())]
}

/// Filesystems give times by a clock that stands still for some milliseconds.
fn next_tick() {
    let now = || {
        let t = clock_gettime(ClockId::RealtimeCoarse);
        (t.tv_sec, t.tv_nsec)
    };
    let before = now();
    wait_for("the clock's next tick", Duration::from_secs(5), || now() != before);
}

/// What a read of a file, and a listing of a folder, may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Each,
    First,
    None,
}

fn is_changed(path: &Path, act: impl Fn(&Path)) -> bool {
    let before = times(path);
    next_tick();
    act(path);
    let after = times(path);
    assert_eq!(before[1..], after[1..], "{path:?}: no other time changes");
    before[0] != after[0]
}

fn seen(path: &Path, act: impl Fn(&Path)) -> Seen {
    match [is_changed(path, &act), is_changed(path, &act)] {
        [true, true] => Seen::Each,
        [true, false] => Seen::First,
        [false, false] => Seen::None,
        [false, true] => panic!("{path:?}: the second read alone was seen"),
    }
}

fn made(mount: &Mount<'_>) -> [PathBuf; 2] {
    let [file, folder] = ["file", "folder"].map(|name| mount.at(name));
    fs::write(&file, "not a whole page").expect("written");
    fs::create_dir(&folder).expect("made");
    next_tick();
    fs::write(folder.join("entry"), "").expect("written");
    [file, folder]
}

fn as_options_say(store: &Store) {
    use Seen::{Each, First, None};
    for (words, wanted) in [
        ("rw", [First, First]),
        ("relatime", [First, First]),
        ("relatime,nodiratime", [First, None]),
        ("strictatime", [Each, Each]),
        ("strictatime,nodiratime", [Each, None]),
        ("noatime", [None, None]),
        ("noatime,relatime", [First, First]),
    ] {
        let mount = store.mount(&["-o", words]);
        let [file, folder] = made(&mount);
        let read = |path: &Path| drop(fs::read(path).expect("readable"));
        let list = |path: &Path| assert_eq!(fs::read_dir(path).expect("listed").count(), 1);
        assert_eq!([seen(&file, read), seen(&folder, list)], wanted, "{words}");
        fs::remove_file(&file).expect("removed");
        fs::remove_dir_all(&folder).expect("removed");
        mount.unmount();
    }
    let mount = store.mount(&[]);
    made(&mount);
    mount.unmount();
    for how in [&["--read-only"][..], &["-o", "ro,strictatime"]] {
        let mount = store.mount(how);
        let read = |path: &Path| drop(fs::read(path).expect("readable"));
        assert_eq!(seen(&mount.at("file"), read), None, "{how:?}");
        mount.unmount();
    }
    let mount = store.mount(&["-o", "noatime"]);
    assert!(!is_changed(&mount.at("file"), |path| drop(fs::read(path).expect("readable"))));
}

/// As the kernel's own filesystems do it: reading changed them on a mount with noatime, and did
/// not with strictatime.
#[test]
fn reading_changes_a_time_of_access_as_the_mount_says() {
    if !skipped("fuse") {
        as_options_say(&Store::new(&[]));
    }
}

#[test]
fn the_options_of_the_filesystem_beneath_do_not_matter() {
    if skipped("fuse") {
        return;
    }
    for options in ["noatime,size=64m", "strictatime,size=64m"] {
        let disk = Tmpfs::new(options);
        as_options_say(&Store::unmade().at(disk.path().join("store")).made(&[]));
    }
}

/// The store is opened through a mount of the daemon's own: the one that it lies on is in use all
/// the same.
#[test]
fn the_filesystem_beneath_is_busy_while_a_store_on_it_is_mounted() {
    if skipped("fuse") {
        return;
    }
    let disk = Tmpfs::new("size=64m");
    let store = Store::unmade().at(disk.path().join("store")).made(&[]);
    let mount = store.mount(&[]);
    let umount = || Command::new("umount").arg(disk.path()).output().expect("started");
    let refused = umount();
    assert!(!refused.status.success(), "a store that is in use is not taken away");
    fs::write(mount.at("f"), "x").expect("written");
    mount.unmount();
    run(Command::new("umount").arg(disk.path()));
}
