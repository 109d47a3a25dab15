//! Mounts that may change nothing: `--read-only`, and a store on a read-only filesystem.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Mount, PATIENCE, Store, Tmpfs, errno, kmsfs, run, skipped, wait_for};

/// All of a folder: each entry's attributes but its time of access, and its bytes.
fn all_of(folder: &Path) -> BTreeMap<PathBuf, (Vec<i64>, Vec<u8>)> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let stat = fs::symlink_metadata(&path).expect("there");
        let bytes = match stat.file_type() {
            kind if kind.is_file() => fs::read(&path).expect("readable"),
            kind if kind.is_symlink() => {
                fs::read_link(&path).expect("a link").into_os_string().into_encoded_bytes()
            }
            _ => Vec::new(),
        };
        let times = [stat.mtime(), stat.mtime_nsec(), stat.ctime(), stat.ctime_nsec()];
        let mut numbers = vec![stat.ino() as i64, i64::from(stat.mode()), stat.size() as i64];
        numbers.extend(times);
        if stat.is_dir() {
            all.extend(all_of(&path));
        }
        all.insert(path, (numbers, bytes));
    }
    all
}

/// What the daemon has asked of the KMS: operations and how often.
fn asked(mount: &Mount<'_>) -> BTreeMap<String, u64> {
    let report = mount.report();
    let calls = report["kms_calls"].as_array().expect("a list").iter();
    let one = |c: &serde_json::Value| {
        (c["operation"].as_str().expect("a name").to_owned(), c["ok"].as_u64().expect("a number"))
    };
    calls.map(one).filter(|(_, n)| *n > 0).collect()
}

/// The flags that the kernel lists.
fn flags(at: &Path) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("listed");
    let at = at.to_str().expect("UTF-8");
    let line = mounts.lines().find(|line| line.split(' ').nth(1) == Some(at)).expect("mounted");
    line.split(' ').nth(3).expect("flags").split(',').map(str::to_owned).collect()
}

fn furnished(store: &Store) {
    let mount = store.mount(&[]);
    for n in 0..40 {
        fs::write(mount.at(&format!("file{n}")), format!("content {n}")).expect("written");
    }
    fs::create_dir_all(mount.at("folder/within")).expect("made");
    fs::write(mount.at(&"long".repeat(60)), "a long name").expect("written");
    symlink("t".repeat(3500), mount.at("link")).expect("made");
    for n in 0..10 {
        fs::remove_file(mount.at(&format!("file{n}"))).expect("removed");
    }
    mount.unmount();
    // As a power cut leaves a folder that was made a moment ago.
    let tree = all_of(&store.tree());
    let ids = tree.keys().filter(|path| path.ends_with(".kmsfs.dir"));
    let deepest = ids.max_by_key(|path| path.components().count()).expect("folder/within");
    fs::remove_file(deepest).expect("removed");
}

fn reads_all(mount: &Mount<'_>) {
    for n in 10..40 {
        let text = fs::read_to_string(mount.at(&format!("file{n}"))).expect("readable");
        assert_eq!(text, format!("content {n}"));
    }
    let names = |folder: &str| fs::read_dir(mount.at(folder)).expect("listed").count();
    assert_eq!((names("."), names("folder"), names("folder/within")), (33, 1, 0));
    assert_eq!(errno(fs::metadata(mount.at("folder/within/none"))), Some(libc::ENOENT));
    assert_eq!(fs::read_link(mount.at("link")).expect("a link").as_os_str().len(), 3500);
    assert_eq!(errno(fs::write(mount.at("new"), "")), Some(libc::EROFS));
    assert_eq!(errno(fs::create_dir(mount.at("folder/within/new"))), Some(libc::EROFS));
    let read = fs::File::open(mount.at("file10")).expect("opened");
    assert_eq!(errno(read.set_len(0)), Some(libc::EINVAL), "it is open for reading");
    assert_eq!(errno(fs::remove_file(mount.at("file10"))), Some(libc::EROFS));
    read.sync_all().expect("nothing to do");
}

