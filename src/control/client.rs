//! The command line's end of the socket: which daemons there are, and asking them.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::fs::{Stat, fstat};
use rustix::process::Uid;

use super::belief::{is_believed, is_root_or_caller, owned_folder};
use super::connection::{Connection, Process};
use super::mounts::{Mount, mounts};
use super::server::{SOCKET, folders, socket_name};
use super::walk::{self, LastLink};
use super::{Answer, Ask, Report};
use crate::clock::Moment;
use crate::disk::DeviceNumber;
use crate::threads::{Role, spawn_in};

/// How long the sockets of one user's are tried, all together.
const ONE_USERS: Duration = Duration::from_secs(5);
/// So many of them are asked at once.
const AT_ONCE: usize = 16;

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
        /// Its process; `None` where it has no number in this pid namespace.
        process: Option<Process>,
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

    /// Who mounted it.
    pub fn owner(&self) -> Uid {
        match self {
            Self::Here(mount) => mount.owner,
            Self::Elsewhere { owner, .. } => *owner,
        }
    }

    /// Whether its daemon is asked at all: root's is, the caller's own, and that of whom the store
    /// belongs to. Anybody else may have mounted something under the name of the store.
    pub fn is_believed(&self) -> bool {
        is_believed(self.owner(), self.store())
    }

    /// Asks the daemon; `None` where none answers.
    ///
    /// # Errors
    /// Of the socket; `PermissionDenied` where the daemon is not believed.
    pub fn ask(&self, question: Ask) -> io::Result<Option<Answer>> {
        if !self.is_believed() {
            let (who, store) = (self.owner().as_raw(), self.store().display());
            let why = format!("user {who} mounted it, and the store {store} is not theirs");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        self.connect().map(|daemon| daemon.ask(question)).transpose()
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

    /// The daemon's process, where it is believed.
    pub fn process(&self) -> Option<OwnedFd> {
        match self {
            _ if !self.is_believed() => None,
            Self::Here(_) => self.connect()?.process(),
            Self::Elsewhere { process, .. } => process.as_ref()?.handle().ok(),
        }
    }

    /// Whether some process may listen at its daemon's socket, be it one that stands still.
    pub fn has_listener(&self) -> bool {
        let listens = |path: &PathBuf| match Connection::open(path, self.owner()) {
            Ok(_) => true,
            Err(e) => !matches!(
                e.kind(),
                io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::NotFound
                    | io::ErrorKind::PermissionDenied
            ),
        };
        self.sockets().iter().any(listens)
    }

    /// Connects to the daemon that is meant. A socket is named by its mount's number, and when the
    /// mount has ended the kernel gives that to another mount: what was found before may be gone,
    /// and its socket's name be the other's. So who answers is compared, once connected.
    fn connect(&self) -> Option<Connection> {
        let open = |path: PathBuf| Connection::open(&path, self.owner()).ok();
        let connection = self.sockets().into_iter().find_map(open)?;
        let is_meant = match self {
            Self::Here(mount) => mount.is_there(),
            Self::Elsewhere { process: Some(process), .. } => connection.is_of(process),
            Self::Elsewhere { process: None, .. } => connection.answering().is_none(),
        };
        is_meant.then_some(connection)
    }

    /// Where its socket can lie.
    fn sockets(&self) -> Vec<PathBuf> {
        match self {
            Self::Here(mount) => {
                let name = socket_name(mount.device);
                folders(mount.owner).into_iter().map(|folder| folder.join(&name)).collect()
            }
            Self::Elsewhere { socket, .. } => vec![socket.clone()],
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
    let mut found: Vec<Target> = elsewhere(&mounts).filter(named).collect();
    // Any user's daemon may say that it serves this path.
    if found.iter().any(|t| is_root_or_caller(t.owner())) {
        found.retain(|t| is_root_or_caller(t.owner()));
    }
    Ok(found)
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

/// What serves a store: of root's mounts, the caller's own and those of whom the store belongs to.
///
/// # Errors
/// Of listing the mounts, or of the store's path.
pub fn serving(store: &Path) -> io::Result<Option<Target>> {
    let real = fs::canonicalize(store)?;
    let wanted = fs::symlink_metadata(&real)?;
    let owner = Uid::from_raw(wanted.uid());
    let (first, others): (Vec<_>, Vec<_>) =
        all()?.into_iter().partition(|t| is_root_or_caller(t.owner()));
    let owners = others.into_iter().filter(|t| t.owner() == owner);
    let device = DeviceNumber::of(&real)?;
    let same = |t: &Target| {
        let is_it = |found: Stat| (found.st_dev, found.st_ino) == (wanted.dev(), wanted.ino());
        // Another FUSE filesystem is not entered: it may hang.
        t.store() == real
            || walk::open(t.store(), LastLink::Followed, |mount| mount.device == device)
                .is_ok_and(|store| fstat(store).is_ok_and(is_it))
    };
    Ok(first.into_iter().chain(owners).find(same))
}

/// The daemons that answer, are believed, and whose mounts are not among these.
fn elsewhere(mounts: &[Mount]) -> impl Iterator<Item = Target> {
    let here: Vec<String> = mounts.iter().map(|m| socket_name(m.device)).collect();
    everybodys()
        .into_iter()
        .flat_map(move |(folder, owner)| answering(&sockets(&folder, owner, &here), owner))
}

/// Those of a user's daemons that answer.
fn answering(sockets: &[PathBuf], owner: Uid) -> Vec<Target> {
    let until = Moment::now() + ONE_USERS;
    let ask = |socket: &PathBuf| {
        if Moment::now() < until { answering_at(socket, owner) } else { None }
    };
    side_by_side(sockets, ask).into_iter().flatten().collect()
}

/// Asks several daemons, some at a time: one that hangs holds no other up. The answers come in the
/// order of `daemons`.
pub fn side_by_side<T: Sync, A: Send>(daemons: &[T], ask: impl Fn(&T) -> A + Sync) -> Vec<A> {
    let next = AtomicUsize::new(0);
    let work = || {
        let numbers = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
        let mine = numbers.map_while(|n| Some((n, ask(daemons.get(n)?))));
        mine.collect::<Vec<_>>()
    };
    let mut answers = std::thread::scope(|scope| {
        // With no thread to be had, one is asked after the other.
        let others =
            (1..daemons.len().min(AT_ONCE)).map_while(|_| spawn_in(scope, Role::Asking, work).ok());
        let others: Vec<_> = others.collect();
        let mut answers = work();
        for thread in others {
            answers.extend(thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        answers
    });
    answers.sort_unstable_by_key(|(n, _)| *n);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// The sockets in a user's folder, but for those of mounts that are seen here.
fn sockets(folder: &Path, owner: Uid, here: &[String]) -> Vec<PathBuf> {
    let Ok(opened) = owned_folder(folder, owner) else { return Vec::new() };
    let listed = fs::read_dir(format!("/proc/self/fd/{}", opened.as_raw_fd()));
    let names = listed.into_iter().flatten().flatten().map(|entry| entry.file_name());
    let is_other = |name: &str| name.ends_with(SOCKET) && here.iter().all(|h| h != name);
    names.filter(|name| name.to_str().is_some_and(is_other)).map(|n| folder.join(n)).collect()
}

fn answering_at(socket: &Path, owner: Uid) -> Option<Target> {
    let daemon = Connection::open(socket, owner).ok()?;
    let Ok(Answer::Report { report }) = daemon.ask(Ask::Status) else { return None };
    let (mountpoint, store) = (report.mountpoint.into(), report.store.into());
    let (process, socket) = (daemon.answering(), socket.to_owned());
    Some(Target::Elsewhere { mountpoint, store, socket, owner, process })
        .filter(Target::is_believed)
}

/// The folders of sockets that this user can use, and whose each has to be; root can use
/// everybody's.
fn everybodys() -> Vec<(PathBuf, Uid)> {
    let me = rustix::process::geteuid();
    let mut all: Vec<_> = folders(me).into_iter().map(|folder| (folder, me)).collect();
    if me.is_root() {
        let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
        let numbered = |name: &str| name.parse().ok().map(Uid::from_raw);
        all.extend(entries(Path::new("/run/user")).filter_map(|user| {
            let uid = numbered(user.file_name().to_str()?)?;
            Some((user.path().join("kmsfs"), uid))
        }));
        all.extend(entries(&std::env::temp_dir()).filter_map(|folder| {
            let uid = numbered(folder.file_name().to_str()?.strip_prefix("kmsfs-")?)?;
            Some((folder.path(), uid))
        }));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::mpsc::channel;

    #[test]
    fn one_that_hangs_holds_no_other_up() {
        let (answered, told) = channel();
        let (answered, told) = (Mutex::new(answered), Mutex::new(told));
        let ask = |n: &u32| match n {
            // It ends when another has been asked, and answered.
            0 => told.lock().expect("no panic").recv_timeout(Duration::from_secs(20)).is_ok(),
            _ => answered.lock().expect("no panic").send(()).is_ok(),
        };
        assert_eq!(side_by_side(&[0, 1, 2], ask), [true; 3]);
        let numbers: Vec<_> = (0..100).collect();
        assert_eq!(side_by_side(&numbers, |n| n + 1), (1..=100).collect::<Vec<_>>());
        assert_eq!(side_by_side(&[], |n: &u32| *n), [0; 0]);
    }
}
