//! File handles (name_to_handle_at(2)), which outlive every descriptor.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `struct file_handle`, with room for the longest.
#[repr(C)]
#[derive(Clone)]
pub struct Handle {
    bytes: u32,
    kind: i32,
    opaque: [u8; 128],
}

impl Handle {
    /// The handle of what a path leads to, a symbolic link too.
    pub fn of(path: &Path) -> Self {
        let mut handle = Self { bytes: 128, kind: 0, opaque: [0; 128] };
        let path = CString::new(path.as_os_str().as_bytes()).expect("a path holds no NUL");
        let mut mount = 0;
        // SAFETY: the kernel reads the path and writes at most `bytes` bytes of the handle.
        let r = unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                libc::AT_FDCWD,
                path.as_ptr(),
                &raw mut handle,
                &raw mut mount,
                0,
            )
        };
        assert_eq!(r, 0, "{path:?}: {}", io::Error::last_os_error());
        handle
    }

    /// Opens what it names, on the filesystem that `mount` lies on.
    pub fn open(&self, mount: &File, flags: i32) -> io::Result<File> {
        // Programs that other tests start must not hold it.
        let flags = flags | libc::O_CLOEXEC;
        // SAFETY: the kernel reads the handle.
        let fd = unsafe {
            libc::syscall(libc::SYS_open_by_handle_at, mount.as_raw_fd(), &raw const *self, flags)
        };
        let fd = i32::try_from(fd).expect("a descriptor, or -1");
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it is a new descriptor of ours.
        Ok(unsafe { File::from_raw_fd(fd) })
    }
}