/// It made sixteen data keys, wrote their page, gave folders ids, counted its time, and the kernel
/// was not told that it was read-only.
#[test]
fn a_read_only_mount_writes_nothing_and_asks_the_kms_to_decrypt_alone() {
    if skipped("fuse") {
        return;
    }
    for args in [&[][..], &["--data-keys", "branch"]] {
        let store = Store::new(args);
        furnished(&store);
        let before = all_of(&store.path());
        for option in [&["--read-only"][..], &["-o", "ro"], &["--read-only", "-o", "rw"]] {
            let mount = store.mount(&[option, &["--heartbeat", "1s"][..]].concat());
            assert!(flags(&mount.root()).contains(&"ro".to_owned()));
            reads_all(&mount);
            wait_for("heartbeats", PATIENCE, || mount.report()["beats"].as_u64() >= Some(3));
            reads_all(&mount);
            assert_eq!(asked(&mount).into_keys().collect::<Vec<_>>(), ["Decrypt"]);
            let report = mount.report();
            assert_eq!(
                (report["keys_pooled"].as_u64(), report["read_only"].as_bool()),
                (Some(0), Some(true))
            );
            mount.unmount();
            assert!(all_of(&store.path()) == before, "{option:?} changed the store");
        }
    }
}

/// Which master key an alias leads to, only a new data key says. So there it is asked for one; it
/// is thrown away.
#[test]
fn a_read_only_mount_that_accepts_the_present_key_alone_writes_nothing_either() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&["--only-current-key"]);
    furnished(&store);
    let before = all_of(&store.path());
    let mount = store.mount(&["--read-only", "--heartbeat", "1s"]);
    reads_all(&mount);
    wait_for("heartbeats", PATIENCE, || mount.report()["beats"].as_u64() >= Some(2));
    assert!(asked(&mount).contains_key("GenerateDataKey"));
    mount.unmount();
    assert!(all_of(&store.path()) == before, "the store was changed");
}

/// The kill switch of such a mount is Decrypt alone.
#[test]
fn a_read_only_mount_locks_and_opens_again() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    furnished(&store);
    let before = all_of(&store.path());
    let mount = store.mount(&["--read-only", "--heartbeat", "1s"]);
    reads_all(&mount);
    store.key(&["disable", "alias/kmsfs"]);
    mount.wait_state("revoked", PATIENCE);
    assert!(fs::read(mount.at("file10")).is_err());
    store.key(&["enable", "alias/kmsfs"]);
    mount.wait_state("open", PATIENCE);
    reads_all(&mount);
    mount.unmount();
    assert!(all_of(&store.path()) == before, "the store was changed");
}

/// A data key was made every two seconds, for a page that could not be written, and told in the
/// log each time.
#[test]
fn a_store_on_a_read_only_filesystem_is_mounted_read_only() {
    if skipped("fuse") {
        return;
    }
    let disk = Tmpfs::new("size=64m");
    let store = Store::new(&[]).at(disk.path().join("store"));
    run(kmsfs().arg("init").arg(store.path()).arg("--keystore").arg(store.keystore()));
    furnished(&store);
    run(Command::new("mount").args(["-o", "remount,ro"]).arg(disk.path()));
    let mut command = store.kmsfs();
    command.arg("mount").arg(store.path()).arg(store.mountpoint()).args(["--heartbeat", "1s"]);
    let told = command.output().expect("started");
    let said = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.status.success() && said.contains("read-only filesystem"), "{said}");
    let mount = store.mounted();
    assert!(flags(&mount.root()).contains(&"ro".to_owned()));
    reads_all(&mount);
    wait_for("heartbeats", PATIENCE, || mount.report()["beats"].as_u64() >= Some(3));
    assert_eq!(asked(&mount).into_keys().collect::<Vec<_>>(), ["Decrypt"]);
    let volume = mount.report()["volume"].as_str().expect("an id").to_owned();
    mount.unmount();
    let log = fs::read_to_string(format!("/run/kmsfs/{volume}.log")).expect("a log");
    assert_eq!(log, "", "nothing to be told of");
}
