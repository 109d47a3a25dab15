//! Files without a name, and what overlay filesystems leave in the place of names.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Mount, Store, errno, run, skipped};

fn through_proc(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// A removed file that was open for reading alone could be opened for writing nowhere: ESTALE.
#[test]
fn a_removed_file_is_opened_for_writing_through_proc() {
    if skipped("fuse") {
        return;
    }
    for transport in ["auto", "off"] {
        let store = Store::new(&[]);
        let mount = store.mount(&["--io-uring", transport]);
        fs::write(mount.at("f"), "what was there").expect("written");
        mount.unmount();
        let mount = store.mount(&["--io-uring", transport]);
        let mut reader = File::open(mount.at("f")).expect("opened");
        fs::remove_file(mount.at("f")).expect("removed");
        let writer = OpenOptions::new().write(true).open(through_proc(&reader));
        writer.expect("it is there").write_all_at(b"WHAT", 0).expect("written");
        let mut all = String::new();
        reader.read_to_string(&mut all).expect("readable");
        assert_eq!(all, "WHAT was there");
        let cut = OpenOptions::new().write(true).truncate(true).open(through_proc(&reader));
        cut.expect("it is there").write_all(b"new").expect("written");
        assert_eq!(fs::read(through_proc(&reader)).expect("readable"), b"new");
        assert_eq!(reader.metadata().expect("there").nlink(), 0);
    }
}

fn nameless(mount: &Mount<'_>, flags: i32) -> std::io::Result<File> {
    let mut open = OpenOptions::new();
    open.read(true).write(true).mode(0o640).custom_flags(libc::O_TMPFILE | flags);
    open.open(mount.root())
}

fn link(file: &File, to: &Path) -> rustix::io::Result<()> {
    use rustix::fs::{AtFlags, CWD, linkat};
    linkat(CWD, through_proc(file), CWD, to, AtFlags::SYMLINK_FOLLOW)
}

#[test]
fn a_file_that_was_made_without_a_name_gets_one() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&["--io-uring", "off"]);
    // fuser has no such request.
    assert_eq!(errno(nameless(&mount, 0)), Some(libc::EOPNOTSUPP));
    mount.unmount();
    let mount = store.mount(&[]);
    if mount.report()["transport"] != "io_uring" {
        eprintln!("SKIPPED: io_uring (this kernel's FUSE has none)");
        return;
    }
    let mut file = nameless(&mount, 0).expect("made");
    file.write_all(&[7; 100_000]).expect("written");
    let never = nameless(&mount, libc::O_EXCL).expect("made");
    (&never).write_all(b"nobody's").expect("written");
    assert_eq!(fs::read_dir(mount.root()).expect("listed").count(), 0);
    assert_eq!(
        (never.metadata().expect("there").nlink(), file.metadata().expect("there").nlink()),
        (0, 0)
    );
    assert!(link(&never, &mount.at("never")).is_err(), "O_EXCL says that it gets none");
    link(&file, &mount.at("named")).expect("linked");
    file.write_all(b"end").expect("written");
    drop((file, never));
    let meta = fs::metadata(mount.at("named")).expect("there");
    assert_eq!((meta.nlink(), meta.len(), meta.mode() & 0o777), (1, 100_003, 0o640));
    mount.unmount();
    let mount = store.mount(&[]);
    let all = fs::read(mount.at("named")).expect("readable");
    assert!(all.len() == 100_003 && all[..100_000] == [7; 100_000] && all.ends_with(b"end"));
}

/// An overlay filesystem, unmounted when dropped.
struct Overlay(PathBuf);

impl Overlay {
    fn new(at: PathBuf, lower: &Path, upper: &Path, work: &Path) -> Self {
        fs::create_dir_all(&at).expect("made");
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.display(),
            upper.display(),
            work.display()
        );
        run(Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(&at));
        Self(at)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
    }
}

/// As the roots of containers are: RENAME_WHITEOUT was EINVAL, and such a mount was refused.
#[test]
fn an_overlay_filesystem_keeps_its_changes_in_a_mount() {
    if skipped("fuse") {
        return;
    }
    for names in ["encrypted", "plain"] {
        let store = Store::new(&["--names", names]);
        let mount = store.mount(&[]);
        let lower = store.outside("lower");
        let long = "l".repeat(230);
        fs::create_dir_all(lower.join("folder/below")).expect("made");
        for name in ["kept", "changed", "removed", "moved", &long, "folder/below/deep"] {
            fs::write(lower.join(name), name).expect("written");
        }
        for folder in ["up", "work"] {
            fs::create_dir(mount.at(folder)).expect("made");
        }
        let over =
            |at: &str| Overlay::new(store.outside(at), &lower, &mount.at("up"), &mount.at("work"));
        let check = |overlay: &Overlay| {
            let read = |name: &str| fs::read_to_string(overlay.at(name)).expect("readable");
            assert_eq!(read("kept"), "kept");
            assert_eq!(read("changed"), "changed now");
            assert_eq!(
                (read("elsewhere"), read(&format!("{long}2"))),
                ("moved".into(), long.clone())
            );
            for gone in ["removed", "moved", &long, "folder"] {
                assert_eq!(errno(fs::metadata(overlay.at(gone))), Some(libc::ENOENT), "{gone}");
            }
            assert_eq!(fs::read_dir(&overlay.0).expect("listed").count(), 5);
        };
        let overlay = over("overlay");
        let mut changed = OpenOptions::new().append(true).open(overlay.at("changed"));
        changed.as_mut().expect("opened").write_all(b" now").expect("written");
        drop(changed);
        fs::remove_file(overlay.at("removed")).expect("removed");
        fs::rename(overlay.at("moved"), overlay.at("elsewhere")).expect("moved");
        fs::rename(overlay.at(&long), overlay.at(&format!("{long}2"))).expect("moved");
        fs::remove_dir_all(overlay.at("folder")).expect("removed");
        fs::create_dir(overlay.at("new")).expect("made");
        check(&overlay);
        drop(overlay);
        let whiteout = fs::symlink_metadata(mount.at("up/moved")).expect("there");
        assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
        check(&over("again"));
    }
}
