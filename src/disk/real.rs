//! The kernel's own filesystems, through rustix.

use std::any::Any;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{
    self as rfs, AtFlags, FallocateFlags, FlockOperation, Mode, OFlags, RawDir, RenameFlags,
    ResolveFlags, SeekFrom,
};

use super::convert::{self, group, owner, stat_at, stat_of, timestamps, xattr_flags};
use super::{
    Dir, Directory, Entry, File, FileKind, FsStat, Open, OpenFile, Range, Replace, Stat,
    TimeChange, Wait, XattrHow,
    pin::{Pin, link, reopen},
    place::Place,
    sys, xattrs,
};

#[derive(Debug)]
pub(super) struct RealDir(pub(super) OwnedFd, Arc<Place>);
#[derive(Debug)]
pub(super) struct RealFile(pub(super) OwnedFd, pub(super) Arc<Place>);

/// Opens one entry of a directory, and nothing that it leads to: no symbolic link, no other
/// filesystem that is mounted over it (openat2(2)). Whoever can change the store's folders beneath a
/// mount leads it nowhere else.
fn open_entry(dir: &OwnedFd, name: &OsStr, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    /// A sandbox around the daemon may not know the call, which Linux has since 5.6.
    static UNKNOWN: AtomicBool = AtomicBool::new(false);
    const NOWHERE_ELSE: ResolveFlags = ResolveFlags::BENEATH
        .union(ResolveFlags::NO_SYMLINKS)
        .union(ResolveFlags::NO_MAGICLINKS)
        .union(ResolveFlags::NO_XDEV);
    if !UNKNOWN.load(Ordering::Relaxed) {
        match rfs::openat2(dir, name, flags, mode, NOWHERE_ELSE) {
            Err(rustix::io::Errno::NOSYS) => UNKNOWN.store(true, Ordering::Relaxed),
            opened => return Ok(opened?),
        }
    }
    Ok(rfs::openat(dir, name, flags | OFlags::NOFOLLOW, mode)?)
}

/// Opens a directory by its path, following symbolic links: for what the user typed.
pub fn open_dir(path: &Path) -> io::Result<Dir> {
    let fd = rfs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    RealDir::top(fd)
}

/// Opens the directory that `path` lies in, and gives its last component.
pub fn open_parent(path: &Path) -> io::Result<(Dir, OsString)> {
    let name = path.file_name().ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    let parent = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    Ok((open_dir(parent)?, name.to_owned()))
}

