//! What ordinary programs expect of a filesystem.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::process::Command;

use crate::support::device::OpenDevice;
use crate::support::{Ordinary, Store, nobody, run, skipped};

#[test]
fn a_tree_survives_a_remount() {
    if skipped("fuse") {
        return;
    }
    for names in ["encrypted", "plain"] {
        let store = Store::new(&["--names", names]);
        let mount = store.mount(&[]);
        let long = "ü".repeat(120);
        fs::create_dir(mount.at("d")).expect("made");
        fs::write(mount.at(&format!("d/{long}")), vec![7; 300_000]).expect("written");
        fs::hard_link(mount.at(&format!("d/{long}")), mount.at("hard")).expect("linked");
        let target = format!("/{}", "t".repeat(4000));
        std::os::unix::fs::symlink(&target, mount.at("far")).expect("made");
        fs::rename(mount.at("d"), mount.at("e")).expect("renamed");
        let ino = fs::metadata(mount.at("hard")).expect("there").ino();
        mount.unmount();
        let mount = store.mount(&[]);
        let moved = mount.at(&format!("e/{long}"));
        assert_eq!(fs::read(&moved).expect("readable"), vec![7; 300_000]);
        let meta = fs::metadata(&moved).expect("there");
        assert_eq!((meta.ino(), meta.nlink(), meta.len()), (ino, 2, 300_000));
        assert_eq!(fs::read_link(mount.at("far")).expect("a link").to_str(), Some(target.as_str()));
        assert_eq!(fs::symlink_metadata(mount.at("far")).expect("there").len(), 4001);
        assert_eq!(fs::read_dir(mount.root()).expect("listed").count(), 3);
        fs::remove_file(&moved).expect("removed");
        fs::remove_dir(mount.at("e")).expect("empty");
        assert_eq!(fs::read(mount.at("hard")).expect("readable").len(), 300_000);
    }
}

#[test]
fn an_unlinked_file_lives_while_it_is_open() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(mount.at("f"));
    let mut file = file.expect("made");
    file.write_all(b"before").expect("written");
    fs::remove_file(mount.at("f")).expect("removed");
    fs::write(mount.at("f"), b"another").expect("written");
    file.write_all_at(b"after", 100_000).expect("written");
    let mut back = [0; 6];
    file.read_exact_at(&mut back, 0).expect("readable");
    assert_eq!(&back, b"before");
    assert_eq!(file.metadata().expect("there").nlink(), 0);
    assert_eq!(fs::read(mount.at("f")).expect("readable"), b"another");
}

#[test]
fn holes_are_holes_and_truncation_cuts() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    let file = File::create_new(mount.at("f")).expect("made");
    file.write_all_at(b"end", 10 << 20).expect("written");
    assert!(file.metadata().expect("there").blocks() < 100, "a gap takes no space");
    file.set_len(5).expect("cut");
    file.set_len(100).expect("grown");
    file.write_all_at(b"abc", 0).expect("written");
    let mut all = Vec::new();
    File::open(mount.at("f")).expect("opened").read_to_end(&mut all).expect("readable");
    let mut wanted = vec![0; 100];
    wanted[..3].copy_from_slice(b"abc");
    assert_eq!(all, wanted);
}

#[test]
fn files_belong_to_who_makes_them() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    let open = fs::Permissions::from_mode(0o1777);
    fs::set_permissions(mount.root(), open).expect("changed");
    let parent = mount.root().parent().expect("a parent").to_owned();
    fs::set_permissions(parent, fs::Permissions::from_mode(0o755)).expect("changed");
    let as_nobody = |script: &str| {
        let mut command = nobody();
        command.args(["sh", "-c", script]).current_dir(mount.root());
        command
    };
    run(&mut as_nobody("umask 027; echo x > theirs; mkdir d; ln -s x l; mkfifo p"));
    for name in ["theirs", "d", "l", "p"] {
        let meta = fs::symlink_metadata(mount.at(name)).expect("there");
        assert_eq!((meta.uid(), meta.gid()), (65534, 65534), "{name}");
    }
    assert_eq!(fs::metadata(mount.at("theirs")).expect("there").mode() & 0o777, 0o640);
    fs::write(mount.at("ours"), b"x").expect("written");
    fs::set_permissions(mount.at("ours"), fs::Permissions::from_mode(0o600)).expect("changed");
    let refused = as_nobody("cat ours || mv ours gone || rm ours").status().expect("started");
    assert!(!refused.success());
    assert!(mount.at("ours").exists());
}

