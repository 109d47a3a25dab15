//! The promise with its number on a slow store: each of its reads, writes and syncs takes 50 ms.
//! No kind of request, however large, keeps a mount readable for longer.
//!
//! `KMSFS_TEST_FULL=1` plays each kind by itself; else several at once.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{
    FallocateFlags, SeekFrom, XattrFlags, copy_file_range, fallocate, listxattr, removexattr, seek,
    setxattr,
};

use crate::bound::{HEARTBEAT, KINDS as PROBES, lock_once, make_small_tree};
use crate::support::role::{self, Role, Stamps, micros};
use crate::support::slow::{self, SlowDisk};
use crate::support::{Mount, PATIENCE, Store, files, full_size, skipped, wait_for};

pub const ROLES: &str = "slow_store::a_role";
const SLOW: Duration = Duration::from_millis(50);
/// Of the file that large requests are about.
const LARGE: u64 = 64 << 20;
/// In the folder that listings are about.
const ENTRIES: usize = 600;
/// Slots of stamps before this one are the probes'.
const FIRST: usize = 64;

/// What a process asks for on and on, and how.
type Request = (&'static str, fn(&Path, u64) -> std::io::Result<()>);

/// Each kind of request that a mount answers only while it is open.
const KINDS: &[Request] = &[
    ("lseek over data", |root, _| {
        // From the start each time; the whole file is data.
        Ok(seek(&File::open(root.join("large"))?, SeekFrom::Hole(1)).map(drop)?)
    }),
    ("copy_file_range", |root, n| {
        let from = File::open(root.join("large"))?;
        let to = File::create(root.join(format!("copy-{}", n % 2)))?;
        Ok(copy_file_range(&from, None, &to, None, LARGE as usize).map(drop)?)
    }),
    ("punch", |root, _| range(root, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE)),
    ("zero range", |root, _| range(root, FallocateFlags::ZERO_RANGE)),
    ("allocate", |root, _| range(root, FallocateFlags::empty())),
    ("readdir", |root, _| {
        assert_names(fs::read_dir(root.join("many"))?.collect::<Result<Vec<_>, _>>()?.len())
    }),
    ("readdir and stat", |root, _| {
        for entry in fs::read_dir(root.join("many"))? {
            entry?.metadata()?;
        }
        Ok(())
    }),
    ("read", |root, n| {
        let file = File::open(root.join("large"))?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        file.read_exact_at(&mut vec![0; 1 << 20], (n % 60) << 20)
    }),
    ("write", |root, n| {
        let file = File::options().write(true).open(root.join("written"))?;
        file.write_all_at(&vec![n as u8; 1 << 20], (n % 8) << 20)
    }),
    ("truncate", |root, n| {
        File::options().write(true).open(root.join("written"))?.set_len(n * 7919 % LARGE)
    }),
    ("create and unlink", |root, n| {
        let path = root.join(format!("made-{n}"));
        fs::write(&path, b"a few bytes")?;
        fs::remove_file(path)
    }),
    ("mkdir and rmdir", |root, n| {
        let path = root.join(format!("folder-{n}"));
        fs::create_dir(&path)?;
        fs::remove_dir(path)
    }),
    ("rename", |root, n| {
        let [a, b] = [root.join("renamed-0"), root.join("renamed-1")];
        if n % 2 == 0 { fs::rename(a, b) } else { fs::rename(b, a) }
    }),
    ("link and symlink", |root, n| {
        let (hard, soft) = (root.join(format!("hard-{n}")), root.join(format!("soft-{n}")));
        fs::hard_link(root.join("written"), &hard)?;
        std::os::unix::fs::symlink("t".repeat(2000), &soft)?;
        fs::read_link(&soft)?;
        fs::remove_file(hard)?;
        fs::remove_file(soft)
    }),
    ("extended attributes", |root, _| {
        let path = root.join("written");
        setxattr(&path, "user.slow", &[7; 500], XattrFlags::empty())?;
        listxattr(&path, &mut [0u8; 4096][..])?;
        Ok(removexattr(&path, "user.slow")?)
    }),
    ("stat of new names", |root, n| match fs::metadata(root.join(format!("absent-{n}"))) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map(drop),
    }),
    ("chmod and chown", |root, n| {
        use std::os::unix::fs::PermissionsExt;
        let path = root.join("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600 | (n % 8) as u32))?;
        std::os::unix::fs::chown(&path, Some((n % 3) as u32), None)
    }),
];

fn assert_names(found: usize) -> std::io::Result<()> {
    assert_eq!(found, ENTRIES, "a listing that ended early would hide what it is to show");
    Ok(())
}

fn range(root: &Path, how: FallocateFlags) -> std::io::Result<()> {
    let file = File::options().write(true).open(root.join("ranges"))?;
    Ok(fallocate(&file, how, 100, LARGE - 200)?)
}

/// Asks for one thing until it is killed; leaves the time of each success.
fn ask(kind: usize, root: &Path, stamps: &Path) {
    let stamps = Stamps::open(stamps);
    for n in 0.. {
        match KINDS[kind].1(root, n) {
            Ok(()) => stamps.set(FIRST + kind, micros()),
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// Not a test: what the processes do that the tests start.
#[test]
#[ignore = "a process that other tests start"]
fn a_role() {
    let Some((role, folder, stamps)) = role::asked() else { return };
    match role.as_str() {
        "slow" => slow::serve(&folder, &stamps),
        "one write" => {
            let stamps = Stamps::open(&stamps);
            let file = File::options().write(true).open(folder.join("zeros")).expect("opened");
            stamps.set(0, 1);
            let _ = file.write_at(b"x", 100_000_000);
            stamps.set(1, 1);
        }
        kind => ask(kind.parse().expect("a kind's number"), &folder, &stamps),
    }
}

fn furnish(root: &Path) {
    make_small_tree(root);
    let content = vec![7; 1 << 20];
    for name in ["large", "ranges", "written"] {
        let file = File::create(root.join(name)).expect("made");
        for at in (0..LARGE).step_by(1 << 20) {
            file.write_all_at(&content, at).expect("written");
        }
    }
    fs::write(root.join("renamed-0"), b"x").expect("written");
    fs::create_dir(root.join("many")).expect("made");
    for n in 0..ENTRIES {
        fs::write(root.join(format!("many/entry-{n}")), b"").expect("made");
    }
}

fn no_request_outlasts_the_bound(io_uring: &str) {
    if skipped("fuse") {
        return;
    }
    let disk = SlowDisk::new(ROLES);
    let store = Store::unmade().at(disk.path().join("store")).made(&[]);
    let mount = store.mount(&["--heartbeat", "2s", "--io-uring", io_uring]);
    let root = mount.root();
    furnish(&root);
    let together = if full_size() { 1 } else { 6 };
    let all: Vec<usize> = (0..KINDS.len()).collect();
    for kinds in all.chunks(together) {
        let stamps_at = store.outside("stamps");
        let stamps = Stamps::open(&stamps_at);
        kinds.iter().for_each(|kind| stamps.set(FIRST + kind, 0));
        disk.set_delay(SLOW);
        let _asking: Vec<_> = kinds
            .iter()
            .map(|kind| Role::start(ROLES, &kind.to_string(), &root, &stamps_at))
            .collect();
        wait_for("a success of each kind", PATIENCE, || {
            kinds.iter().all(|kind| stamps.get(FIRST + kind) > 0)
        });
        let (disabled, probed) = lock_once(&store, &root, &stamps_at);
        let names = kinds.iter().map(|kind| KINDS[*kind].0);
        let together: Vec<_> = names.clone().collect();
        let asked = kinds
            .iter()
            .map(|kind| Duration::from_micros(stamps.get(FIRST + kind).saturating_sub(disabled)));
        for (name, last) in PROBES.into_iter().chain(names).zip(probed.into_iter().chain(asked)) {
            let bound = HEARTBEAT + Duration::from_secs(1);
            assert!(last <= bound, "{name}: {last:?}, beside {together:?}");
        }
        mount.wait_state("revoked", PATIENCE);
        disk.set_delay(Duration::ZERO);
        store.key(&["enable", "alias/kmsfs"]);
        mount.wait_state("open", PATIENCE);
    }
}

#[test]
fn no_request_outlasts_the_bound_over_io_uring() {
    no_request_outlasts_the_bound("auto");
}

#[test]
fn no_request_outlasts_the_bound_over_dev_fuse() {
    no_request_outlasts_the_bound("off");
}

/// A lock waits for a request that the store holds up. Until it was over, the kernel answered for
/// every folder and empty file that it knew.
#[test]
fn a_store_that_hangs_does_not_keep_names_readable() {
    if skipped("fuse") {
        return;
    }
    for io_uring in ["auto", "off"] {
        let disk = SlowDisk::new(ROLES);
        let store = Store::unmade().at(disk.path().join("store")).made(&[]);
        let mount = store.mount(&["--heartbeat", "2s", "--io-uring", io_uring]);
        let (held, folder) = (File::create(mount.at("held")).expect("made"), mount.at("folder"));
        held.write_all_at(b"text", 0).expect("written");
        fs::create_dir(&folder).expect("made");
        // From here on the kernel knows them, and that no close(2) is a request. A program that this
        // test starts closes `held`, too, on a core whose thread the store may hold up; ps(1) hangs
        // on a process that hangs so.
        fs::write(mount.at("closed"), b"").expect("made");
        assert!(fs::metadata(&folder).is_ok());
        disk.set_delay(HANG);
        // Later than any success, an access waits in the queue that the store holds up.
        let (last, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let ends = EndsOfHang(&stop, &disk);
            let writer = scope.spawn(move || held.write_all_at(b"more", 0));
            wait_for("a request that waits for the store", PATIENCE, || waits_for_store(&mount));
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    if fs::metadata(&folder).is_ok() {
                        last.store(clock(), Ordering::Relaxed);
                    }
                }
            });
            wait_for("a success", PATIENCE, || last.load(Ordering::Relaxed) > 0);
            let disables = scope.spawn(|| store.key(&["disable", "alias/kmsfs"]));
            let since = |at: u64| Duration::from_micros(clock().saturating_sub(at));
            let quiet = Duration::from_secs(2);
            wait_for("the end of successes", PATIENCE, || {
                since(last.load(Ordering::Relaxed)) > quiet
            });
            // It tells where the key was in use, and waits for no store.
            wait_for("the end of the command", PATIENCE, || disables.is_finished());
            assert!(!writer.is_finished(), "the store hangs still");
            drop(ends);
            let took = last.load(Ordering::Relaxed).saturating_sub(changed(&store));
            let bound = HEARTBEAT + Duration::from_secs(1);
            assert!(Duration::from_micros(took) <= bound, "{took} µs, {io_uring}");
            writer.join().expect("no panic").expect("it was let in before");
            disables.join().expect("no panic");
        });
        mount.wait_state("revoked", PATIENCE);
        store.key(&["enable", "alias/kmsfs"]);
        mount.wait_state("open", PATIENCE);
        assert_eq!(fs::read(mount.at("held")).expect("readable"), b"more");
        assert!(fs::metadata(&folder).is_ok());
    }
}

