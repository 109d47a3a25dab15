//! Who is at the other end of a socket.
#![allow(unsafe_code)] // One getsockopt(2): rustix takes a process id of 0 for impossible.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use rustix::process::{Pid, Uid};

/// A process at the other end: the one that connected, or that listened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Credentials {
    /// Its user.
    pub(super) uid: Uid,
    /// Its number; `None` where it has none in this pid namespace.
    pub(super) pid: Option<Pid>,
}

/// `SO_PEERCRED` of unix(7).
///
/// # Errors
/// Of getsockopt(2).
pub(super) fn credentials(socket: &UnixStream) -> io::Result<Credentials> {
    let mut given = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut len = libc::socklen_t::try_from(size_of_val(&given)).expect("twelve bytes");
    // SAFETY: both pointers are to values that outlive the call, and `len` is the size of the first.
    let r = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut given).cast(),
            &raw mut len,
        )
    };
    if r != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Credentials { uid: Uid::from_raw(given.uid), pid: Pid::from_raw(given.pid) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_end_of_a_pair_is_this_process() {
        let (a, _b) = UnixStream::pair().expect("a pair");
        let peer = credentials(&a).expect("a peer");
        assert_eq!(peer.uid, rustix::process::geteuid());
        assert_eq!(peer.pid, Some(rustix::process::getpid()));
    }
}
