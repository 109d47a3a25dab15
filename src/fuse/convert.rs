//! Between fuser's types and ours.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, Request, TimeOrNow};

use crate::disk::{FileKind, Time};
use crate::fs::{Attr, SetTime, Who};

pub(super) fn who(req: &Request) -> Who {
    Who { uid: req.uid(), gid: req.gid(), pid: req.pid() }
}

pub(super) fn kind(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Dir => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::Char => FileType::CharDevice,
        FileKind::Block => FileType::BlockDevice,
    }
}

fn system_time(t: Time) -> SystemTime {
    let nanos = Duration::from_nanos(u64::from(t.nanos));
    let whole = Duration::from_secs(t.secs.unsigned_abs());
    let base =
        if t.secs < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    base.and_then(|b| b.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
}

fn time(t: SystemTime) -> Time {
    match t.duration_since(UNIX_EPOCH) {
        Ok(d) => {
            Time { secs: i64::try_from(d.as_secs()).unwrap_or(i64::MAX), nanos: d.subsec_nanos() }
        }
        Err(e) => {
            // Before 1970: whole seconds go down, nanoseconds count up.
            let d = e.duration();
            let secs = -i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
            match d.subsec_nanos() {
                0 => Time { secs, nanos: 0 },
                n => Time { secs: secs - 1, nanos: 1_000_000_000 - n },
            }
        }
    }
}

pub(super) fn set_time(t: TimeOrNow) -> SetTime {
    match t {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(t) => SetTime::To(time(t)),
    }
}

pub(super) fn attr(a: &Attr) -> FileAttr {
    let s = &a.0;
    FileAttr {
        ino: INodeNo(s.ino),
        size: s.size,
        blocks: s.blocks,
        atime: system_time(s.atime),
        mtime: system_time(s.mtime),
        ctime: system_time(s.ctime),
        crtime: UNIX_EPOCH,
        kind: kind(s.kind()),
        perm: (s.mode & 0o7777) as u16,
        nlink: u32::try_from(s.nlink).unwrap_or(u32::MAX),
        uid: s.uid,
        gid: s.gid,
        rdev: rdev_out(s.rdev),
        blksize: s.blksize,
        flags: 0,
    }
}

/// The kernel's 32-bit form of a device number (new_encode_dev).
pub(super) fn rdev_out(rdev: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// Back from it.
pub(super) fn rdev_in(rdev: u32) -> u64 {
    let major = (rdev & 0xfff00) >> 8;
    let minor = (rdev & 0xff) | ((rdev >> 12) & 0xfff00);
    rustix::fs::makedev(major, minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_survive() {
        for t in
            [Time { secs: -2, nanos: 5 }, Time { secs: 0, nanos: 0 }, Time { secs: 9, nanos: 1 }]
        {
            assert_eq!(time(system_time(t)), t);
        }
    }

    #[test]
    fn device_numbers_survive() {
        let dev = rustix::fs::makedev(259, 70_000);
        assert_eq!(rdev_in(rdev_out(dev)), dev);
    }
}
