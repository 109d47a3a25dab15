//! The promise with its number: from `key disable` to the last successful access of any kind.
//!
//! `KMSFS_TEST_FULL=1` runs it at full size: 10,000 files, 8 processes of load, 20 rounds; and once
//! with 100,000 files and 1 GB of cached pages.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use crate::support::mapping::Map;
use crate::support::role::{self, Role, Stamps, micros};
#[cfg(feature = "aws")]
use crate::support::server::{Rules, Server};
use crate::support::{PATIENCE, Store, Tmpfs, full_size, skipped, wait_for};

/// The kinds of access that are probed; each leaves the time of its last success, and how often
/// it has failed since, in a file that the test reads.
pub const KINDS: [&str; 9] =
    ["descriptor", "page cache", "open", "readdir", "readlink", "getxattr", "stat", "fstat", "map"];
/// The map's failure is the end of its process.
const MAP: usize = 8;
const ROLES: &str = "bound::a_role";
pub const HEARTBEAT: Duration = Duration::from_secs(2);

struct Size {
    files: usize,
    /// Of each file.
    bytes: usize,
    loaders: usize,
    rounds: usize,
}

/// What the probes leave: the time of each kind's last success, and how often it failed since.
struct Probes(Stamps);

impl Probes {
    fn last_success(&self, kind: usize) -> u64 {
        self.0.get(kind)
    }

    fn failures(&self, kind: usize) -> u64 {
        self.0.get(KINDS.len() + kind)
    }

