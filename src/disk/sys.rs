//! The system calls that rustix does not have.
#![allow(unsafe_code)] // Plain calls into libc, with numbers, and with one structure of numbers.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

fn sync_range(fd: BorrowedFd<'_>, at: u64, len: u64, flags: u32) -> io::Result<()> {
    let at = i64::try_from(at).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    let len = i64::try_from(len).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    // SAFETY: the descriptor is borrowed for the call, and no memory is passed.
    let r = unsafe { libc::sync_file_range(fd.as_raw_fd(), at, len, flags) };
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// sync_file_range(2) with SYNC_FILE_RANGE_WRITE: starts write-back.
pub(super) fn start_writeback(fd: BorrowedFd<'_>, at: u64, len: u64) -> io::Result<()> {
    sync_range(fd, at, len, libc::SYNC_FILE_RANGE_WRITE)
}

/// sync_file_range(2) with SYNC_FILE_RANGE_WAIT_BEFORE: waits for write-back under way.
pub(super) fn wait_writeback(fd: BorrowedFd<'_>, at: u64, len: u64) -> io::Result<()> {
    sync_range(fd, at, len, libc::SYNC_FILE_RANGE_WAIT_BEFORE)
}

/// setfsuid(2) and setfsgid(2) of the calling thread, group first.
///
/// # Errors
/// EPERM where they did not take: neither call says so, and both answer what was before.
pub(super) fn set_fs_ids(uid: u32, gid: u32) -> io::Result<()> {
    /// No user's and no group's: it changes nothing.
    const NOBODYS: u32 = u32::MAX;
    // SAFETY: both calls take and return integers and change the calling thread alone.
    let taken = unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
        (libc::setfsuid(NOBODYS).cast_unsigned(), libc::setfsgid(NOBODYS).cast_unsigned())
    };
    if taken == (uid, gid) { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}

/// unshare(2) with CLONE_FS: of the calling thread's working folder, root folder and umask.
pub(super) fn unshare_fs() -> io::Result<()> {
    // SAFETY: it takes a number; what is no longer shared is no memory and no descriptor.
    let r = unsafe { libc::unshare(libc::CLONE_FS) };
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// mount_setattr(2) of the mount that `mount` is, which open_tree(2) made: the attributes `clear`
/// are taken away, `set` given.
pub(super) fn set_mount_attributes(mount: &OwnedFd, set: u64, clear: u64) -> io::Result<()> {
    // `struct mount_attr`: set, cleared, propagation, user namespace.
    let attributes = [set, clear, 0, 0];
    // SAFETY: the kernel reads as many bytes as it is told the array has, and writes none.
    let r = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Whether the kernel takes no path for an empty one (Linux 6.11).
static TAKES_NO_PATH: AtomicBool = AtomicBool::new(true);

/// statx(2) of an entry of `fd`, or of `fd` itself where there is no name. Without a path the kernel
/// looks none up, which halves its time; an older one takes an empty path.
pub(super) fn statx(
    fd: BorrowedFd<'_>,
    name: Option<&CStr>,
    flags: u32,
    wanted: u32,
) -> rustix::io::Result<libc::statx> {
    let flags = if name.is_none() { flags | libc::AT_EMPTY_PATH.cast_unsigned() } else { flags };
    let call = |path: *const libc::c_char| {
        let mut found = MaybeUninit::<libc::statx>::uninit();
        // SAFETY: the path is null or ends with a NUL, and the kernel fills the structure.
        unsafe {
            if libc::syscall(
                libc::SYS_statx,
                fd.as_raw_fd(),
                path,
                flags,
                wanted,
                found.as_mut_ptr(),
            ) == 0
            {
                Ok(found.assume_init())
            } else {
                Err(last_errno())
            }
        }
    };
    let Some(name) = name else {
        if TAKES_NO_PATH.load(Ordering::Relaxed) {
            match call(std::ptr::null()) {
                Err(Errno::FAULT) => TAKES_NO_PATH.store(false, Ordering::Relaxed),
                done => return done,
            }
        }
        return call(c"".as_ptr());
    };
    call(name.as_ptr())
}

/// The number of getxattrat(2) on every architecture.
const SYS_GETXATTRAT: libc::c_long = 464;

/// getxattrat(2) of an entry of `dir`, which is not followed: its length, or ENOSYS before Linux 6.13.
pub(super) fn getxattr_at(
    dir: BorrowedFd<'_>,
    name: &CStr,
    attribute: &CStr,
    value: &mut [u8],
) -> rustix::io::Result<usize> {
    /// `struct xattr_args`.
    #[repr(C, align(8))]
    struct Args {
        value: u64,
        size: u32,
        flags: u32,
    }
    let size = u32::try_from(value.len()).unwrap_or(u32::MAX);
    let args = Args { value: value.as_mut_ptr() as u64, size, flags: 0 };
    // SAFETY: both texts end with a NUL; the kernel reads the structure, whose size it is told, and
    // writes no more bytes to the value than that says it has.
    let r = unsafe {
        libc::syscall(
            SYS_GETXATTRAT,
            dir.as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            attribute.as_ptr(),
            &raw const args,
            size_of::<Args>(),
        )
    };
    usize::try_from(r).map_err(|_| last_errno())
}
