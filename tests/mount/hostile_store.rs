//! A user of a mount who can change the tree beneath it, as with a descriptor of a store's folder
//! from before it was closed: root's daemon is led nowhere.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, RenameFlags, XattrFlags, mknodat, renameat_with};

use crate::support::role::{self, Stamps};
use crate::support::{Store, full_size, skipped};

const ROLES: &str = "hostile_store::a_role";
const NOBODY: u32 = 65534;
/// What the tree is called that the hostile process works in, in the mount and on disk.
const EVIL: &str = "evil";
const DONE: usize = 0;
/// So many operations say something.
const WANTED: u64 = 500;

/// What must not change: everything of some files and folders outside of the store, and of other
/// users' files in the mount.
fn state(folder: &Path) -> Vec<(PathBuf, Vec<u64>, Vec<u8>)> {
    let mut all = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        let meta = fs::symlink_metadata(&at).expect("there");
        let mut names = [0; 512];
        let xattrs = rustix::fs::llistxattr(&at, &mut names).unwrap_or(0) as u64;
        let (mode, owner) =
            (meta.mode().into(), u64::from(meta.uid()) << 32 | u64::from(meta.gid()));
        let changed = meta.mtime().unsigned_abs() << 30 | meta.mtime_nsec().unsigned_abs();
        let content = match meta.is_file() {
            true => fs::read(&at).expect("readable"),
            false => Vec::new(),
        };
        if meta.is_dir() {
            folders.extend(fs::read_dir(&at).expect("listed").map(|e| e.expect("an entry").path()));
        }
        all.push((at, vec![mode, owner, meta.nlink(), changed, xattrs], content));
    }
    all.sort();
    all
}

fn furnish(at: &Path, owner: u32) {
    fs::create_dir(at).expect("made");
    for name in ["program", "secret", "f"] {
        fs::write(at.join(name), format!("{name} of {owner}")).expect("written");
        chown(at.join(name), Some(owner), Some(owner)).expect("given");
    }
    fs::set_permissions(at.join("program"), Permissions::from_mode(0o755)).expect("set");
    fs::set_permissions(at.join("secret"), Permissions::from_mode(0o600)).expect("set");
    fs::create_dir(at.join("d")).expect("made");
    fs::write(at.join("d/f"), "below").expect("written");
    chown(at, Some(owner), Some(owner)).expect("given");
}

#[test]
fn whoever_changes_the_tree_beneath_a_mount_leads_it_nowhere() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&["--names", "plain"]);
    let mount = store.mount(&[]);
    let outside = store.outside("outside");
    furnish(&outside, 0);
    furnish(&mount.at("others"), 1234);
    fs::create_dir(mount.at(EVIL)).expect("made");
    chown(mount.at(EVIL), Some(NOBODY), Some(NOBODY)).expect("given");
    // He can reach what lies outside by name, and has a descriptor of his folder in the store.
    fs::set_permissions(store.outside(""), Permissions::from_mode(0o755)).expect("set");
    fs::set_permissions(&outside, Permissions::from_mode(0o755)).expect("set");
    let before = [state(&outside), state(&mount.at("others"))];
    let stamps = store.outside("stamps");
    Stamps::open(&stamps).set(DONE, 0);
    fs::set_permissions(&stamps, Permissions::from_mode(0o666)).expect("set");
    let seconds = if full_size() { 600 } else { 6 };
    let mut hostile = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(std::env::current_exe().expect("this binary"))
        .args(["--exact", ROLES, "--ignored", "--nocapture"])
        .env("KMSFS_TEST_ROLE", seconds.to_string())
        .env("KMSFS_TEST_FOLDER", mount.at(EVIL))
        .env("KMSFS_TEST_STAMPS", &stamps)
        .env("KMSFS_TEST_OUTSIDE", &outside)
        .current_dir(store.tree().join(EVIL))
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts");
    // Other users' files are used meanwhile.
    while hostile.try_wait().expect("it is ours").is_none() {
        assert_eq!(fs::read(mount.at("others/secret")).expect("readable"), b"secret of 1234");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(hostile.wait().expect("it ended").success(), "the hostile process ends by itself");
    let done = Stamps::open(&stamps).get(DONE);
    eprintln!("{done} operations beside exchanges");
    assert!(done >= WANTED, "{done}");
    assert_eq!(before, [state(&outside), state(&mount.at("others"))]);
    mount.unmount();
    let mount = store.mount(&[]);
    assert_eq!(state(&mount.at("others")), before[1]);
}