#[test]
fn attributes_are_sealed_and_come_back() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    fs::write(mount.at("f"), b"x").expect("written");
    let path = mount.at("f");
    rustix::fs::setxattr(&path, "user.colour", b"blue", rustix::fs::XattrFlags::empty())
        .expect("set");
    let mut value = [0; 16];
    let n = rustix::fs::getxattr(&path, "user.colour", &mut value).expect("there");
    assert_eq!(&value[..n], b"blue");
    let n = rustix::fs::listxattr(&path, &mut value).expect("listed");
    assert_eq!(&value[..n], b"user.colour\0");
}

#[test]
fn an_ordinary_user_mounts_too() {
    if skipped("fuse") {
        return;
    }
    let _device = OpenDevice::new();
    let user = Ordinary::new();
    let mut shell = user.shell(
        "./kmsfs init st --no-passphrase; mkdir mnt
        ./kmsfs mount st mnt && perl -e 'chmod(0700, \"mnt\") or die \"chmod: $!\"'
        trap './kmsfs unmount mnt' EXIT
        echo content > mnt/f; test \"$(cat mnt/f)\" = content
        mkdir -m 0 mnt/closed; test \"$(stat -c %a mnt/closed)\" = 0; rmdir mnt/closed
        mkdir mnt/d; mv mnt/f mnt/d/f; ln mnt/d/f mnt/g; cat mnt/g; rm -r mnt/d",
    );
    run(shell.env("XDG_RUNTIME_DIR", user.at("run")));
}

/// Root's `status` said of another user's mount that no daemon answered.
#[test]
fn root_sees_and_locks_the_mounts_of_others() {
    if skipped("fuse") {
        return;
    }
    let _device = OpenDevice::new();
    let user = Ordinary::new();
    run(&mut user.shell("./kmsfs init st --no-passphrase; mkdir mnt; ./kmsfs mount st mnt"));
    let asked = |verb: &str| {
        let mut command = crate::support::kmsfs();
        command.env("TMPDIR", user.folder()).arg(verb).arg(user.at("mnt"));
        command.output().expect("started")
    };
    let status = asked("status");
    let locked = asked("lock");
    let after = asked("status");
    run(&mut user.shell("./kmsfs unmount mnt"));
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    assert!(locked.status.success(), "{}", String::from_utf8_lossy(&locked.stderr));
    assert_eq!(after.status.code(), Some(10));
}

/// Whoever makes the folder of the sockets first, where all may write, could have a log written
/// through a link, or answer in the daemon's place.
#[test]
fn a_socket_folder_of_somebody_else_is_refused() {
    if skipped("fuse") {
        return;
    }
    let _device = OpenDevice::new();
    let user = Ordinary::new();
    fs::create_dir(user.at("kmsfs-65534")).expect("made by root");
    run(&mut user.shell("./kmsfs init st --no-passphrase; mkdir mnt"));
    let output = user.shell("./kmsfs mount st mnt").output().expect("started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(said.contains("another user's"), "{said}");
}

/// How many descriptors a process has open.
fn descriptors(pid: u64) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("a process").count()
}