/// Longer than what is waited for beside it. It has an end, for other programs may hang with it.
const HANG: Duration = Duration::from_secs(360);

/// Microseconds since 1970.
fn clock() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(now.as_micros()).expect("before the year 500000")
}

/// When the master key's file was last put in its place, by the same clock.
fn changed(store: &Store) -> u64 {
    let mut keys = fs::read_dir(store.keystore().join("keys")).expect("listed");
    let key = keys.next().expect("one key").and_then(|key| key.metadata()).expect("known");
    let micros = key.ctime() * 1_000_000 + key.ctime_nsec() / 1000;
    u64::try_from(micros).expect("after 1970")
}

/// Lets everybody go on who hangs or tries again and again, also where the test fails.
struct EndsOfHang<'a>(&'a AtomicBool, &'a SlowDisk);

impl Drop for EndsOfHang<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.set_delay(Duration::ZERO);
    }
}

/// Whether a thread that runs requests waits for the slow disk, which is a FUSE filesystem itself.
/// Those of the keyring wait for it, too: a beat reads `volume.json`.
fn waits_for_store(mount: &Mount<'_>) -> bool {
    let mut tasks = fs::read_dir(format!("/proc/{}/task", mount.pid())).expect("it runs").flatten();
    tasks.any(|task| {
        let read = |what| fs::read_to_string(task.path().join(what)).unwrap_or_default();
        let name = read("comm");
        let of_ours = ["kmsfs-ring", "kmsfs-bulk", "kmsfs-runner"].contains(&name.trim_end());
        let runs_requests = of_ours || !name.starts_with("kmsfs-");
        runs_requests && read("wchan").contains("request_wait_answer")
    })
}

