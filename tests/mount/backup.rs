//! `kmsfs backup`: a copy of a store, of one that is in use above all.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use kmsfs::upkeep::{self, BackupError, Copied, Destination, Watcher};
use serde_json::Value;

use crate::support::churn::{self, Churn, MidWrite};
use crate::support::device::OpenDevice;
use crate::support::{
    MountedAt, Ordinary, PATIENCE, Store, fails, files, full_size, kmsfs, run, skipped, wait_for,
};

fn backup(store: &Path, dest: &Path) -> Command {
    let mut command = kmsfs();
    command.arg("backup").arg(store).arg(dest);
    command
}

fn done(store: &Path, dest: &Path) -> Value {
    let text = run(backup(store, dest).args(["--output", "json"]));
    serde_json::from_str(&text).expect("JSON")
}

/// Mounts a copy, looks at it, and unmounts it; its check first.
fn looked_at(store: &Store, copy: &Path, look: impl FnOnce(&Path)) {
    let said = run(kmsfs().arg("fsck").arg(copy));
    assert!(said.contains("0 damage"), "{said}");
    let at = store.outside("looked-at");
    fs::create_dir_all(&at).expect("made");
    let _mounted = MountedAt::new(&at);
    run(kmsfs().arg("mount").arg(copy).arg(&at).arg("--read-only"));
    let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| look(&at)));
    run(kmsfs().arg("unmount").arg(&at));
    if let Err(panic) = looked {
        std::panic::resume_unwind(panic);
    }
}

/// With `rsync` or `cp -a` of a store in use, 32 of 400 files that were written meanwhile could be
/// read in the copy.
#[test]
fn a_copy_of_a_store_in_use_loses_no_file() {
    if skipped("fuse") {
        return;
    }
    for args in [&[][..], &["--data-keys", "branch"]] {
        let store = Store::new(args);
        let mount = store.mount(&["--threads", "4"]);
        let churn = Churn::start(&mount.root());
        let copy = store.outside("copy");
        let mut found = 0;
        for _ in 0..if full_size() { 40 } else { 6 } {
            let rounds = churn.rounds();
            wait_for("a load", PATIENCE, || churn.rounds() > rounds + 3);
            let said = done(&store.path(), &copy);
            assert_eq!((&said["failed"], &said["keyless"]), (&Value::from(0), &Value::from(0)));
            looked_at(&store, &copy, |at| found += churn::check(at, MidWrite::Whole));
        }
        assert!(found > 100, "{found}");
        churn.stop();
        // Of what has come to rest the copy has all, and next nothing is written.
        done(&store.path(), &copy);
        let again = done(&store.path(), &copy);
        assert_eq!((&again["written"], &again["removed"]), (&Value::from(0), &Value::from(0)));
        let tree = |root: &Path| {
            let mut all: Vec<_> = files(root)
                .into_iter()
                .map(|path| {
                    let stat = fs::symlink_metadata(&path).expect("there");
                    let bytes = if stat.is_file() {
                        fs::read(&path).expect("readable")
                    } else {
                        Vec::new()
                    };
                    let path = path.strip_prefix(root).expect("in it").to_owned();
                    (path, stat.mode(), stat.mtime(), stat.mtime_nsec(), bytes)
                })
                .collect();
            all.sort();
            all
        };
        let original = tree(&mount.root());
        looked_at(&store, &copy, |at| assert!(tree(at) == original, "the copy is another"));
    }
}

/// Changes the store at the `at`th word of a backup's progress.
struct Disturbs<'a> {
    at: usize,
    steps: usize,
    change: &'a dyn Fn(),
    failed: Vec<String>,
}

impl Watcher for Disturbs<'_> {
    fn advance(&mut self, _: u64, _: u64) {
        if self.steps == self.at {
            (self.change)();
        }
        self.steps += 1;
    }

    fn failed(&mut self, path: &Path, why: &std::io::Error) {
        self.failed.push(format!("{}: {why}", path.display()));
    }

    fn keyless(&mut self, path: &Path) {
        self.failed.push(format!("{}: no key", path.display()));
    }
}

/// A store that is not mounted, and a folder for copies of it: in memory, for each copy is synced.
struct Quick(tempfile::TempDir);

