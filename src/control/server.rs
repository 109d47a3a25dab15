//! The daemon's end of the socket.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Uid;

use super::{Answer, Ask, Host, Peer};
use crate::threads::{Role, spawn};

/// The longest question.
const LONGEST: u64 = 4096;
const TIMEOUT: Duration = Duration::from_secs(5);

/// Where the sockets of a user's mounts may lie, the likeliest first.
pub(super) fn folders(user: Uid) -> Vec<PathBuf> {
    if user.is_root() {
        return vec![PathBuf::from("/run/kmsfs")];
    }
    let temporary = std::env::temp_dir().join(format!("kmsfs-{}", user.as_raw()));
    let usual = PathBuf::from(format!("/run/user/{}/kmsfs", user.as_raw()));
    if user != rustix::process::geteuid() {
        return vec![usual, temporary];
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(given) => vec![PathBuf::from(given).join("kmsfs"), temporary],
        None => vec![temporary, usual],
    }
}

/// Where this user's sockets and logs lie.
fn folder() -> PathBuf {
    folders(rustix::process::geteuid()).swap_remove(0)
}

/// Makes that folder where it is absent.
///
/// # Errors
/// Of making it; and where it is there and another's: in a folder that all may write to,
/// anybody could have made it, to have links followed or sockets replaced.
pub fn make_folder() -> io::Result<()> {
    let folder = folder();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    let meta = fs::symlink_metadata(&folder)?;
    let mine = meta.uid() == rustix::process::geteuid().as_raw();
    if meta.is_dir() && mine && meta.mode() & 0o022 == 0 {
        return Ok(());
    }
    let why = "it is another user's, or others may write it: remove it, or set XDG_RUNTIME_DIR";
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

/// The socket of a volume.
pub fn socket_path(volume: &str) -> PathBuf {
    folder().join(format!("{volume}.sock"))
}

/// A listening socket, removed when dropped.
pub struct Server(PathBuf);

impl Server {
    /// Listens, and answers on a thread of its own.
    ///
    /// # Errors
    /// Of making the folder or the socket.
    pub fn start(volume: &str, host: Arc<dyn Host>) -> io::Result<Self> {
        let path = socket_path(volume);
        make_folder()?;
        // The store's lock is held: whoever left a socket here is gone.
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        spawn(Role::Control, move || {
            for stream in listener.incoming().flatten() {
                let host = host.clone();
                // One that asks slowly holds up itself alone.
                let _ = spawn(Role::ControlClient, move || serve(&stream, &*host));
            }
        })?;
        Ok(Self(path))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(Path::new(&self.0));
    }
}

fn serve(stream: &UnixStream, host: &dyn Host) -> io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let peer = rustix::net::sockopt::socket_peercred(stream)?;
    let answer = if peer.uid.is_root() || peer.uid == rustix::process::geteuid() {
        let mut line = String::new();
        BufReader::new(stream.take(LONGEST)).read_line(&mut line)?;
        match serde_json::from_str(&line) {
            Ok(ask) => {
                let pid = peer.pid.as_raw_nonzero().get().unsigned_abs();
                answer(ask, host, Peer { uid: peer.uid.as_raw(), pid })
            }
            Err(e) => Answer::Failed(format!("not understood: {e}")),
        }
    } else {
        Answer::Failed("this socket is for the mount's owner and root".to_owned())
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    let mut stream = stream;
    stream.write_all(&text)
}

fn answer(ask: Ask, host: &dyn Host, by: Peer) -> Answer {
    match ask {
        Ask::Status => match host.report() {
            Some(report) => Answer::Report(Box::new(report)),
            None => Answer::Failed("it is being unmounted".to_owned()),
        },
        Ask::Lock => {
            host.lock(by);
            Answer::Done
        }
        Ask::Unlock => {
            host.unlock(by);
            Answer::Done
        }
        Ask::Follow => host.follow(by).map_or_else(Answer::Failed, |()| Answer::Done),
        Ask::Shred(ino) => host.shred(ino, by).map_or_else(Answer::Failed, |()| Answer::Done),
    }
}