    fn note(&self, kind: usize, ok: bool) {
        if ok {
            self.0.set(kind, micros());
        } else {
            self.0.set(KINDS.len() + kind, self.failures(kind) + 1);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn clear(&self) {
        (0..2 * KINDS.len()).for_each(|slot| self.0.set(slot, 0));
    }
}

fn name(i: usize) -> String {
    format!("d{}/f{i}", i % 20)
}

fn make_tree(root: &Path, Size { files, bytes, .. }: &Size) {
    for d in 0..20 {
        fs::create_dir_all(root.join(format!("d{d}"))).expect("made");
    }
    for i in 0..*files {
        fs::write(root.join(name(i)), vec![(i % 251) as u8; *bytes]).expect("written");
    }
    std::os::unix::fs::symlink("d0/f0", root.join("link")).expect("made");
    let value = rustix::fs::setxattr(
        root.join(name(0)),
        "user.probe",
        b"value",
        rustix::fs::XattrFlags::empty(),
    );
    value.expect("set");
}

/// As few files as the probes need.
pub fn make_small_tree(root: &Path) {
    make_tree(root, &Size { files: 20, bytes: 6000, loaders: 0, rounds: 0 });
}

fn read_all(root: &Path, files: usize) {
    for i in 0..files {
        fs::read(root.join(name(i))).expect("readable");
    }
}

/// One process, a thread for each kind of access but the map.
fn probe(folder: &Path, stamps: &Path) {
    let file = File::open(folder.join(name(0))).expect("opened");
    let cached = File::open(folder.join(name(1))).expect("opened");
    let probes: [Box<dyn Fn(u64) -> bool + Send + Sync>; 8] = [
        // The page is dropped each time, so that the daemon is asked.
        Box::new(|_| {
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
            file.read_at(&mut [0; 100], 4096).is_ok()
        }),
        Box::new(|_| cached.read_at(&mut [0; 100], 4096).is_ok()),
        Box::new(|_| File::open(folder.join(name(2))).is_ok()),
        Box::new(|_| fs::read_dir(folder).is_ok_and(|d| d.flatten().count() > 0)),
        Box::new(|_| fs::read_link(folder.join("link")).is_ok()),
        Box::new(|_| {
            let value = &mut [0u8; 64][..];
            rustix::fs::getxattr(folder.join(name(0)), "user.probe", value).is_ok()
        }),
        // A name that was never looked up: told to be absent is an answer, too.
        Box::new(|n| {
            let gone = fs::metadata(folder.join(format!("never-{n}")));
            gone.is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
        }),
        Box::new(|_| file.metadata().is_ok()),
    ];
    std::thread::scope(|scope| {
        for (kind, probe) in probes.iter().enumerate() {
            scope.spawn(move || {
                let stamps = Probes(Stamps::open(stamps));
                for n in 0.. {
                    stamps.note(kind, probe(n));
                }
            });
        }
    });
}

/// Reads a map until it dies of SIGBUS.
fn read_map(folder: &Path, stamps: &Path) {
    let file = File::open(folder.join(name(3))).expect("opened");
    let map = Map::read_only(&file, 6000);
    let stamps = Probes(Stamps::open(stamps));
    for i in (0..).step_by(4096) {
        std::hint::black_box(map.byte(i % 6000));
        stamps.note(MAP, true);
    }
}

/// Reads, writes, makes, lists and removes, on and on.
fn load(folder: &Path) {
    let own = folder.join(format!("load-{}", std::process::id()));
    for n in 0usize.. {
        let _ = fs::create_dir_all(&own);
        let path = own.join(format!("x{}", n % 50));
        let worked = fs::write(&path, vec![n as u8; 1 + n * 997 % 50_000])
            .and_then(|()| File::open(&path)?.sync_all())
            .and_then(|()| fs::read(folder.join(name(n * 7919 % 400))))
            .and_then(|_| fs::read_dir(&own).map(Iterator::count))
            .and_then(|_| if n % 3 == 0 { fs::remove_file(&path) } else { Ok(()) });
        if worked.is_err() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Not a test: what the processes do that the tests start.
#[test]
#[ignore = "a process that other tests start"]
fn a_role() {
    let Some((role, folder, stamps)) = role::asked() else { return };
    match role.as_str() {
        "probe" => probe(&folder, &stamps),
        "map" => read_map(&folder, &stamps),
        "load" => load(&folder),
        other => panic!("no such role: {other}"),
    }
}

/// Locks once, and answers when the key was disabled (by [`micros`]), and when each kind of
/// access succeeded last, from then on.
pub fn lock_once(store: &Store, root: &Path, stamps_at: &Path) -> (u64, Vec<Duration>) {
    let stamps = Probes(Stamps::open(stamps_at));
    stamps.clear();
    let _probe = Role::start(ROLES, "probe", root, stamps_at);
    let mut mapper = Role::start(ROLES, "map", root, stamps_at);
    let all = |f: &dyn Fn(usize) -> bool| (0..KINDS.len()).all(f);
    wait_for("a success of each kind", PATIENCE, || all(&|k| stamps.last_success(k) > 0));
    let disabled = micros();
    store.key(&["disable", "alias/kmsfs"]);
    wait_for("failures of every kind", PATIENCE, || {
        (0..MAP).all(|k| stamps.failures(k) >= 3) && mapper.ended()
    });
    let since = |k| Duration::from_micros(stamps.last_success(k).saturating_sub(disabled));
    (disabled, (0..KINDS.len()).map(since).collect())
}

#[test]
fn nothing_is_readable_later_than_a_heartbeat_and_a_second() {
    if skipped("fuse") {
        return;
    }
    check_bound(
        &if full_size() {
            Size { files: 10_000, bytes: 6000, loaders: 8, rounds: 20 }
        } else {
            Size { files: 400, bytes: 6000, loaders: 2, rounds: 2 }
        },
        &Store::new(&[]),
    );
}

/// The same where the refusal comes over a network.
#[cfg(feature = "aws")]
#[test]
fn the_bound_holds_with_a_kms_server() {
    if skipped("fuse") || skipped("ministack") {
        return;
    }
    let server = Server::ministack(Rules::None);
    let (files, loaders, rounds) = if full_size() { (10_000, 8, 20) } else { (200, 2, 1) };
    check_bound(&Size { files, bytes: 6000, loaders, rounds }, &Store::on(&server));
}

#[test]
fn a_large_cache_does_not_hold_the_lock_up() {
    if skipped("fuse") {
        return;
    }
    let files = if full_size() { 100_000 } else { 2000 };
    check_bound(&Size { files, bytes: 12_000, loaders: 1, rounds: 1 }, &Store::new(&[]));
}

fn check_bound(size: &Size, store: &Store) {
    let mount = store.mount(&["--heartbeat", "2s"]);
    let root = mount.root();
    make_tree(&root, size);
    let stamps = store.outside("stamps");
    let _load: Vec<_> =
        (0..size.loaders).map(|_| Role::start(ROLES, "load", &root, &stamps)).collect();
    let mut worst = Duration::ZERO;
    for round in 1..=size.rounds {
        read_all(&root, size.files);
        let maps: Vec<_> = (4..size.files.min(500))
            .map(|i| {
                let file = File::open(root.join(name(i))).expect("opened");
                (Map::read_only(&file, 6000), file)
            })
            .collect();
        assert!(maps.iter().any(|(m, _)| m.resident() > 0), "the files are cached before");
        let (_, last) = lock_once(store, &root, &stamps);
        for (kind, last) in KINDS.iter().zip(&last) {
            assert!(*last <= HEARTBEAT + Duration::from_secs(1), "{kind}: {last:?}, round {round}");
            worst = worst.max(*last);
        }
        mount.wait_state("revoked", PATIENCE);
        let left: usize = maps.iter().map(|(m, _)| m.resident()).sum();
        assert_eq!(left, 0, "pages that mincore(2) finds after the lock");
        store.key(&["enable", "alias/kmsfs"]);
        mount.wait_state("open", PATIENCE);
    }
    let Size { files, bytes, rounds, .. } = size;
    let bound = HEARTBEAT + Duration::from_secs(1);
    println!("{rounds} rounds, {files} files of {bytes} bytes, worst {worst:?} of {bound:?}");
}

/// A process dirties a shared map as fast as it can: saving its pages takes the drain as long
/// as it may, and no longer.
#[test]
fn dirty_maps_do_not_hold_the_lock_up() {
    if skipped("fuse") {
        return;
    }
    let length = if full_size() { 200 << 20 } else { 16 << 20 };
    // In memory: a disk that others have busy may take longer to save them than a lock may.
    let disk = Tmpfs::new("size=512m");
    let store = Store::unmade().at(disk.path().join("store")).made(&[]);
    let mount = store.mount(&["--heartbeat", "2s"]);
    let file = File::options().read(true).write(true).create_new(true).open(mount.at("map"));
    let file = file.expect("made");
    file.set_len(length as u64).expect("grown");
    let map = Map::shared(&file, length);
    for at in (0..length).step_by(4096) {
        map.set(at, 7);
    }
    assert_eq!(map.resident(), length.div_ceil(4096));
    // Looked at here, and from the order on: where the processors are busy, commands that ask for
    // the state are slow.
    let took = std::thread::scope(|scope| {
        scope.spawn(|| store.key(&["disable", "alias/kmsfs"]));
        wait_for("a map without pages", PATIENCE, || map.resident() == 0)
    });
    assert!(took <= HEARTBEAT + Duration::from_secs(1), "locked after {took:?}");
    mount.wait_state("revoked", PATIENCE);
    store.key(&["enable", "alias/kmsfs"]);
    mount.wait_state("open", PATIENCE);
    println!("{} MB of dirty map, locked after {took:?}", length >> 20);
}