/// Something was removed beneath a mount, and the store gave its inode number to what was made next:
/// a file in place of a device was EINVAL, and names in a new folder were sealed for the old one.
#[test]
fn an_inode_number_that_the_store_gives_again_is_another_inode() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    let backing = |ino: u64| -> PathBuf {
        let tree = fs::read_dir(store.tree()).expect("listed").flatten().map(|e| e.path());
        let mut all: Vec<_> = tree.collect();
        all.retain(|path| fs::symlink_metadata(path).is_ok_and(|meta| meta.ino() == ino));
        all.pop().expect("it is in the store's tree")
    };
    type Make = fn(&Path);
    let fifo: Make =
        |path| mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("made");
    let folder: Make = |path| fs::create_dir(path).expect("made");
    let file: Make = |path| fs::write(path, "content").expect("made");
    let mut made = Vec::new();
    for (n, (first, second)) in
        [(fifo, file), (folder, folder), (file, folder), (folder, file), (file, file)]
            .iter()
            .enumerate()
    {
        let (old, new) = (mount.at(&format!("old-{n}")), mount.at(&format!("new-{n}")));
        first(&old);
        let ino = fs::symlink_metadata(&old).expect("there").ino();
        let held = File::options()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_NOFOLLOW)
            .open(&old)
            .expect("held");
        let beneath = backing(ino);
        if beneath.is_dir() {
            fs::remove_dir_all(&beneath).expect("removed");
        } else {
            fs::remove_file(&beneath).expect("removed");
        }
        second(&new);
        let again = fs::symlink_metadata(&new).expect("there").ino() == ino;
        eprintln!("{n}: the number was given again: {again}");
        if new.is_dir() {
            fs::write(new.join("below"), "content").expect("written");
        }
        made.push((new, again));
        drop(held);
    }
    assert!(made.iter().any(|(_, again)| *again), "no number was given again: nothing was tried");
    let read = |(path, _): &(PathBuf, bool)| {
        fs::read(if path.is_dir() { path.join("below") } else { path.clone() })
    };
    assert!(made.iter().all(|made| read(made).expect("readable") == b"content"));
    mount.unmount();
    let _mount = store.mount(&[]);
    assert!(made.iter().all(|made| read(made).expect("readable") == b"content"));
}