impl OpenFile for RealFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match rustix::io::pread(&self.0, &mut buf[done..], at + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(done)
    }

    fn read_at_hand(&self, buf: &mut [u8], at: u64) -> io::Result<Option<usize>> {
        let len = buf.len();
        let flags = rustix::io::ReadWriteFlags::NOWAIT;
        match rustix::io::preadv2(&self.0, &mut [io::IoSliceMut::new(buf)], at, flags) {
            Ok(n) if n == len => Ok(Some(n)),
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            // Part of it, or a filesystem that cannot do this (tmpfs).
            _ => self.read_at(buf, at).map(Some),
        }
    }

    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            match rustix::io::pwrite(&self.0, &buf[done..], at + done as u64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => done += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        Ok(rfs::ftruncate(&self.0, size)?)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(rfs::fdatasync(&self.0)?)
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(rfs::fsync(&self.0)?)
    }

    fn start_writeback(&self, at: u64, len: u64) -> io::Result<()> {
        sys::start_writeback(self.0.as_fd(), at, len)
    }

    fn wait_writeback(&self, at: u64, len: u64) -> io::Result<()> {
        sys::wait_writeback(self.0.as_fd(), at, len)
    }

    fn range(&self, how: Range, at: u64, len: u64) -> io::Result<()> {
        let flags = match how {
            Range::Reserve => FallocateFlags::KEEP_SIZE,
            Range::Punch => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        };
        Ok(rfs::fallocate(&self.0, flags, at, len)?)
    }

    fn seek_data(&self, at: u64) -> io::Result<Option<u64>> {
        match rfs::seek(&self.0, SeekFrom::Data(at)) {
            Ok(pos) => Ok(Some(pos)),
            Err(rustix::io::Errno::NXIO) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn seek_hole(&self, at: u64) -> io::Result<u64> {
        Ok(rfs::seek(&self.0, SeekFrom::Hole(at))?)
    }

    fn stat(&self) -> io::Result<Stat> {
        Ok(self.1.within(stat_of(&self.0)?))
    }

    fn identity(&self) -> io::Result<[u8; 16]> {
        convert::identity(self.0.as_fd())
    }

    fn size(&self) -> io::Result<u64> {
        // The descriptor's own position, which this moves, is used by nobody.
        Ok(rfs::seek(&self.0, SeekFrom::End(0))?)
    }

    fn mode(&self) -> io::Result<u32> {
        let wanted = rfs::StatxFlags::TYPE | rfs::StatxFlags::MODE;
        Ok(rfs::statx(&self.0, c"", AtFlags::EMPTY_PATH, wanted)?.stx_mode.into())
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        Ok(rfs::fchmod(&self.0, Mode::from_raw_mode(mode))?)
    }

    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        Ok(rfs::fchown(&self.0, owner(uid), group(gid))?)
    }

    fn set_times(&self, atime: TimeChange, mtime: TimeChange) -> io::Result<()> {
        Ok(rfs::futimens(&self.0, &timestamps(atime, mtime))?)
    }

    fn xattr(&self, name: &OsStr) -> io::Result<Vec<u8>> {
        xattrs::value(|buf| rfs::fgetxattr(&self.0, name, buf))
    }

    fn set_xattr(&self, name: &OsStr, value: &[u8], how: XattrHow) -> io::Result<()> {
        Ok(rfs::fsetxattr(&self.0, name, value, xattr_flags(how))?)
    }

    fn xattrs(&self) -> io::Result<Vec<OsString>> {
        xattrs::names(|buf| rfs::flistxattr(&self.0, buf))
    }

    fn remove_xattr(&self, name: &OsStr) -> io::Result<()> {
        Ok(rfs::fremovexattr(&self.0, name)?)
    }

    fn reopen(&self) -> io::Result<File> {
        reopen(&self.0, &self.1)
    }

    fn link(&self, to: &dyn Directory, new: &OsStr) -> io::Result<()> {
        link(&self.0, to, new)
    }

    fn readlink(&self) -> io::Result<OsString> {
        Err(io::Error::from_raw_os_error(libc::EINVAL))
    }

    fn lock(&self, wait: Wait) -> io::Result<()> {
        let op = match wait {
            Wait::Block => FlockOperation::LockExclusive,
            Wait::Try => FlockOperation::NonBlockingLockExclusive,
        };
        loop {
            match rfs::flock(&self.0, op) {
                Err(rustix::io::Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }
}

impl RealDir {
    /// A directory that others are opened from.
    pub(super) fn top(fd: OwnedFd) -> io::Result<Dir> {
        let place = Place::of(&fd, &stat_of(&fd)?);
        Ok(Arc::new(Self(fd, Arc::new(place))))
    }

    /// In a mount of its own, which open_tree(2) made.
    pub(super) fn top_of_mount(fd: OwnedFd, mount: OwnedFd) -> io::Result<Dir> {
        let place = Place::in_mount(mount, &fd, &stat_of(&fd)?);
        Ok(Arc::new(Self(fd, Arc::new(place))))
    }

    /// The entry's path through /proc, for the calls that take no directory descriptor.
    fn proc_path(&self, name: &OsStr) -> PathBuf {
        let mut path = PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()));
        path.push(name);
        path
    }
}

/// What a descriptor that was opened to enter a folder alone (O_PATH) cannot do is what its mode
/// forbids.
fn not_listed(e: rustix::io::Errno) -> rustix::io::Errno {
    if e == rustix::io::Errno::BADF { rustix::io::Errno::ACCESS } else { e }
}

pub(super) fn real(dir: &dyn Directory) -> io::Result<&RealDir> {
    dir.as_any().downcast_ref().ok_or_else(|| io::Error::from_raw_os_error(libc::EXDEV))
}

impl Directory for RealDir {
    fn open(&self, name: &OsStr, how: Open) -> io::Result<File> {
        let base = OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOCTTY;
        let (flags, mode) = match how {
            Open::Read => (base | OFlags::RDONLY | OFlags::NONBLOCK, 0),
            Open::ReadWrite => (base | OFlags::RDWR | OFlags::NONBLOCK, 0),
            Open::Create(mode) => (base | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, mode),
            Open::Nameless(mode) => (base | OFlags::RDWR | OFlags::TMPFILE, mode),
            Open::Pin => (OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::PATH, 0),
        };
        let fd = open_entry(&self.0, name, flags, Mode::from_raw_mode(mode))?;
        let place = self.1.clone();
        Ok(match how {
            Open::Pin => Arc::new(Pin::new(fd, place)),
            _ => Arc::new(RealFile(fd, place)),
        })
    }

    fn open_dir(&self, name: &OsStr) -> io::Result<Dir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match open_entry(&self.0, name, flags, Mode::empty()) {
            // A folder that may be entered and not listed: what is in it can be reached all the same.
            Err(e) if e.raw_os_error() == Some(libc::EACCES) => {
                let entered = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                open_entry(&self.0, name, entered, Mode::empty())?
            }
            opened => opened?,
        };
        Ok(Arc::new(RealDir(fd, self.1.clone())))
    }

    fn stat(&self, name: &OsStr) -> io::Result<Stat> {
        let stat = stat_at(&self.0, name)?;
        Ok(self.1.beside(&self.0, name, stat))
    }

    fn stat_self(&self) -> io::Result<Stat> {
        Ok(self.1.within(stat_of(&self.0)?))
    }

    fn mkdir(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        Ok(rfs::mkdirat(&self.0, name, Mode::from_raw_mode(mode))?)
    }

    fn mknod(&self, name: &OsStr, mode: u32, rdev: u64) -> io::Result<()> {
        let kind = rfs::FileType::from_raw_mode(mode);
        let mode = Mode::from_raw_mode(mode & 0o7777);
        Ok(rfs::mknodat(&self.0, name, kind, mode, rdev)?)
    }

    fn symlink(&self, name: &OsStr, target: &OsStr) -> io::Result<()> {
        Ok(rfs::symlinkat(target, &self.0, name)?)
    }

    fn readlink(&self, name: &OsStr) -> io::Result<OsString> {
        let target = rfs::readlinkat(&self.0, name, Vec::with_capacity(128))?;
        Ok(OsString::from_vec(target.into_bytes()))
    }

    fn link(&self, name: &OsStr, to: &dyn Directory, new: &OsStr) -> io::Result<()> {
        Ok(rfs::linkat(&self.0, name, &real(to)?.0, new, AtFlags::empty())?)
    }

    fn unlink(&self, name: &OsStr) -> io::Result<()> {
        Ok(rfs::unlinkat(&self.0, name, AtFlags::empty())?)
    }

    fn rmdir(&self, name: &OsStr) -> io::Result<()> {
        Ok(rfs::unlinkat(&self.0, name, AtFlags::REMOVEDIR)?)
    }

    fn rename(
        &self,
        name: &OsStr,
        to: &dyn Directory,
        new: &OsStr,
        how: Replace,
    ) -> io::Result<()> {
        let to = &real(to)?.0;
        let flags = match how {
            Replace::Over => return Ok(rfs::renameat(&self.0, name, to, new)?),
            Replace::Never => RenameFlags::NOREPLACE,
            Replace::Exchange => RenameFlags::EXCHANGE,
            Replace::Whiteout => RenameFlags::WHITEOUT,
        };
        Ok(rfs::renameat_with(&self.0, name, to, new, flags)?)
    }

    fn xattr(&self, name: &OsStr, attr: &OsStr) -> io::Result<Vec<u8>> {
        if let Some(got) = xattrs::of_entry(self.0.as_fd(), name, attr) {
            return got;
        }
        let path = self.proc_path(name);
        xattrs::value(|buf| rfs::lgetxattr(&path, attr, buf))
    }

    fn xattrs(&self, name: &OsStr) -> io::Result<Vec<OsString>> {
        let path = self.proc_path(name);
        xattrs::names(|buf| rfs::llistxattr(&path, buf))
    }

    fn list(&self, cookie: u64, visit: &mut dyn FnMut(Entry) -> bool) -> io::Result<()> {
        rfs::seek(&self.0, SeekFrom::Start(cookie)).map_err(not_listed)?;
        let mut buf = Vec::with_capacity(32 << 10);
        let mut raw = RawDir::new(&self.0, buf.spare_capacity_mut());
        while let Some(entry) = raw.next() {
            let entry = entry?;
            let kind = match entry.file_type() {
                rfs::FileType::Unknown => None,
                kind => Some(FileKind::of_mode(kind.as_raw_mode())),
            };
            let entry = Entry {
                name: OsStr::from_bytes(entry.file_name().to_bytes()).to_owned(),
                ino: entry.ino(),
                kind,
                next: entry.next_entry_cookie(),
            };
            if !visit(entry) {
                break;
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rfs::fsync(&self.0).map_err(not_listed)?)
    }

    fn sync_filesystem(&self) -> io::Result<()> {
        Ok(rfs::syncfs(&self.0)?)
    }

    fn statfs(&self) -> io::Result<FsStat> {
        let s = rfs::fstatfs(&self.0)?;
        Ok(FsStat {
            kind: s.f_type.unsigned_abs(),
            bsize: s.f_bsize.unsigned_abs(),
            frsize: s.f_frsize.unsigned_abs(),
            blocks: s.f_blocks,
            bfree: s.f_bfree,
            bavail: s.f_bavail,
            files: s.f_files,
            ffree: s.f_ffree,
            namemax: s.f_namelen.unsigned_abs(),
            // statfs(2), f_flags: ST_RDONLY.
            is_read_only: s.f_flags & 1 != 0,
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
