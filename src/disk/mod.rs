//! The seam to the backing filesystem.
//!
//! Everything that touches the store or the keystore goes through [`Directory`] and
//! [`OpenFile`], so that a test can put faults, full disks and power cuts beneath all of it.
//! `real` is the kernel's filesystem, `sim` one in memory, for tests, whose crashes can be replayed.
//!
//! Names are single path components; nothing here walks a path. Errors are `io::Error` with the
//! errno of the system call.

mod convert;
pub mod device;
pub mod identity;
mod number;
mod pin;
mod place;
mod real;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod stat;
mod sys;
mod times;
mod xattrs;

use std::any::Any;
use std::ffi::{OsStr, OsString};
use std::fmt::Debug;
use std::io;
use std::sync::Arc;

pub use number::DeviceNumber;
pub use real::{open_dir, open_parent};
pub use stat::{FileKind, FsStat, Stat, Time, TimeChange};
pub use times::{AccessTimes, Counted, open_dir_with};

/// A directory of the backing filesystem.
pub type Dir = Arc<dyn Directory>;
/// An open file of the backing filesystem.
pub type File = Arc<dyn OpenFile>;

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// For reading.
    Read,
    /// For reading and writing.
    ReadWrite,
    /// A new file (O_CREAT | O_EXCL) for reading and writing, with this mode.
    Create(u32),
    /// As `Create`, in the directory that is named, but without a name (O_TMPFILE).
    Nameless(u32),
    /// Only to hold the inode (O_PATH), of any kind: all that concerns its attributes works,
    /// whatever becomes of its name; nothing else does.
    Pin,
}

/// What `rename` does about an entry that is there already (renameat2(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    /// Replaces it.
    Over,
    /// Fails with EEXIST.
    Never,
    /// Swaps the two.
    Exchange,
    /// Replaces it, and leaves a whiteout in the old place (RENAME_WHITEOUT): a device that overlay
    /// filesystems take for "nothing is here".
    Whiteout,
}

/// What `set_xattr` does about an attribute that is there already (setxattr(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrHow {
    /// Creates or replaces.
    Any,
    /// Fails with EEXIST.
    Create,
    /// Fails with ENODATA where there is none.
    Replace,
}

/// What kind of range to change (fallocate(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// Reserves blocks and keeps the size.
    Reserve,
    /// Frees the range, which then reads as zeros; keeps the size.
    Punch,
}

/// Whether a lock excludes others (flock(2)). It is held until the file is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Waits for the lock.
    Block,
    /// Fails with EWOULDBLOCK.
    Try,
}

/// One entry of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name on disk.
    pub name: OsString,
    /// Its inode number.
    pub ino: u64,
    /// Its kind, where the filesystem says it.
    pub kind: Option<FileKind>,
    /// The position after this entry, to go on from.
    pub next: u64,
}

/// An open file. Offsets and sizes are bytes on disk.
pub trait OpenFile: Send + Sync + Debug {
    /// Reads at `at`; fewer bytes than asked mean the end of the file.
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize>;
    /// Reads as `read_at` does what is in memory; `None` where it is not: then the disk has been
    /// asked for it, and a `read_at` will find it sooner (preadv2(2), RWF_NOWAIT).
    fn read_at_hand(&self, buf: &mut [u8], at: u64) -> io::Result<Option<usize>>;
    /// Writes all of `buf` at `at`.
    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<()>;
    /// Cuts or extends the file.
    fn set_size(&self, size: u64) -> io::Result<()>;
    /// fdatasync(2).
    fn sync_data(&self) -> io::Result<()>;
    /// fsync(2).
    fn sync_all(&self) -> io::Result<()>;
    /// Starts the write-back of a range's dirty pages; `len` 0 means to the end.
    fn start_writeback(&self, at: u64, len: u64) -> io::Result<()>;
    /// Waits for write-back of a range that is under way already.
    fn wait_writeback(&self, at: u64, len: u64) -> io::Result<()>;
    /// fallocate(2).
    fn range(&self, how: Range, at: u64, len: u64) -> io::Result<()>;
    /// The first offset ≥ `at` with data; `None` past the last.
    fn seek_data(&self, at: u64) -> io::Result<Option<u64>>;
    /// The first offset ≥ `at`, which lies within the file, in a hole: its end counts as one.
    fn seek_hole(&self, at: u64) -> io::Result<u64>;
    /// The attributes. The filesystem then gives the next write a time of its own, which costs
    /// more than one that nobody asked about (multigrain timestamps); where the size or the mode
    /// is enough, ask for that.
    fn stat(&self) -> io::Result<Stat>;
    /// What tells the file from every other that is or was on its filesystem, a copy of it among
    /// them: its number, and when it was made where that is kept (statx(2), `stx_btime`).
    fn identity(&self) -> io::Result<[u8; 16]>;
    /// The size on disk, in bytes.
    fn size(&self) -> io::Result<u64>;
    /// The permissions and the type, as in [`Stat`].
    fn mode(&self) -> io::Result<u32>;
    /// fchmod(2).
    fn set_mode(&self, mode: u32) -> io::Result<()>;
    /// fchown(2).
    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()>;
    /// futimens(3).
    fn set_times(&self, atime: TimeChange, mtime: TimeChange) -> io::Result<()>;
    /// fgetxattr(2).
    fn xattr(&self, name: &OsStr) -> io::Result<Vec<u8>>;
    /// fsetxattr(2).
    fn set_xattr(&self, name: &OsStr, value: &[u8], how: XattrHow) -> io::Result<()>;
    /// flistxattr(2).
    fn xattrs(&self) -> io::Result<Vec<OsString>>;
    /// fremovexattr(2).
    fn remove_xattr(&self, name: &OsStr) -> io::Result<()>;
    /// Opens the same inode for reading and writing, whatever became of its name.
    fn reopen(&self) -> io::Result<File>;
    /// linkat(2): gives it a further name; its first, if it was opened nameless.
    fn link(&self, to: &dyn Directory, new: &OsStr) -> io::Result<()>;
    /// readlinkat(2), of a symbolic link that is pinned.
    fn readlink(&self) -> io::Result<OsString>;
    /// flock(2), exclusive.
    fn lock(&self, wait: Wait) -> io::Result<()>;
}