impl Quick {
    fn of(store: &Store) -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
        run(Command::new("cp").arg("-a").arg(store.path()).arg(folder.path().join("store")));
        fs::create_dir(folder.path().join("copy")).expect("made");
        Self(folder)
    }

    fn tree(&self) -> PathBuf {
        self.0.path().join("store/files")
    }

    fn copy(&self, watcher: &mut Disturbs<'_>) -> Copied {
        let [store, copy] = ["store", "copy"].map(|name| self.0.path().join(name));
        let store = kmsfs::store::Store::open_path(&store).expect("a store");
        let mut dest = None;
        // A child that another test of this process starts has its lock for a moment.
        wait_for("the lock of the copy", PATIENCE, || {
            let top = kmsfs::disk::open_dir(&copy).expect("there");
            match Destination::open(top, &copy, &store) {
                Err(BackupError::Busy) => false,
                opened => {
                    dest = Some(opened.expect("empty, or a copy"));
                    true
                }
            }
        });
        upkeep::backup(&store, &dest.expect("opened"), watcher).expect("a copy")
    }
}

/// With names as they are, so that the test can change the tree beneath.
fn with_two_folders() -> Store {
    let store = Store::new(&["--names", "plain"]);
    let mount = store.mount(&[]);
    for folder in ["a", "a/inner", "b"] {
        fs::create_dir(mount.at(folder)).expect("made");
        for n in 0..2 {
            fs::write(mount.at(folder).join(format!("file{n}")), "content").expect("written");
        }
    }
    fs::hard_link(mount.at("a/file0"), mount.at("b/linked")).expect("linked");
    fs::hard_link(mount.at("b/file0"), mount.at("a/inner/linked")).expect("linked");
    std::os::unix::fs::symlink("target", mount.at("a/symlink")).expect("made");
    mount.unmount();
    store
}

#[test]
fn what_is_removed_or_moved_at_any_step_is_no_failure() {
    if skipped("fuse") {
        return;
    }
    let store = with_two_folders();
    type Change = fn(&Path);
    let changes: [(&str, Change); 5] = [
        ("remove a folder", |tree| fs::remove_dir_all(tree.join("a")).expect("removed")),
        ("remove the other", |tree| fs::remove_dir_all(tree.join("b")).expect("removed")),
        ("remove an inner one", |tree| fs::remove_dir_all(tree.join("a/inner")).expect("removed")),
        ("move a folder", |tree| fs::rename(tree.join("a"), tree.join("c")).expect("moved")),
        ("remove a file", |tree| fs::remove_file(tree.join("a/file0")).expect("removed")),
    ];
    for (what, change) in changes {
        for at in 0.. {
            let quick = Quick::of(&store);
            let change = || change(&quick.tree());
            let mut watcher = Disturbs { at, steps: 0, change: &change, failed: Vec::new() };
            let copied = quick.copy(&mut watcher);
            assert!(watcher.failed.is_empty(), "{what} at {at}: {:?}", watcher.failed);
            assert_eq!((copied.failed, copied.keyless), (0, 0), "{what} at {at}");
            if watcher.steps <= at {
                break;
            }
        }
    }
}

/// One that was removed between its opening and its listing counted as one that cannot be read:
/// "No such file or directory", and the copy was not whole.
#[test]
fn folders_that_come_and_go_are_no_failure() {
    if skipped("fuse") {
        return;
    }
    let quick = Quick::of(&with_two_folders());
    let (tree, stop) = (quick.tree(), AtomicBool::new(false));
    let copies = if full_size() { 20_000 } else { 300 };
    std::thread::scope(|scope| {
        let come_and_go = || {
            while !stop.load(Ordering::Relaxed) {
                for n in 0..8 {
                    fs::create_dir_all(tree.join(format!("x{n}/y"))).expect("made");
                }
                for n in 0..8 {
                    fs::remove_dir_all(tree.join(format!("x{n}"))).expect("removed");
                }
            }
        };
        let coming = scope.spawn(come_and_go);
        let _ended = Stop(&stop);
        for n in 0..copies {
            let mut watcher = Disturbs { at: 0, steps: 0, change: &|| (), failed: Vec::new() };
            quick.copy(&mut watcher);
            assert!(watcher.failed.is_empty(), "copy {n}: {:?}", watcher.failed);
            assert!(!coming.is_finished(), "folders come and go meanwhile");
        }
    });
}

