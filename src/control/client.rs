//! The command line's end of the socket: which daemons there are, and asking them.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Uid};

use super::mounts::{Mount, mounts};
use super::server::{SOCKET, folders, socket_name};
use super::{Answer, Ask, Report, wire};
use crate::disk::DeviceNumber;

/// An answer may have to wait for calls of the KMS: three, each at most three seconds long.
const ANSWER: Duration = Duration::from_secs(15);

/// A mount, or a daemon whose mount is not seen from here.
#[derive(Clone, Debug)]
pub enum Target {
    /// A mount in this mount namespace.
    Here(Mount),
    /// A daemon that serves a mount elsewhere: in another mount namespace.
    Elsewhere {
        /// Where the mount is, as seen there.
        mountpoint: PathBuf,
        /// Its store, as seen there.
        store: PathBuf,
        /// The daemon's socket.
        socket: PathBuf,
        /// Whose it is.
        owner: Uid,
    },
}

impl Target {
    /// Where it is mounted.
    pub fn mountpoint(&self) -> &Path {
        match self {
            Self::Here(mount) => &mount.mountpoint,
            Self::Elsewhere { mountpoint, .. } => mountpoint,
        }
    }

    /// Its store.
    pub fn store(&self) -> &Path {
        match self {
            Self::Here(mount) => &mount.store,
            Self::Elsewhere { store, .. } => store,
        }
    }

    /// Asks the daemon; `None` where none answers.
    ///
    /// # Errors
    /// Of the socket.
    pub fn ask(&self, question: Ask) -> io::Result<Option<Answer>> {
        self.connect().map(|daemon| exchange(&daemon, question)).transpose()
    }

    /// Where things stand; `None` where no daemon answers.
    ///
    /// # Errors
    /// Of the socket.
    pub fn report(&self) -> io::Result<Option<Report>> {
        Ok(match self.ask(Ask::Status)? {
            Some(Answer::Report { report }) => Some(*report),
            _ => None,
        })
    }

    /// The daemon's process.
    pub fn process(&self) -> Option<Pid> {
        let peer = rustix::net::sockopt::socket_peercred(self.connect()?).ok()?;
        Some(peer.pid)
    }

    fn connect(&self) -> Option<UnixStream> {
        match self {
            Self::Here(mount) => folders(mount.owner)
                .into_iter()
                .find_map(|f| open(&f.join(socket_name(mount.device)), mount.owner).ok()),
            Self::Elsewhere { socket, owner, .. } => open(socket, *owner).ok(),
        }
    }
}

/// What is mounted at a path, however it is written; by the path's text what is mounted there
/// elsewhere. More than one answer only where it is elsewhere.
///
/// # Errors
/// Of listing the mounts.
pub fn at(path: &Path) -> io::Result<Vec<Target>> {
    let mounts = mounts()?;
    if let Ok(Some(device)) = DeviceNumber::mounted_at(path)
        && let Some(found) = mounts.iter().rev().find(|m| m.device == device)
    {
        // Of several places at which it is seen, the one that was named.
        let real = fs::canonicalize(path);
        let named = mounts.iter().find(|m| real.as_ref().is_ok_and(|r| *r == m.mountpoint));
        return Ok(vec![Target::Here(named.unwrap_or(found).clone())]);
    }
    let full = std::path::absolute(path)?;
    // Something else is mounted over it.
    if let Some(hidden) = mounts.iter().find(|m| m.mountpoint == full) {
        return Ok(vec![Target::Here(hidden.clone())]);
    }
    let named = |t: &Target| t.mountpoint().to_string_lossy() == full.to_string_lossy();
    Ok(elsewhere(&mounts).filter(named).collect())
}

/// Every mount of this mount namespace once, and every daemon elsewhere.
///
/// # Errors
/// Of listing the mounts.
pub fn all() -> io::Result<Vec<Target>> {
    let mounts = mounts()?;
    let mut here: Vec<Mount> = Vec::new();
    for mount in &mounts {
        if here.iter().all(|known| known.device != mount.device) {
            here.push(mount.clone());
        }
    }
    Ok(here.into_iter().map(Target::Here).chain(elsewhere(&mounts)).collect())
}

/// What serves a store.
///
/// # Errors
/// Of listing the mounts, or of the store's path.
pub fn serving(store: &Path) -> io::Result<Option<Target>> {
    let real = fs::canonicalize(store)?;
    let same = |t: &Target| fs::canonicalize(t.store()).is_ok_and(|s| s == real);
    Ok(all()?.into_iter().find(same))
}

/// The daemons that answer and whose mounts are not among these.
fn elsewhere(mounts: &[Mount]) -> impl Iterator<Item = Target> {
    let here: Vec<String> = mounts.iter().map(|m| socket_name(m.device)).collect();
    let entries = everybodys().into_iter().filter_map(|f| fs::read_dir(f).ok());
    entries.flat_map(Iterator::flatten).map(|entry| entry.path()).filter_map(move |socket| {
        let name = socket.file_name()?.to_str()?;
        if !name.ends_with(SOCKET) || here.iter().any(|known| known == name) {
            return None;
        }
        let owner = Uid::from_raw(fs::symlink_metadata(&socket).ok()?.uid());
        let daemon = open(&socket, owner).ok()?;
        let Ok(Answer::Report { report }) = exchange(&daemon, Ask::Status) else { return None };
        let (mountpoint, store) = (report.mountpoint.into(), report.store.into());
        Some(Target::Elsewhere { mountpoint, store, socket, owner })
    })
}

/// The folders of sockets that this user can use; root can use everybody's.
fn everybodys() -> Vec<PathBuf> {
    let me = rustix::process::geteuid();
    let mut all = folders(me);
    if me.is_root() {
        let users = fs::read_dir("/run/user").into_iter().flatten().flatten();
        all.extend(users.map(|user| user.path().join("kmsfs")));
        let temporary = fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
        let of_user = |path: &PathBuf| {
            let name =
                path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_prefix("kmsfs-"));
            name.is_some_and(|uid| uid.parse::<u32>().is_ok())
        };
        all.extend(temporary.map(|entry| entry.path()).filter(of_user));
    }
    all
}

/// Where root asks, a socket of another user's must not answer for a mount that is not his.
fn open(socket: &Path, owner: Uid) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    if rustix::net::sockopt::socket_peercred(&stream)?.uid != owner {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(stream)
}

fn exchange(daemon: &UnixStream, question: Ask) -> io::Result<Answer> {
    daemon.set_read_timeout(Some(ANSWER))?;
    let mut stream = daemon;
    stream.write_all(&wire::write(question))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(wire::read(&line)?)
}
