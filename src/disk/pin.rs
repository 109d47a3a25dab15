//! An inode that is only held (O_PATH): its attributes can be looked at and changed, also those
//! of a folder, a FIFO or a symbolic link, and also when its last name is gone.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use rustix::fs::{self as rfs, AtFlags, CWD, Mode, OFlags};

use super::convert::{group, owner, stat_of, timestamps, xattr_flags};
use super::place::Place;
use super::real::{RealFile, real};
use super::{Directory, File, OpenFile, Range, Stat, TimeChange, Wait, XattrHow, xattrs};

#[derive(Debug)]
pub(super) struct Pin(OwnedFd, Arc<Place>);

/// The calls that read and write refuse such a descriptor.
fn bad<T>() -> io::Result<T> {
    Err(io::Error::from_raw_os_error(libc::EBADF))
}

impl Pin {
    pub(super) fn new(fd: OwnedFd, place: Arc<Place>) -> Self {
        Self(fd, place)
    }

    fn proc_path(&self) -> String {
        own_path(&self.0)
    }
}

/// A path that leads to the very inode that is open, a symbolic link too, for the calls that refuse
/// the descriptor itself (proc_pid_fd(5)).
fn own_path(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Opens the inode that is open once more, for reading and writing.
pub(super) fn reopen(fd: &OwnedFd, place: &Arc<Place>) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = rfs::open(own_path(fd), flags, Mode::empty())?;
    Ok(Arc::new(RealFile(fd, place.clone())))
}

/// Gives the inode that is open a name.
pub(super) fn link(fd: &OwnedFd, to: &dyn Directory, new: &OsStr) -> io::Result<()> {
    Ok(rfs::linkat(CWD, own_path(fd), &real(to)?.0, new, AtFlags::SYMLINK_FOLLOW)?)
}

impl OpenFile for Pin {
    fn read_at(&self, _buf: &mut [u8], _at: u64) -> io::Result<usize> {
        bad()
    }

    fn read_at_hand(&self, _buf: &mut [u8], _at: u64) -> io::Result<Option<usize>> {
        bad()
    }

    fn write_at(&self, _buf: &[u8], _at: u64) -> io::Result<()> {
        bad()
    }

    fn set_size(&self, _size: u64) -> io::Result<()> {
        bad()
    }

    fn sync_data(&self) -> io::Result<()> {
        bad()
    }

    fn sync_all(&self) -> io::Result<()> {
        bad()
    }

    fn start_writeback(&self, _at: u64, _len: u64) -> io::Result<()> {
        bad()
    }

    fn wait_writeback(&self, _at: u64, _len: u64) -> io::Result<()> {
        bad()
    }

    fn range(&self, _how: Range, _at: u64, _len: u64) -> io::Result<()> {
        bad()
    }

    fn seek_data(&self, _at: u64) -> io::Result<Option<u64>> {
        bad()
    }

    fn seek_hole(&self, _at: u64) -> io::Result<u64> {
        bad()
    }

    fn stat(&self) -> io::Result<Stat> {
        Ok(self.1.within(stat_of(&self.0)?))
    }

    fn identity(&self) -> io::Result<[u8; 16]> {
        bad()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.stat()?.size)
    }

    fn mode(&self) -> io::Result<u32> {
        Ok(self.stat()?.mode)
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        let mode = Mode::from_raw_mode(mode);
        Ok(rfs::chmodat(CWD, self.proc_path(), mode, AtFlags::empty())?)
    }

    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        Ok(rfs::chownat(&self.0, c"", owner(uid), group(gid), AtFlags::EMPTY_PATH)?)
    }

    fn set_times(&self, atime: TimeChange, mtime: TimeChange) -> io::Result<()> {
        Ok(rfs::utimensat(&self.0, c"", &timestamps(atime, mtime), AtFlags::EMPTY_PATH)?)
    }

    fn xattr(&self, name: &OsStr) -> io::Result<Vec<u8>> {
        let path = self.proc_path();
        xattrs::value(|buf| rfs::getxattr(&path, name, buf))
    }

    fn set_xattr(&self, name: &OsStr, value: &[u8], how: XattrHow) -> io::Result<()> {
        Ok(rfs::setxattr(self.proc_path(), name, value, xattr_flags(how))?)
    }

    fn xattrs(&self) -> io::Result<Vec<OsString>> {
        let path = self.proc_path();
        xattrs::names(|buf| rfs::listxattr(&path, buf))
    }

    fn remove_xattr(&self, name: &OsStr) -> io::Result<()> {
        Ok(rfs::removexattr(self.proc_path(), name)?)
    }

    fn reopen(&self) -> io::Result<File> {
        reopen(&self.0, &self.1)
    }

    fn link(&self, to: &dyn Directory, new: &OsStr) -> io::Result<()> {
        link(&self.0, to, new)
    }

    fn readlink(&self) -> io::Result<OsString> {
        let target = rfs::readlinkat(&self.0, c"", Vec::with_capacity(128))?;
        Ok(OsString::from_vec(target.into_bytes()))
    }

    fn lock(&self, _wait: Wait) -> io::Result<()> {
        bad()
    }
}
