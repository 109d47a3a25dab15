//! A connection to a daemon: whose it is is known, and nothing lasts or grows without a bound.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
use rustix::process::{Pid, PidfdFlags, Uid, pidfd_open};

use super::belief::owned_folder;
use super::peer::{Credentials, credentials};
use super::{Answer, Ask, wire};
use crate::clock::Moment;

/// To a socket whose listener takes nobody.
const CONNECT: Duration = Duration::from_secs(2);
/// The longest answer. A report with thousands of master keys is shorter.
const LONGEST: usize = 1 << 20;

/// How long a daemon has for its answer, from the question's first byte to the answer's last.
fn patience(question: &Ask) -> Duration {
    match question {
        Ask::Status | Ask::Metrics => Duration::from_secs(5),
        // These may have to wait for calls of the KMS: three, each at most ten seconds long.
        Ask::Lock | Ask::Unlock | Ask::Follow { .. } | Ask::Shred { .. } => Duration::from_secs(35),
    }
}

/// A daemon's process. Unlike the name of its socket, which the next mount may be given, it is
/// nobody else's.
#[derive(Clone, Debug)]
pub struct Process {
    pid: Pid,
    handle: Arc<OwnedFd>,
}

impl Process {
    /// A handle on it.
    ///
    /// # Errors
    /// Of dup(2).
    pub fn handle(&self) -> io::Result<OwnedFd> {
        self.handle.try_clone()
    }
}

/// A daemon that is a process of a known user's.
pub(super) struct Connection {
    stream: UnixStream,
    peer: Credentials,
}

impl Connection {
    /// Connects to a user's daemon. Where root asks, a socket of another user's must not answer
    /// for a mount that is not his.
    ///
    /// # Errors
    /// Of connecting; `PermissionDenied` where the folder is another user's, `AddrInUse` where the
    /// process is.
    pub(super) fn open(path: &Path, owner: Uid) -> io::Result<Self> {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
        let file = openat2(owned_folder(folder, owner)?, name, flags, Mode::empty(), within)?;
        let fd = socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        // connect(2) waits as long as a write does.
        set_socket_timeout(&fd, Timeout::Send, Some(CONNECT))?;
        connect(&fd, &SocketAddrUnix::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?)?;
        let stream = UnixStream::from(fd);
        let peer = credentials(&stream)?;
        if peer.uid != owner {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        Ok(Self { stream, peer })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// Of the socket; `TimedOut` and `InvalidData` where the answer takes too long, is too long or
    /// says nothing that is known.
    pub(super) fn ask(&self, question: Ask) -> io::Result<Answer> {
        let until = Moment::now() + patience(&question);
        self.stream.set_write_timeout(Some(patience(&question)))?;
        (&self.stream).write_all(&wire::write(question))?;
        let line = self.read_line(until)?;
        let line = std::str::from_utf8(&line)
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        Ok(wire::read(line)?)
    }

    fn read_line(&self, until: Moment) -> io::Result<Vec<u8>> {
        let (mut line, mut buf) = (Vec::new(), [0; 8192]);
        loop {
            let left = until.since(Moment::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            let n = match (&self.stream).read(&mut buf) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            let end = buf[..n].iter().position(|b| *b == b'\n');
            line.extend_from_slice(&buf[..end.unwrap_or(n)]);
            if n == 0 || end.is_some() {
                return Ok(line);
            }
            if line.len() > LONGEST {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer has no end"));
            }
        }
    }

    /// Whether a process that is known by this handle answers here.
    pub(super) fn is_of(&self, process: &Process) -> bool {
        // Alive after the numbers were compared: its number is nobody else's.
        self.peer.pid == Some(process.pid) && !has_ended(&process.handle, 0)
    }

    /// What the daemon is known by for later.
    pub(super) fn answering(&self) -> Option<Process> {
        Some(Process { pid: self.peer.pid?, handle: Arc::new(self.process()?) })
    }

    /// A handle on the daemon's process, and on no other: its number is another's when it has
    /// ended, and whoever listened may have handed his socket on.
    pub(super) fn process(&self) -> Option<OwnedFd> {
        let pid = self.peer.pid?;
        let handle = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let is_theirs = user_of(pid)? == self.peer.uid;
        // Alive after it was looked at: what was looked at is what the handle is on.
        (is_theirs && !has_ended(&handle, 0)).then_some(handle)
    }
}

/// The effective user of a process (proc_pid_status(5)).
fn user_of(pid: Pid) -> Option<Uid> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    ids.split_whitespace().nth(1)?.parse().ok().map(Uid::from_raw)
}

/// Waits for the end of a process.
pub fn has_ended(process: &OwnedFd, seconds: i64) -> bool {
    let mut wait = [PollFd::new(process, PollFlags::IN)];
    let limit = Timespec { tv_sec: seconds, tv_nsec: 0 };
    !poll(&mut wait, Some(&limit)).is_ok_and(|n| n == 0)
}
