//! What the kernel's own filesystems withhold from ordinary users, a mount withholds too: every
//! case is done on the store's own filesystem and over both transports, and compared.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;

use rustix::fs::{
    FallocateFlags, Gid, Uid, XattrFlags, copy_file_range, fallocate, getxattr, setxattr,
};
use rustix::io::Errno;
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::support::{Loop, Store, nobody, run, skipped};

const NOBODY: u32 = 65_534;
/// A group that the user of the cases is in.
const HIS: u32 = 24;
/// One that he is not in.
const OTHERS: u32 = 33;

/// Runs it as an ordinary user, in a thread that is thrown away.
fn as_nobody<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    let become_nobody = || {
        let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
        set_thread_groups(&[Gid::from_raw(HIS)]).expect("root may");
        set_thread_res_gid(gid, gid, gid).expect("root may");
        set_thread_res_uid(uid, uid, uid).expect("root may");
        act()
    };
    std::thread::scope(|scope| scope.spawn(become_nobody).join()).expect("no panic")
}

/// Something that a user does to a file that he may write, or owns.
type Act = fn(&Path) -> io::Result<()>;

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

fn allocate(path: &Path, how: FallocateFlags) -> io::Result<()> {
    Ok(fallocate(&open(path)?, how, 0, 4096)?)
}

/// Memory and ranges as O_DIRECT wants them.
#[repr(align(4096))]
struct Block([u8; 4096]);

const ACTS: &[(&str, Act)] = &[
    ("write", |path| open(path)?.write_all_at(b"x", 1)),
    ("direct write", |path| {
        let direct = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path)?;
        direct.write_all_at(&Block([7; 4096]).0, 0)
    }),
    ("empty write", |path| open(path)?.write_all(b"")),
    ("truncate", |path| open(path)?.set_len(1)),
    ("truncate at open", |path| File::create(path).map(drop)),
    ("fallocate", |path| allocate(path, FallocateFlags::empty())),
    ("reserve", |path| allocate(path, FallocateFlags::KEEP_SIZE)),
    ("punch", |path| allocate(path, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE)),
    ("zero", |path| allocate(path, FallocateFlags::ZERO_RANGE)),
    ("zero within", |path| allocate(path, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE)),
    ("copy_file_range", |path| {
        let (from, to) = (File::open(path.with_file_name("source"))?, open(path)?);
        copy_file_range(&from, None, &to, None, 100)?;
        Ok(())
    }),
    ("chmod", |path| {
        let mode = fs::metadata(path)?.mode() & 0o7777;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    }),
    ("chgrp", |path| chown(path, None, Some(HIS))),
    ("ACL", |path| {
        // The owner, one user, the group, the mask and all others (acl(5)).
        let entries = [(1u16, 7u16, u32::MAX), (2, 6, 1), (4, 7, u32::MAX)];
        let entries = entries.into_iter().chain([(0x10, 7, u32::MAX), (0x20, 6, u32::MAX)]);
        let mut acl = 2u32.to_le_bytes().to_vec();
        for (tag, may, id) in entries {
            acl.extend(tag.to_le_bytes());
            acl.extend(may.to_le_bytes());
            acl.extend(id.to_le_bytes());
        }
        Ok(setxattr(path, "system.posix_acl_access", &acl, XattrFlags::empty())?)
    }),
];

/// What came of it: the errno, and the mode.
type Came = (Option<i32>, u32);

fn told((errno, mode): &Came) -> String {
    format!("{errno:?} {mode:o}")
}

fn came_of(folder: &Path, act: Act, mode: u32, (uid, gid): (u32, u32)) -> Came {
    let path = folder.join("file");
    fs::write(folder.join("source"), [7; 5000]).expect("written");
    fs::write(&path, [7; 5000]).expect("written");
    chown(&path, Some(uid), Some(gid)).expect("root may");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("root may");
    let done = as_nobody(|| act(&path));
    let mode = fs::metadata(&path).expect("there").mode();
    fs::remove_file(&path).expect("root may");
    (done.err().and_then(|e| e.raw_os_error()), mode)
}