/// A program that waits for a long request can be killed.
#[test]
fn a_program_in_a_long_request_dies_when_it_is_killed() {
    if skipped("fuse") {
        return;
    }
    let disk = SlowDisk::new(ROLES);
    let store = Store::unmade().at(disk.path().join("store")).made(&[]);
    let mount = store.mount(&[]);
    // Zeros that the store holds as data: before a file gets its key, each of its pages is looked
    // at. Only a store that was copied without its holes is like this.
    let path = mount.at("zeros");
    let size = 256 << 20;
    File::create(&path).expect("made").set_len(size).expect("grown");
    let ino = fs::metadata(&path).expect("there").ino();
    mount.unmount();
    let of_ino = |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|m| m.ino() == ino);
    let beneath = files(&store.path()).into_iter().find(of_ino).expect("it has a name");
    let file = File::options().write(true).open(beneath).expect("there");
    for at in (0..size).step_by(1 << 20) {
        file.write_all_at(&vec![0; 1 << 20], at).expect("written");
    }
    drop(file);
    let mount = store.mount(&[]);
    disk.set_delay(SLOW);
    let stamps_at = store.outside("stamps");
    let stamps = Stamps::open(&stamps_at);
    let mut writer = Role::start(ROLES, "one write", &mount.root(), &stamps_at);
    wait_for("the write to begin", PATIENCE, || stamps.get(0) > 0);
    // It takes a minute; a second is enough to be in it, and none is needed for what is tested.
    std::thread::sleep(Duration::from_secs(1));
    assert!(!writer.ended(), "it is still being looked at");
    writer.kill();
    wait_for("its end", PATIENCE, || writer.ended());
    assert_eq!(stamps.get(1), 0, "it did not end by itself");
}