/// Tells a thread to end, when a test has ended or failed.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What changes in a file shows in its time of change, also where its own time was put back.
#[test]
fn only_what_has_changed_is_written_and_all_of_it() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let copy = store.outside("copy");
    let mount = store.mount(&[]);
    for n in 0..50 {
        fs::write(mount.at(&format!("file{n}")), vec![n; 20_000]).expect("written");
    }
    fs::hard_link(mount.at("file0"), mount.at("linked")).expect("linked");
    fs::create_dir(mount.at("closed")).expect("made");
    fs::write(mount.at("closed/file"), "content").expect("written");
    fs::set_permissions(mount.at("closed"), fs::Permissions::from_mode(0o500)).expect("set");
    File::create(mount.at("sparse")).and_then(|f| f.write_at(b"end", 50_000_000)).expect("written");
    let first = done(&store.path(), &copy);
    assert_eq!((&first["written"], &first["whole"]), (&Value::from(52), &Value::from(true)));
    assert!(first["bytes"].as_u64() < Some(4_000_000), "holes stay holes: {first}");
    assert_eq!(done(&store.path(), &copy)["written"], Value::from(0));
    let stat = fs::metadata(mount.at("file7")).expect("there");
    fs::write(mount.at("file7"), vec![99; 20_000]).expect("written");
    let file = File::options().write(true).open(mount.at("file7")).expect("opened");
    file.set_modified(stat.modified().expect("a time")).expect("set back");
    fs::remove_file(mount.at("file8")).expect("removed");
    fs::rename(mount.at("file9"), mount.at("closed-not")).expect("renamed");
    fs::remove_dir_all(mount.at("closed")).expect("removed");
    let next = done(&store.path(), &copy);
    assert!(next["written"].as_u64().is_some_and(|n| (1..=2).contains(&n)), "{next}");
    looked_at(&store, &copy, |at| {
        assert!(fs::read(at.join("file7")).expect("readable") == vec![99; 20_000]);
        assert!(fs::read(at.join("closed-not")).expect("readable") == vec![9; 20_000]);
        let numbers =
            ["file0", "linked"].map(|name| fs::metadata(at.join(name)).expect("there").ino());
        assert_eq!(numbers[0], numbers[1]);
        assert!(!at.join("file8").exists() && !at.join("closed").exists());
        assert_eq!(fs::metadata(at.join("sparse")).expect("there").len(), 50_000_003);
    });
    let sparse = |root: &Path| {
        files(root).iter().map(|f| fs::metadata(f).map_or(0, |m| m.blocks())).sum::<u64>()
    };
    assert!(sparse(&copy) < 20_000, "holes stay holes");
}

/// A backup that is cut short is gone on with; what is none is not overwritten.
#[test]
fn what_is_no_copy_is_left_alone() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    fs::write(mount.at("file"), "content").expect("written");
    let (path, copy) = (store.path(), store.outside("copy"));
    let said = fails(&mut backup(&path, &path.join("files/copy")), 2);
    assert!(said.contains("inside of the store"), "{said}");
    fails(&mut backup(&path, &path), 2);
    fails(&mut backup(&path, &store.outside("")), 2);
    assert!(!path.join("files/copy").exists());
    let other = store.outside("other");
    fs::create_dir(&other).expect("made");
    fs::write(other.join("somebody's"), "data").expect("written");
    let said = fails(&mut backup(&path, &other), 1);
    assert!(said.contains("nothing was done") && other.join("somebody's").exists(), "{said}");
    run(&mut backup(&path, &copy));
    fails(&mut backup(&copy, &path), 1);
    // As a kill leaves it.
    let text = fs::read_to_string(copy.join("copy")).expect("it says what it is");
    fs::write(copy.join("copy"), text.replace("whole", "incomplete")).expect("written");
    let at = store.outside("at");
    fs::create_dir(&at).expect("made");
    let _mounted = MountedAt::new(&at);
    let mut mounting = kmsfs();
    let told =
        mounting.arg("mount").arg(&copy).arg(&at).arg("--read-only").output().expect("started");
    let said = String::from_utf8_lossy(&told.stderr).into_owned();
    let busy = backup(&path, &copy).output().expect("started").status.code();
    run(kmsfs().arg("unmount").arg(&at));
    assert!(said.contains("a copy that is not whole"), "{said}");
    assert_eq!(busy, Some(9), "it is mounted");
    run(&mut backup(&path, &copy));
    assert!(fs::read_to_string(copy.join("copy")).expect("there").ends_with("whole\n"));
    // A restored copy that is in use is a store by itself.
    run(kmsfs().arg("mount").arg(&copy).arg(&at));
    fs::write(at.join("new"), "in the restored one").expect("written");
    run(kmsfs().arg("unmount").arg(&at));
    let said = fails(&mut backup(&path, &copy), 1);
    assert!(said.contains("mounted for writing"), "{said}");
}

