//! The keystore's folder: where it lies, how its files are read, replaced and locked.
//!
//! ```text
//! keystore.json   the keystore's id and own key
//! aliases.json    names for keys
//! keys/ID.json    one master key each
//! lock            flock(2)ed by whoever changes anything
//! ```
//! The folder is 0700, files are 0600. Files are replaced whole, so readers need no lock.

use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use super::error::KeystoreError;
use crate::clock::Moment;
use crate::disk::{self, Dir, Directory, File, Open, Stat, Time, Wait};
use crate::durable;

pub(super) const HEADER: &str = "keystore.json";
pub(super) const ALIASES: &str = "aliases.json";
pub(super) const KEYS: &str = "keys";
const LOCK: &str = "lock";
/// The longest header that is read.
pub(super) const MAX_HEADER: u64 = 64 << 10;

const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
const PATIENCE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(20);

/// A file's bytes, which can hold a key in clear.
pub(super) type Content = Zeroizing<Vec<u8>>;

/// Where a keystore lies.
#[derive(Debug)]
pub(super) enum Place {
    /// A path, walked again at each call: a folder moved away or put back counts at once.
    Path(PathBuf),
    /// A directory that is held open.
    Held(Dir),
}

/// What tells one version of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: Time,
    ctime: Time,
}

impl From<&Stat> for Stamp {
    fn from(s: &Stat) -> Self {
        Self { dev: s.dev, ino: s.ino, size: s.size, mtime: s.mtime, ctime: s.ctime }
    }
}

impl Stamp {
    /// Whether the file was changed so long before `now` (seconds since 1970) that a further
    /// change must show in its times: those of a filesystem can be as coarse as a second.
    pub(super) fn is_settled(&self, now: u64) -> bool {
        i64::try_from(now).is_ok_and(|now| self.ctime.secs.saturating_add(2) < now)
    }
}

/// An open folder, and its name for messages.
pub(super) struct KeystoreFolder {
    pub(super) dir: Dir,
    pub(super) at: String,
}

impl Place {
    /// An absolute path, for a daemon changes its working directory.
    pub(super) fn of(path: &Path) -> Result<Self, KeystoreError> {
        let at = path.display().to_string();
        std::path::absolute(path).map(Self::Path).map_err(io_error("find the folder", &at))
    }

    pub(super) fn shown(&self) -> String {
        match self {
            Self::Path(path) => path.display().to_string(),
            Self::Held(_) => "(held open)".to_owned(),
        }
    }

    /// The stamp of a key's file, in one system call, which walks the path again. `None` where that
    /// cannot be had: opening the folder tells why.
    pub(super) fn key_stamp(&self, file: &str) -> Option<Stamp> {
        let Self::Path(path) = self else { return None };
        let found = std::fs::symlink_metadata(path.join(KEYS).join(file)).ok()?;
        let time = |secs, nanos| Some(Time { secs, nanos: u32::try_from(nanos).ok()? });
        Some(Stamp {
            dev: found.dev(),
            ino: found.ino(),
            size: found.len(),
            mtime: time(found.mtime(), found.mtime_nsec())?,
            ctime: time(found.ctime(), found.ctime_nsec())?,
        })
    }

    /// The folder as it is now.
    pub(super) fn open(&self) -> Result<KeystoreFolder, KeystoreError> {
        let at = self.shown();
        match self {
            Self::Held(dir) => Ok(KeystoreFolder { dir: dir.clone(), at }),
            Self::Path(path) => match disk::open_dir(path) {
                Ok(dir) => Ok(KeystoreFolder { dir, at }),
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                    Err(KeystoreError::Missing { at })
                }
                Err(e) => Err(io_error("open the folder", &at)(e)),
            },
        }
    }

    /// The folder, made with its parents where there is none.
    pub(super) fn make(&self) -> Result<KeystoreFolder, KeystoreError> {
        if let Self::Path(path) = self {
            let at = self.shown();
            make_path(path).map_err(io_error("make the folder", &at))?;
        }
        self.open()
    }
}

fn make_path(path: &Path) -> io::Result<()> {
    match disk::open_dir(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        other => return other.map(drop),
    }
    if let Some(parent) = path.parent() {
        make_path(parent)?;
    }
    let (parent, name) = disk::open_parent(path)?;
    make_dir(&*parent, &name)
}

fn make_dir(parent: &dyn Directory, name: &OsStr) -> io::Result<()> {
    match parent.mkdir(name, DIR_MODE) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(e),
        _ => parent.sync(),
    }
}

/// An error of the system, told with what was to be done.
pub(super) fn io_error(
    doing: impl Into<String>,
    at: &str,
) -> impl FnOnce(io::Error) -> KeystoreError {
    let (doing, at) = (doing.into(), at.to_owned());
    move |source| KeystoreError::Io { doing, at, source }
}

