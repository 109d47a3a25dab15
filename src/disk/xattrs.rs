//! Extended attributes, of which the kernel does not say how long they are.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;

/// What `get` writes, called with growing buffers until it fits; an attribute, or the list of
/// their names, is at most 64 KiB (xattr(7)).
pub(super) fn value(get: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> io::Result<Vec<u8>> {
    let mut buf = vec![0; 256];
    loop {
        match get(&mut buf) {
            Ok(n) => {
                buf.truncate(n);
                return Ok(buf);
            }
            Err(rustix::io::Errno::RANGE) if buf.len() <= 1 << 16 => buf.resize(buf.len() * 16, 0),
            Err(e) => return Err(e.into()),
        }
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