/// Not a test: the process that the test starts.
#[test]
#[ignore = "a process that another test starts"]
fn a_role() {
    let Some((seconds, mounted, stamps)) = role::asked() else { return };
    let outside = PathBuf::from(std::env::var_os("KMSFS_TEST_OUTSIDE").expect("set by the test"));
    let end = Instant::now() + Duration::from_secs(seconds.parse().expect("a number"));
    let done = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| exchange(&outside, || is_over(end, &done)));
        for n in 0..2 {
            let (mounted, done) = (&mounted, &done);
            scope.spawn(move || {
                let mut round = n;
                while !is_over(end, done) {
                    use_mount(mounted, round);
                    round += 1;
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    Stamps::open(&stamps).set(DONE, done.into_inner());
}

/// When the time is over, and enough was done for it to say something.
fn is_over(end: Instant, done: &AtomicU64) -> bool {
    Instant::now() >= end && done.load(Ordering::Relaxed) >= WANTED
}

/// In the store: what the mount is about to work on is exchanged with something else.
fn exchange(outside: &Path, is_over: impl Fn() -> bool) {
    let bait = Path::new("bait");
    fs::create_dir_all(bait).expect("his own folder");
    symlink(outside.join("program"), bait.join("program")).expect("made");
    symlink(outside.join("secret"), bait.join("secret")).expect("made");
    symlink(outside, bait.join("folder")).expect("made");
    symlink(outside.join("d"), bait.join("below")).expect("made");
    symlink("/dev/null", bait.join("device")).expect("made");
    mknodat(CWD, bait.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o666), 0).expect("made");
    fs::write(bait.join("file"), vec![0x4b; 9000]).expect("made");
    while !is_over() {
        for name in ["program", "secret", "folder", "below", "device", "fifo", "file"] {
            for victim in ["f", "d", "g"] {
                let swap = || {
                    renameat_with(CWD, bait.join(name), CWD, victim, RenameFlags::EXCHANGE).is_ok()
                };
                if swap() {
                    std::thread::yield_now();
                    swap();
                }
            }
        }
    }
}

/// What is opened may be a fifo by now.
fn waiting_for_nobody() -> OpenOptions {
    let mut options = File::options();
    options.custom_flags(libc::O_NONBLOCK);
    options
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let mut options = waiting_for_nobody();
    options.write(true).create(true).truncate(true).open(path)?.write_all(text.as_bytes())
}

/// In the mount: each kind of request, on names that are being exchanged. All may fail.
fn use_mount(at: &Path, round: u64) {
    let name = if round.is_multiple_of(3) { "g" } else { "f" };
    let (file, dir) = (at.join(name), at.join("d"));
    let _ = waiting_for_nobody().write(true).create(true).mode(0o644).open(&file);
    let _ = fs::create_dir(&dir);
    let _ = write(&dir.join("f"), "content");
    for mode in [0o4755, 0o666, 0o2777] {
        let _ = fs::set_permissions(&file, Permissions::from_mode(mode));
        let _ = fs::set_permissions(&dir, Permissions::from_mode(mode));
        let _ = fs::set_permissions(dir.join("f"), Permissions::from_mode(mode));
    }
    let _ = chown(&file, None, Some(NOBODY));
    if let Ok(opened) = waiting_for_nobody().read(true).write(true).open(&file) {
        let _ = opened.write_at(b"overwritten", 0);
        let _ = opened.set_len(5000);
        let _ = opened.set_modified(std::time::SystemTime::UNIX_EPOCH);
        let _ = rustix::fs::fallocate(&opened, rustix::fs::FallocateFlags::empty(), 0, 20_000);
        let _ = opened.sync_all();
    }
    let mut bytes = Vec::new();
    let _ = waiting_for_nobody().read(true).open(&file).and_then(|mut f| f.read_to_end(&mut bytes));
    let _ = write(&file, "cut and written");
    let utime = libc::utimbuf { actime: 1, modtime: 1 };
    if let Ok(path) = CString::new(file.as_os_str().as_encoded_bytes()) {
        // SAFETY: a C string and a structure that both outlive the call.
        unsafe { libc::utime(path.as_ptr(), &raw const utime) };
    }
    let _ = rustix::fs::setxattr(&file, "user.note", b"value", XattrFlags::empty());
    let _ = rustix::fs::removexattr(&file, "user.note");
    let _ = fs::read_link(&file);
    let _ = fs::read_dir(&dir).map(Iterator::count);
    let _ = fs::hard_link(&file, at.join("linked"));
    let _ = fs::rename(at.join("linked"), dir.join("moved"));
    let _ = fs::remove_file(dir.join("moved"));
    let _ = fs::remove_file(at.join("linked"));
    let _ = symlink("target", at.join("link"));
    let _ = fs::rename(at.join("link"), at.join("link2"));
    let _ = fs::remove_file(at.join("link2"));
    let _ = fs::remove_file(dir.join("f"));
    let _ = fs::remove_dir(&dir);
    let _ = fs::remove_file(&file);
}