/// A copy that root makes of another user's store is that user's.
#[test]
fn a_copy_belongs_to_whom_the_store_belongs_to() {
    if skipped("fuse") {
        return;
    }
    let _device = OpenDevice::new();
    let user = Ordinary::new();
    run(&mut user.shell(
        "./kmsfs init store --no-passphrase 2>/dev/null >/dev/null; mkdir mnt; ./kmsfs mount store mnt
        echo content > mnt/file; mkdir -m 0500 mnt/closed; ./kmsfs unmount mnt",
    ));
    // Beside the store, in a folder that is root's.
    let beside = tempfile::tempdir().expect("a folder");
    fs::set_permissions(beside.path(), fs::Permissions::from_mode(0o711)).expect("set");
    let copy = beside.path().join("copy");
    run(&mut backup(&user.at("store"), &copy));
    run(&mut backup(&user.at("store"), &copy));
    let owned = run(Command::new("find").arg(&copy).args(["!", "-user", "nobody"]));
    assert_eq!(owned, "", "all of it is theirs");
    let mounting = format!(
        "mkdir at; ./kmsfs mount {0} at; cat at/file; ./kmsfs unmount at; ./kmsfs fsck {0}",
        copy.display()
    );
    let said = run(&mut user.shell(&mounting));
    assert!(said.starts_with("content\n") && said.contains("0 damage, 0 leftovers"), "{said}");
    // Their own copy, of a folder that even they may not write.
    run(&mut user.shell("./kmsfs backup store own; ./kmsfs backup store own; ./kmsfs fsck own"));
}

/// A mount of a restored copy removed the keys that the journal named, a day later: of files, too,
/// that were removed in the store after they had been copied.
#[test]
fn a_restored_store_keeps_the_keys_of_all_of_its_files() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&["--removed-key-grace", "5s"]);
    fs::write(mount.at("removed"), "it was there").expect("written");
    let restored = store.outside("restored");
    fs::create_dir(&restored).expect("made");
    let copy =
        |part: &str| run(Command::new("cp").arg("-a").arg(store.path().join(part)).arg(&restored));
    copy("files");
    fs::remove_file(mount.at("removed")).expect("removed");
    mount.unmount();
    for part in ["keys", "links", "lock", "volume.json", "volume.json.bak"] {
        copy(part);
    }
    run(Command::new("chmod").arg("700").arg(&restored));
    assert!(!files(&restored.join("keys/removed")).is_empty());
    let at = store.outside("at");
    fs::create_dir(&at).expect("made");
    let _mounted = MountedAt::new(&at);
    for _ in 0..3 {
        run(kmsfs().arg("mount").arg(&restored).arg(&at).args(["--removed-key-grace", "1s"]));
        wait_for("the end of the grace", PATIENCE, || {
            let kept = files(&restored.join("keys/removed"));
            kept.iter().all(|path| path.ends_with("clock"))
        });
        run(kmsfs().arg("unmount").arg(&at));
    }
    run(kmsfs().arg("mount").arg(&restored).arg(&at));
    let read = fs::read_to_string(at.join("removed"));
    run(kmsfs().arg("unmount").arg(&at));
    assert_eq!(read.expect("its key is there"), "it was there");
}