/// Every act on every kind of file.
fn all(folder: &Path) -> Vec<(String, Came)> {
    let mut all = Vec::new();
    for (what, act) in ACTS {
        for mode in [0o6777, 0o6766, 0o2776, 0o2766, 0o4766] {
            for owner in [(0, 0), (0, HIS), (NOBODY, OTHERS), (NOBODY, HIS)] {
                let case = format!("{what} of {mode:o} of {owner:?}");
                all.push((case, came_of(folder, *act, mode, owner)));
            }
        }
    }
    all
}

/// A folder whose group new entries get, and who makes them: the modes that they have.
fn made(folder: &Path) -> Vec<u32> {
    let mut modes = Vec::new();
    for group in [HIS, OTHERS] {
        let shared = folder.join(format!("shared-{group}"));
        fs::create_dir(&shared).expect("made");
        chown(&shared, None, Some(group)).expect("root may");
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o2777)).expect("root may");
        as_nobody(|| {
            for (name, mode) in [("a", 0o2755), ("b", 0o2745), ("c", 0o6777)] {
                let mut how = OpenOptions::new();
                how.write(true).create_new(true).mode(mode).open(shared.join(name)).expect("made");
            }
            fs::create_dir(shared.join("d")).expect("made");
        });
        for name in ["a", "b", "c", "d"] {
            let meta = fs::metadata(shared.join(name)).expect("there");
            assert_eq!((meta.uid(), meta.gid()), (NOBODY, group), "{name}");
            modes.push(meta.mode());
        }
    }
    modes
}

/// fallocate and copy_file_range left set-id bits where they were, for the kernel leaves them to
/// the daemon; no write, and no ACL either, took set-group-ID from whoever is not in the group.
#[test]
fn set_id_bits_go_when_and_only_when_the_stores_own_filesystem_drops_them() {
    if skipped("fuse") {
        return;
    }
    let natively = tempfile::tempdir().expect("a folder");
    fs::set_permissions(natively.path(), fs::Permissions::from_mode(0o777)).expect("changed");
    let expected = (all(natively.path()), made(natively.path()));
    for transport in ["auto", "off"] {
        let store = Store::new(&[]);
        let mount = store.mount(&["--io-uring", transport, "-o", "suid,dev"]);
        for folder in [mount.root().parent().expect("a parent"), &mount.root()] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).expect("changed");
        }
        let mut wrong = Vec::new();
        for ((case, native), (_, ours)) in expected.0.iter().zip(all(&mount.root())) {
            // Where the store's filesystem cannot do it, there is nothing to compare.
            if native.0 != Some(libc::EOPNOTSUPP) && *native != ours {
                wrong.push(format!("{case}: natively {}, here {}", told(native), told(&ours)));
            }
        }
        assert!(wrong.is_empty(), "over {}: {wrong:#?}", mount.report()["transport"]);
        assert_eq!(made(&mount.root()), expected.1);
    }
}

/// The kernel remembers modes, and does not expect a change of content to change one: it started
/// what a user had written with the set-user-ID bit that was gone.
#[test]
fn a_program_that_a_user_changed_does_not_run_as_its_owner() {
    if skipped("fuse") {
        return;
    }
    let changes: [Act; 4] = [
        |path| open(path)?.write_all_at(b"\x7fELF", 0),
        |path| Ok(fallocate(&open(path)?, FallocateFlags::KEEP_SIZE, 0, 4096)?),
        |path| {
            let (from, to) = (File::open("/usr/bin/id")?, open(path)?);
            io::copy(&mut &from, &mut &to).map(drop)
        },
        |path| {
            let from = File::open(path.with_file_name("source"))?;
            copy_file_range(&from, None, &open(path)?, None, 4096)?;
            Ok(())
        },
    ];
    for transport in ["auto", "off"] {
        let store = Store::new(&[]);
        let mount = store.mount(&["--io-uring", transport, "-o", "suid"]);
        for folder in [mount.root().parent().expect("a parent"), &mount.root()] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).expect("changed");
        }
        fs::copy("/usr/bin/id", mount.at("source")).expect("copied");
        let who = |path: &Path| run(nobody().arg(path).arg("-u")).trim().to_owned();
        for (n, change) in changes.iter().enumerate() {
            let path = mount.at("id");
            fs::copy("/usr/bin/id", &path).expect("copied");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o4777)).expect("root may");
            assert_eq!(who(&path), "0");
            as_nobody(|| change(&path)).expect("everybody may write it");
            assert_eq!(who(&path), "65534", "change {n}, {transport}");
        }
    }
}

