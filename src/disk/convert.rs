//! From what the kernel says of files to what this crate does, and back.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{self as rfs, AtFlags, StatxFlags, Timespec, Timestamps, XattrFlags};

use super::{Stat, Time, TimeChange, XattrHow};

pub(super) fn stat_of(s: &rfs::Stat) -> Stat {
    let time = |secs: i64, nanos: u64| Time { secs, nanos: u32::try_from(nanos).unwrap_or(0) };
    Stat {
        dev: s.st_dev,
        ino: s.st_ino,
        mode: s.st_mode,
        nlink: s.st_nlink,
        uid: s.st_uid,
        gid: s.st_gid,
        rdev: s.st_rdev,
        size: s.st_size.unsigned_abs(),
        blocks: s.st_blocks.unsigned_abs(),
        blksize: u32::try_from(s.st_blksize).unwrap_or(4096),
        atime: time(s.st_atime, s.st_atime_nsec),
        mtime: time(s.st_mtime, s.st_mtime_nsec),
        ctime: time(s.st_ctime, s.st_ctime_nsec),
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
    let wanted = StatxFlags::INO | StatxFlags::BTIME;
    let stat = rfs::statx(file, c"", AtFlags::EMPTY_PATH, wanted)?;
    let mut identity = [0; 16];
    identity[..8].copy_from_slice(&stat.stx_ino.to_be_bytes());
    if stat.stx_mask & StatxFlags::BTIME.bits() != 0 {
        let nanos =
            i128::from(stat.stx_btime.tv_sec) * 1_000_000_000 + i128::from(stat.stx_btime.tv_nsec);
        // Modulo 2^64 they tell apart what 584 years bring.
        identity[8..].copy_from_slice(&nanos.to_be_bytes()[8..]);
    }
    Ok(identity)
}
