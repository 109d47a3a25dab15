//! Extended attributes, of which the kernel does not say how long they are.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStringExt;

use rustix::path::Arg;

use super::sys;

/// Room for nearly all of them: ext4 keeps no larger ones.
const ROOM: usize = 4096;

/// What `get` writes, called with growing buffers until it fits; an attribute, or the list of
/// their names, is at most 64 KiB (xattr(7)).
pub(super) fn value(get: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> io::Result<Vec<u8>> {
    let mut first = [0; ROOM];
    match get(&mut first) {
        Err(rustix::io::Errno::RANGE) => {}
        got => return Ok(first[..got?].to_vec()),
    }
    let mut buf = vec![0; 1 << 16];
    let n = get(&mut buf)?;
    buf.truncate(n);
    Ok(buf)
}

/// getxattrat(2) of an entry of a folder: a quarter of the time of the way through /proc. `None`
/// where an older kernel, or a container's filter, does not know the call.
pub(super) fn of_entry(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    attribute: &OsStr,
) -> Option<io::Result<Vec<u8>>> {
    let get = |buf: &mut [u8]| {
        name.into_with_c_str(|name| {
            attribute.into_with_c_str(|attribute| sys::getxattr_at(dir, name, attribute, buf))
        })
    };
    match value(get) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => None,
        got => Some(got),
    }
}

/// The names in a list that `get` writes (listxattr(2)).
pub(super) fn names(
    get: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
) -> io::Result<Vec<OsString>> {
    let list = value(get)?;
    let names = list.split(|&b| b == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| OsString::from_vec(name.to_vec())).collect())
}
