//! The daemon's end of the socket.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::Uid;

use super::belief::owned_folder;
use super::peer::credentials;
use super::{Answer, Ask, Host, Peer, wire};
use crate::disk::DeviceNumber;
use crate::keys::Word;
use crate::kms::{KeyArn, KeyRef};
use crate::threads::{Role, spawn};
use crate::xdg;

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
    match xdg::folder("XDG_RUNTIME_DIR") {
        Some(given) => vec![given.join("kmsfs"), temporary],
        // The folder that systemd makes is nobody else's; in /tmp anybody may come first.
        None if owned_folder(usual.parent().expect("it was joined"), user).is_ok() => {
            vec![usual, temporary]
        }
        None => vec![temporary, usual],
    }
}

/// Where this user's sockets and logs lie: no other user can enter it. It is made when a mount
/// has its socket.
pub fn folder() -> PathBuf {
    folders(rustix::process::geteuid()).swap_remove(0)
}

/// Makes that folder where it is absent, and closes it to others: mode 0700.
///
/// # Errors
/// Of making it; and where it is there and another's: in a folder that all may write to,
/// anybody could have made it, to have links followed or sockets replaced.
pub fn make_folder() -> io::Result<()> {
    make(&folder())
}

fn make(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let folder = fs::File::options().read(true).custom_flags(flags).open(path)?;
    let meta = folder.metadata()?;
    if meta.uid() != rustix::process::geteuid().as_raw() || meta.mode() & 0o022 != 0 {
        let why = "it is another user's, or others may write it: remove it, or set XDG_RUNTIME_DIR";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    // As others made it who are the same user: systemd's RuntimeDirectory= makes it 0755.
    if meta.mode() & 0o077 != 0 {
        folder.set_permissions(fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// How the name of every socket ends.
pub(super) const SOCKET: &str = ".sock";

/// The name of the socket of a mount. Not by the volume: two stores can be copies of one.
pub(super) fn socket_name(device: DeviceNumber) -> String {
    format!("{device}{SOCKET}")
}

/// Where the daemon of a volume logs to.
pub fn log_path(volume: &str) -> PathBuf {
    folder().join(format!("{volume}.log"))
}

/// A listening socket, removed when dropped.
pub struct Server {
    path: PathBuf,
    /// Its inode number: the device number of a mount that has ended may be another's, and the
    /// name of its socket too.
    ino: u64,
}

impl Server {
    /// Listens, and answers on a thread of its own.
    ///
    /// # Errors
    /// Of making the folder or the socket.
    pub fn start(mountpoint: &Path, host: Arc<dyn Host>) -> io::Result<Self> {
        make_folder()?;
        let folder = folder();
        let _alone = hold(&folder)?;
        sweep(&folder);
        let path = folder.join(socket_name(DeviceNumber::of(mountpoint)?));
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        // It has its name when it listens: nobody finds one that does not answer yet.
        let new = folder.join(format!("{}.new", std::process::id()));
        let _ = fs::remove_file(&new);
        let listener = UnixListener::bind(&new).map_err(named)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).map_err(named)?;
        let ino = fs::symlink_metadata(&new).map_err(named)?.ino();
        // Whoever left a socket of this name is gone: the device number is this mount's now.
        fs::rename(&new, &path).map_err(named)?;
        let server = Self { path, ino };
        spawn(Role::Control, move || listen(&listener, &host))?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _alone = self.path.parent().map(hold);
        if fs::symlink_metadata(&self.path).is_ok_and(|m| m.ino() == self.ino) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Holds the folder: one daemon at a time gives a socket its name or removes one. Two could remove
/// a new socket for the dead one whose name it has just taken.
fn hold(folder: &Path) -> io::Result<fs::File> {
    let held = fs::File::open(folder)?;
    flock(&held, FlockOperation::LockExclusive)?;
    Ok(held)
}

/// Removes the sockets of daemons that were killed. The folder is held.
fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_socket = entry.file_name().to_string_lossy().ends_with(SOCKET);
        let refused = |e: &io::Error| e.kind() == io::ErrorKind::ConnectionRefused;
        if is_socket && UnixStream::connect(&path).is_err_and(|e| refused(&e)) {
            let _ = fs::remove_file(&path);
        }
    }
}

/// How long is waited after a connection that could not be taken, or be given a thread.
const BACK_OFF: Duration = Duration::from_millis(200);

fn listen(listener: &UnixListener, host: &Arc<dyn Host>) {
    loop {
        let taken = listener.accept().and_then(|(stream, _)| {
            let host = host.clone();
            // One that asks slowly holds up itself alone.
            spawn(Role::ControlClient, move || serve(&stream, &*host)).map(drop)
        });
        match taken {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => {
                // Without a descriptor to spare (EMFILE), it would fail again at once.
                log::warn!("cannot accept connections on the control socket for now: {e}");
                std::thread::sleep(BACK_OFF);
            }
        }
    }
}

fn serve(stream: &UnixStream, host: &dyn Host) -> io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let peer = credentials(stream)?;
    let answer = if peer.uid.is_root() || peer.uid == rustix::process::geteuid() {
        let mut line = String::new();
        BufReader::new(stream.take(LONGEST)).read_line(&mut line)?;
        match wire::read(&line) {
            Ok(_) if !host.is_mounted() => failed("it has been unmounted".to_owned()),
            Ok(ask) => {
                let pid = peer.pid.map_or(0, |pid| pid.as_raw_nonzero().get().unsigned_abs());
                answer(ask, host, Peer { uid: peer.uid.as_raw(), pid })
            }
            Err(e) => failed(format!(
                "not understood by kmsfs {}, which runs the mount: {e}",
                env!("CARGO_PKG_VERSION")
            )),
        }
    } else {
        failed("this socket is for the mount's owner and root".to_owned())
    };
    let mut stream = stream;
    stream.write_all(&wire::write(answer))
}

fn answer(ask: Ask, host: &dyn Host, by: Peer) -> Answer {
    match ask {
        Ask::Status => match host.report() {
            Some(report) => Answer::Report { report: Box::new(report) },
            None => failed("it is being unmounted".to_owned()),
        },
        Ask::Metrics => match host.metrics() {
            Some(text) => Answer::Metrics { text },
            None => failed("it is being unmounted".to_owned()),
        },
        Ask::Lock => {
            host.lock(by);
            Answer::Done
        }
        Ask::Unlock => {
            host.unlock(by);
            Answer::Done
        }
        Ask::Follow { asked, master } => {
            let word = Word { asked: KeyRef(asked), master: KeyArn(master) };
            host.follow(&word, by).map_or_else(failed, |()| Answer::Done)
        }
        Ask::Shred { inode } => host.shred(inode, by).map_or_else(failed, |()| Answer::Done),
    }
}

fn failed(why: String) -> Answer {
    Answer::Failed { why }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It was used as it was: with others' eyes on the sockets in it, and through a link.
    #[test]
    fn the_folder_of_sockets_is_closed_or_refused() {
        let all = tempfile::tempdir().expect("a folder");
        let at = |name: &str| all.path().join(name);
        let mode = |name: &str| fs::metadata(at(name)).expect("there").mode() & 0o777;
        let with = |name: &str, mode: u32| {
            fs::create_dir(at(name)).expect("made");
            fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).expect("set");
        };
        make(&at("new")).expect("made");
        with("open", 0o755);
        make(&at("open")).expect("closed");
        assert_eq!((mode("new"), mode("open")), (0o700, 0o700));
        with("shared", 0o770);
        assert!(make(&at("shared")).is_err());
        std::os::unix::fs::symlink(at("new"), at("link")).expect("made");
        assert!(make(&at("link")).is_err());
    }
}