impl KeystoreFolder {
    /// The folder of the keys.
    pub(super) fn keys(&self) -> Result<KeystoreFolder, KeystoreError> {
        match self.dir.open_dir(KEYS.as_ref()) {
            Ok(dir) => Ok(KeystoreFolder { dir, at: format!("{}/{KEYS}", self.at) }),
            Err(e) if e.kind() == ErrorKind::NotFound => Err(self.damaged(KEYS, "it is missing")),
            Err(e) => Err(io_error("open keys", &self.at)(e)),
        }
    }

    /// The file's stamp; `None` where there is no such file.
    pub(super) fn stamp(&self, name: &str) -> Result<Option<Stamp>, KeystoreError> {
        match self.dir.stat(name.as_ref()) {
            Ok(stat) => Ok(Some(Stamp::from(&stat))),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io_error(format!("look at {name}"), &self.at)(e)),
        }
    }

    /// The file whole, with the stamp of exactly that version; `None` where there is none.
    pub(super) fn read(
        &self,
        name: &str,
        limit: u64,
    ) -> Result<Option<(Stamp, Content)>, KeystoreError> {
        let failed = || io_error(format!("read {name}"), &self.at);
        let file = match self.dir.open(name.as_ref(), Open::Read) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.map_err(failed())?,
        };
        let stamp = Stamp::from(&file.stat().map_err(failed())?);
        if stamp.size > limit {
            return Err(self.damaged(name, format!("it has {} bytes", stamp.size)));
        }
        let size = usize::try_from(stamp.size).expect("at most the limit");
        let mut bytes = Zeroizing::new(vec![0; size]);
        let len = file.read_at(&mut bytes, 0).map_err(failed())?;
        bytes.truncate(len);
        Ok(Some((stamp, bytes)))
    }

    /// Replaces a file; the caller holds the lock.
    pub(super) fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), KeystoreError> {
        durable::replace(&*self.dir, name.as_ref(), bytes, FILE_MODE)
            .map_err(io_error(format!("write {name}"), &self.at))
    }

    /// Removes a file; the caller holds the lock.
    pub(super) fn remove(&self, name: &str) -> Result<(), KeystoreError> {
        self.dir
            .unlink(name.as_ref())
            .and_then(|()| self.dir.sync())
            .map_err(io_error(format!("remove {name}"), &self.at))
    }

    /// Every name in it, without what interrupted replacements left.
    pub(super) fn names(&self) -> Result<Vec<String>, KeystoreError> {
        let names = disk::names(&*self.dir).map_err(io_error("list the folder", &self.at))?;
        Ok(names
            .iter()
            .filter(|name| !durable::is_leftover(name))
            .map(|name| name.to_string_lossy().into_owned())
            .collect())
    }

    /// Excludes every other change until the file is dropped. It gives up after ten seconds, so
    /// that a stopped process does not make disabling a key wait for ever.
    pub(super) fn lock(&self) -> Result<File, KeystoreError> {
        let failed = || io_error("take the lock", &self.at);
        let file = self.lock_file().map_err(failed())?;
        let started = Moment::now();
        loop {
            match file.lock(Wait::Try) {
                Ok(()) => return Ok(file),
                Err(e) if e.kind() != ErrorKind::WouldBlock => return Err(failed()(e)),
                Err(_) if Moment::now().since(started) > PATIENCE => {
                    let seconds = PATIENCE.as_secs();
                    return Err(KeystoreError::Busy { at: self.at.clone(), seconds });
                }
                Err(_) => std::thread::sleep(RETRY),
            }
        }
    }

    fn lock_file(&self) -> io::Result<File> {
        match self.dir.open(LOCK.as_ref(), Open::ReadWrite) {
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            other => return other,
        }
        match self.dir.open(LOCK.as_ref(), Open::Create(FILE_MODE)) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                self.dir.open(LOCK.as_ref(), Open::ReadWrite)
            }
            other => other,
        }
    }

    /// Makes an empty folder ready to hold a keystore, and locks it. What a creation left that
    /// was cut off before its header counts as empty.
    pub(super) fn prepare(&self) -> Result<File, KeystoreError> {
        let not_empty = || KeystoreError::NotEmpty { at: self.at.clone() };
        if self.names()?.iter().any(|n| ![KEYS, ALIASES, LOCK].contains(&n.as_str())) {
            return Err(not_empty());
        }
        let lock = self.lock()?;
        let failed = || io_error("prepare the folder", &self.at);
        let own = self.dir.open(".".as_ref(), Open::Pin).map_err(failed())?;
        own.set_mode(DIR_MODE).map_err(failed())?;
        make_dir(&*self.dir, KEYS.as_ref()).map_err(failed())?;
        if self.stamp(HEADER)?.is_some() || !self.keys()?.names()?.is_empty() {
            return Err(not_empty());
        }
        Ok(lock)
    }

    pub(super) fn damaged(&self, file: &str, what: impl Into<String>) -> KeystoreError {
        KeystoreError::Damaged { at: self.at.clone(), file: file.to_owned(), what: what.into() }
    }
}
