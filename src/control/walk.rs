//! Follows a path that another user chose. It may lead into a FUSE filesystem whose process is his:
//! once that process has read a request, whoever made it can be neither interrupted nor killed
//! until it is answered, and it may never be.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat, readlinkat};
use rustix::io::Errno;

use super::mounts::{FuseMount, fuse_mount};

/// As many links as the kernel follows (path_resolution(7)).
const MOST_LINKS: u32 = 40;

/// What becomes of a symbolic link at the end of a path. Those before are followed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum LastLink {
    Followed,
    Refused,
}

/// Opens what a path leads to (`O_PATH`), without a request to any FUSE filesystem that may not be
/// entered. A mount that is put in the way meanwhile changes nothing: what was stepped on is looked
/// at before the next step.
///
/// # Errors
/// Of the steps, `ELOOP`, and `PermissionDenied` before such a filesystem.
pub(super) fn open(
    path: &Path,
    last: LastLink,
    may_enter: impl Fn(&FuseMount) -> bool,
) -> io::Result<OwnedFd> {
    let mut steps = steps_of(&std::path::absolute(path)?);
    let mut here = step(CWD, Path::new("/"))?;
    // Every path leads through this one.
    let root = mount_id(&here)?;
    let (mut mount, mut links) = (root, 0);
    while let Some(name) = steps.pop() {
        let there = step(&here, Path::new(&name))?;
        let id = mount_id(&there)?;
        if id != mount && id != root && !fuse_mount(id)?.is_none_or(|fuse| may_enter(&fuse)) {
            let why = format!("{} leads into another user's filesystem", path.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        if FileType::from_raw_mode(fstat(&there)?.st_mode).is_symlink() {
            links += 1;
            if links > MOST_LINKS || (steps.is_empty() && last == LastLink::Refused) {
                return Err(Errno::LOOP.into());
            }
            let target = readlinkat(&there, c"", Vec::new())?.into_bytes();
            steps.extend(steps_of(&PathBuf::from(OsString::from_vec(target))));
            // What the link is relative to is still `here`: the root is one of the steps.
            continue;
        }
        (here, mount) = (there, id);
    }
    Ok(here)
}

/// The steps of a path, the last one first.
fn steps_of(path: &Path) -> Vec<OsString> {
    let steps = path.components().filter(|step| *step != Component::CurDir);
    steps.rev().map(|step| step.as_os_str().to_owned()).collect()
}

fn step(from: impl AsFd, name: &Path) -> rustix::io::Result<OwnedFd> {
    openat(from, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// The mount that an open file was reached through (proc_pid_fdinfo(5)).
fn mount_id(file: &OwnedFd) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    id.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "fdinfo without mnt_id"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn links_and_dots_lead_where_the_kernel_follows_them() {
        let root = tempfile::tempdir().expect("a folder");
        let at = |name: &str| root.path().join(name);
        fs::create_dir_all(at("a/b")).expect("made");
        fs::write(at("a/b/file"), "").expect("written");
        symlink(at("a"), at("absolute")).expect("linked");
        symlink("../a/b", at("a/relative")).expect("linked");
        symlink("circle", at("circle")).expect("linked");
        let number = |path: &str| {
            let found = open(&at(path), LastLink::Followed, |_| true)?;
            Ok::<_, io::Error>(fstat(found)?.st_ino)
        };
        let file = fs::metadata(at("a/b/file")).expect("there").ino();
        for path in ["a/b/file", "absolute/b/file", "a/relative/file", "a/b/../relative/./file"] {
            assert_eq!(number(path).expect("found"), file, "{path}");
        }
        let errno = |path: &str| number(path).expect_err("no file").raw_os_error();
        assert_eq!(errno("circle"), Some(libc::ELOOP));
        assert_eq!(errno("a/none"), Some(libc::ENOENT));
        assert_eq!(errno("a/b/file/x"), Some(libc::ENOTDIR));
        let strictly = |path: &str| open(&at(path), LastLink::Refused, |_| true);
        assert!(strictly("absolute/b").is_ok());
        let refused = strictly("a/relative").expect_err("a link").raw_os_error();
        assert_eq!(refused, Some(libc::ELOOP));
    }
}