/// After `rmdir` of a directory that was not empty, `chmod` of it was "Bad file descriptor", and
/// each try cost the daemon a descriptor for good.
#[test]
fn a_directory_that_could_not_be_removed_is_as_it_was() {
    if skipped("fuse") {
        return;
    }
    for names in ["encrypted", "plain"] {
        let store = Store::new(&["--names", names]);
        let mount = store.mount(&[]);
        fs::create_dir(mount.at("other")).expect("made");
        let make = |n: usize| {
            let dir = mount.at(&format!("d{n}"));
            fs::create_dir(&dir).expect("made");
            fs::write(dir.join("x"), b"x").expect("written");
            dir
        };
        let dirs: Vec<_> = (0..60).map(make).collect();
        let before = descriptors(mount.pid());
        for dir in &dirs {
            let not_empty = Some(libc::ENOTEMPTY);
            assert_eq!(fs::remove_dir(dir).expect_err("full").raw_os_error(), not_empty);
            let moved = fs::rename(mount.at("other"), dir);
            assert_eq!(moved.expect_err("full").raw_os_error(), not_empty);
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).expect("changed");
            std::os::unix::fs::chown(dir, Some(7), Some(8)).expect("changed");
            run(Command::new("touch").args(["-d", "2001-02-03"]).arg(dir));
            let meta = fs::metadata(dir).expect("there");
            assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o700, 7, 8));
        }
        let kept = descriptors(mount.pid()).saturating_sub(before);
        // Directories are kept open for a while, those that were entered; these were not.
        assert!(kept < 20, "{kept} descriptors more");
    }
}

/// What is open and has no name any more is changed as if it had one.
#[test]
fn an_open_directory_or_fifo_is_changed_after_its_removal() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    fs::create_dir(mount.at("dir")).expect("made");
    run(Command::new("mkfifo").arg(mount.at("fifo")));
    let dir = File::open(mount.at("dir")).expect("opened");
    let fifo = OpenOptions::new().read(true).write(true).open(mount.at("fifo")).expect("opened");
    fs::remove_dir(mount.at("dir")).expect("removed");
    fs::remove_file(mount.at("fifo")).expect("removed");
    for open in [&dir, &fifo] {
        open.set_permissions(fs::Permissions::from_mode(0o751)).expect("fchmod");
        std::os::unix::fs::fchown(open, Some(7), Some(8)).expect("fchown");
        let then = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        open.set_modified(then).expect("futimens");
        let meta = open.metadata().expect("there");
        assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o751, 7, 8));
        assert_eq!(meta.modified().expect("a time"), then);
        let (name, how) = ("trusted.kmsfs", rustix::fs::XattrFlags::empty());
        rustix::fs::fsetxattr(open, name, b"x", how).expect("fsetxattr");
        let mut value = [0; 4];
        assert_eq!(rustix::fs::fgetxattr(open, name, &mut value).expect("fgetxattr"), 1);
    }
    dir.sync_all().expect("fsync");
    assert_eq!(fs::read_dir(mount.root()).expect("listed").count(), 0);
}

/// An ordinary user's daemon gave itself the bits that it takes to look into a directory before
/// its removal, and left them there.
#[test]
fn a_users_directory_that_could_not_be_removed_keeps_its_mode() {
    if skipped("fuse") {
        return;
    }
    let _device = OpenDevice::new();
    let user = Ordinary::new();
    let mut shell = user.shell(
        "./kmsfs init st --no-passphrase; mkdir mnt
        ./kmsfs mount st mnt
        trap './kmsfs unmount mnt' EXIT
        mkdir mnt/d; touch mnt/d/x; chmod 0300 mnt/d
        ! rmdir mnt/d; test \"$(stat -c %a mnt/d)\" = 300
        mkdir mnt/e; ! mv -T mnt/e mnt/d; test \"$(stat -c %a mnt/d)\" = 300
        rm mnt/d/x; rmdir mnt/d; ! test -e mnt/d",
    );
    run(shell.env("XDG_RUNTIME_DIR", user.at("run")));
}