/// As capabilities(7) has it: a file whose content changes has none any more, also where the mount
/// knows from memory whether it had any.
#[test]
fn a_file_that_is_written_to_loses_its_capabilities() {
    if skipped("fuse") {
        return;
    }
    // Version 2: CAP_NET_RAW, permitted.
    let capability = [0, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let name = "security.capability";
    for transport in ["auto", "off"] {
        let store = Store::new(&[]);
        let mount = store.mount(&["--io-uring", transport]);
        let at = mount.at("program");
        let of = |path: &Path| {
            let mut value = [0; 64];
            getxattr(path, name, &mut value).map(|len| value[..len].to_vec())
        };
        let set = || setxattr(&at, name, &capability, XattrFlags::empty()).expect("root may");
        let file = File::create(&at).expect("made");
        assert_eq!(of(&at), Err(Errno::NODATA));
        for round in 0..3u64 {
            set();
            assert_eq!(of(&at), Ok(capability.to_vec()));
            file.write_all_at(b"content", round).expect("written");
            assert_eq!(of(&at), Err(Errno::NODATA), "round {round}, {transport}");
        }
        set();
        file.set_len(3).expect("cut");
        assert_eq!(of(&at), Err(Errno::NODATA), "cut, {transport}");
        set();
        fs::rename(&at, mount.at("renamed")).expect("renamed");
        assert_eq!(of(&mount.at("renamed")), Ok(capability.to_vec()));
        drop(file);
        mount.unmount();
        let mount = store.mount(&["--io-uring", transport]);
        assert_eq!(of(&mount.at("renamed")), Ok(capability.to_vec()), "of a file that is known");
        fs::copy(mount.at("renamed"), mount.at("copied")).expect("copied");
        assert_eq!(of(&mount.at("copied")), Err(Errno::NODATA));
    }
}

/// A user filled the blocks that a filesystem keeps for root, and wrote past his quota: both are
/// decided by CAP_SYS_RESOURCE, which the daemon had, and the first by the user id too.
#[test]
fn a_user_does_not_get_the_blocks_that_are_reserved_for_root() {
    if skipped("fuse") {
        return;
    }
    for how in [&[][..], &["--writeback"], &["--io-uring", "off"]] {
        // Half of it is reserved.
        let disk = Loop::new(48 << 20, &["-m", "50"]);
        let store = Store::unmade().at(disk.path().join("store")).made(&[]);
        let mount = store.mount(how);
        for folder in [mount.root().parent().expect("a parent"), &mount.root()] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).expect("changed");
        }
        // Root has been here: its identity is no longer the thread's when the user writes.
        fs::write(mount.at("roots"), b"x").expect("written");
        let mut dd = nobody();
        dd.args(["dd", "if=/dev/zero", "bs=64k", "count=640", "conv=fsync", "status=none"]);
        let of = format!("of={}", mount.at("his").display());
        let full = dd.arg(of).output().expect("started");
        let said = String::from_utf8_lossy(&full.stderr);
        assert!(said.contains("No space left"), "{how:?}: {said}");
        let left = rustix::fs::statfs(disk.path()).expect("mounted");
        let free = left.f_bfree * left.f_bsize.unsigned_abs();
        assert!(free > 12 << 20, "{how:?}: {free} bytes are free, which root's were");
        let roots = File::create(mount.at("roots")).expect("made");
        roots.write_all_at(&vec![7; 4 << 20], 0).expect("root has his own");
        roots.sync_all().expect("root has his own");
    }
}
