//! From what the kernel says of files to what this crate does, and back.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{self as rfs, Timespec, Timestamps, XattrFlags};
use rustix::path::Arg;

use super::sys;
use super::{Stat, Time, TimeChange, XattrHow};

const WANTED: u32 = libc::STATX_BASIC_STATS | libc::STATX_BTIME;

/// statx(2) of an entry: as lstat(2), and when it was made.
pub(super) fn stat_at(fd: impl AsFd, name: &OsStr) -> io::Result<Stat> {
    let flags = libc::AT_SYMLINK_NOFOLLOW.cast_unsigned() | libc::AT_NO_AUTOMOUNT.cast_unsigned();
    let found = name.into_with_c_str(|name| sys::statx(fd.as_fd(), Some(name), flags, WANTED));
    Ok(stat(&found?))
}

/// As [`stat_at`], of what is open.
pub(super) fn stat_of(fd: impl AsFd) -> io::Result<Stat> {
    Ok(stat(&sys::statx(fd.as_fd(), None, 0, WANTED)?))
}

fn stat(s: &libc::statx) -> Stat {
    let time = |t: libc::statx_timestamp| Time { secs: t.tv_sec, nanos: t.tv_nsec };
    let knows_birth = s.stx_mask & libc::STATX_BTIME != 0;
    Stat {
        dev: rfs::makedev(s.stx_dev_major, s.stx_dev_minor),
        ino: s.stx_ino,
        mode: s.stx_mode.into(),
        nlink: s.stx_nlink.into(),
        uid: s.stx_uid,
        gid: s.stx_gid,
        rdev: rfs::makedev(s.stx_rdev_major, s.stx_rdev_minor),
        size: s.stx_size,
        blocks: s.stx_blocks,
        blksize: s.stx_blksize,
        atime: time(s.stx_atime),
        mtime: time(s.stx_mtime),
        ctime: time(s.stx_ctime),
        btime: if knows_birth { time(s.stx_btime) } else { Time::default() },
    }
}

pub(super) fn timestamps(atime: TimeChange, mtime: TimeChange) -> Timestamps {
    let one = |t| match t {
        TimeChange::Keep => Timespec { tv_sec: 0, tv_nsec: rfs::UTIME_OMIT },
        TimeChange::Now => Timespec { tv_sec: 0, tv_nsec: rfs::UTIME_NOW },
        TimeChange::To(t) => Timespec { tv_sec: t.secs, tv_nsec: i64::from(t.nanos) },
    };
    Timestamps { last_access: one(atime), last_modification: one(mtime) }
}

pub(super) fn owner(id: Option<u32>) -> Option<rfs::Uid> {
    id.map(rfs::Uid::from_raw)
}

pub(super) fn group(id: Option<u32>) -> Option<rfs::Gid> {
    id.map(rfs::Gid::from_raw)
}

pub(super) fn xattr_flags(how: XattrHow) -> XattrFlags {
    match how {
        XattrHow::Any => XattrFlags::empty(),
        XattrHow::Create => XattrFlags::CREATE,
        XattrHow::Replace => XattrFlags::REPLACE,
    }
}

/// The inode number, and when the inode was made: zeros where that is not kept.
pub(super) fn identity(file: BorrowedFd<'_>) -> io::Result<[u8; 16]> {
    let Stat { ino, btime, .. } = stat_of(file)?;
    let nanos = i128::from(btime.secs) * 1_000_000_000 + i128::from(btime.nanos);
    let mut identity = [0; 16];
    identity[..8].copy_from_slice(&ino.to_be_bytes());
    // Modulo 2^64 they tell apart what 584 years bring.
    identity[8..].copy_from_slice(&nanos.to_be_bytes()[8..]);
    Ok(identity)
}