/// A directory. Names are one component; symbolic links are never followed.
///
/// Attributes are changed through an [`OpenFile`] alone: between a look at a name and a change
/// by that name, another file can take it.
pub trait Directory: Send + Sync + Debug {
    /// Opens a file.
    fn open(&self, name: &OsStr, how: Open) -> io::Result<File>;
    /// Opens a sub-directory, or this one again with a listing position of its own (`.`).
    fn open_dir(&self, name: &OsStr) -> io::Result<Dir>;
    /// lstat(2) of an entry.
    fn stat(&self, name: &OsStr) -> io::Result<Stat>;
    /// fstat(2) of the directory.
    fn stat_self(&self) -> io::Result<Stat>;
    /// mkdirat(2).
    fn mkdir(&self, name: &OsStr, mode: u32) -> io::Result<()>;
    /// mknodat(2), of a regular file (then empty), fifo, socket or device.
    fn mknod(&self, name: &OsStr, mode: u32, rdev: u64) -> io::Result<()>;
    /// symlinkat(2).
    fn symlink(&self, name: &OsStr, target: &OsStr) -> io::Result<()>;
    /// readlinkat(2).
    fn readlink(&self, name: &OsStr) -> io::Result<OsString>;
    /// linkat(2).
    fn link(&self, name: &OsStr, to: &dyn Directory, new: &OsStr) -> io::Result<()>;
    /// unlinkat(2).
    fn unlink(&self, name: &OsStr) -> io::Result<()>;
    /// unlinkat(2) with AT_REMOVEDIR.
    fn rmdir(&self, name: &OsStr) -> io::Result<()>;
    /// renameat2(2).
    fn rename(&self, name: &OsStr, to: &dyn Directory, new: &OsStr, how: Replace)
    -> io::Result<()>;
    /// lgetxattr(2).
    fn xattr(&self, name: &OsStr, attr: &OsStr) -> io::Result<Vec<u8>>;
    /// llistxattr(2).
    fn xattrs(&self, name: &OsStr) -> io::Result<Vec<OsString>>;
    /// Lists from `cookie` (0, or an entry's `next`) until `visit` answers false. `.` and `..`
    /// are visited too where the filesystem has them.
    fn list(&self, cookie: u64, visit: &mut dyn FnMut(Entry) -> bool) -> io::Result<()>;
    /// fsync(2).
    fn sync(&self) -> io::Result<()>;
    /// syncfs(2) of the whole filesystem.
    fn sync_filesystem(&self) -> io::Result<()>;
    /// fstatfs(2).
    fn statfs(&self) -> io::Result<FsStat>;
    /// For an implementation to find its own kind in `to` arguments.
    fn as_any(&self) -> &dyn Any;
}

/// Reads a small file whole.
///
/// # Errors
/// `InvalidData` when it is longer than `limit` bytes.
pub fn read_all(dir: &dyn Directory, name: &OsStr, limit: usize) -> io::Result<Vec<u8>> {
    read_opened(&*dir.open(name, Open::Read)?, limit)
}

/// As [`read_all`], of a file that is open.
///
/// # Errors
/// As [`read_all`].
pub fn read_opened(file: &dyn OpenFile, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4096];
    let mut len = 0;
    loop {
        let n = file.read_at(&mut bytes[len..], len as u64)?;
        len += n;
        if n == 0 {
            bytes.truncate(len);
            return Ok(bytes);
        }
        if len > limit {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "file too long"));
        }
        bytes.resize(len + len.clamp(4096, 1 << 20), 0);
    }
}

/// Every name in a directory but `.` and `..`.
pub fn names(dir: &dyn Directory) -> io::Result<Vec<OsString>> {
    let mut all = Vec::new();
    dir.list(0, &mut |e| {
        if e.name != "." && e.name != ".." {
            all.push(e.name);
        }
        true
    })?;
    Ok(all)
}
