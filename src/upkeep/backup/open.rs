//! Where a copy goes to: a folder that is empty, or a copy of before.

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use super::{BackupError, from, to};
use crate::disk::identity::{self, Owners};
use crate::disk::{self, Dir, File, Open, Wait};
use crate::durable;
use crate::ids::VolumeId;
use crate::store::{Copy, CopyState, Folder, LOCK, Store, StoreError, TREE};

const MODE: u32 = 0o600;
/// No copy of `volume.json` is longer.
const MOST_VOLUME: usize = 64 << 10;

/// An open destination. While it is open nobody mounts it, and no other backup writes to it.
pub struct Destination {
    pub(super) top: Dir,
    pub(super) store: Store,
    volume: VolumeId,
    _lock: File,
}

impl Destination {
    /// Opens a folder for copies of a store: an empty one, or one that holds such a copy and was
    /// not mounted for writing since.
    ///
    /// # Errors
    /// `NotACopy`, `Busy`, `To`.
    pub fn open(top: Dir, path: &Path, store: &Store) -> Result<Self, BackupError> {
        let volume = store.read_volume()?.settings.volume();
        let owner = store.owner().map_err(from(path))?;
        let is_empty = disk::names(&*top).map_err(to(path))?.is_empty();
        let known = CopyState::of(&top).map_err(to(path))?;
        if !is_empty && known.is_none_or(|(of, _)| of != volume) {
            return Err(BackupError::NotACopy);
        }
        if is_empty {
            close_to_others(&top, owner).map_err(to(path))?;
        }
        // As who may enter it: root writes nothing in it that is not its owner's.
        identity::assume(Owners::detect(), owner.0, owner.1).map_err(to(path))?;
        let opened = Self::opened(top, path, volume);
        identity::assume(Owners::detect(), 0, 0).map_err(to(path))?;
        opened
    }

    fn opened(top: Dir, path: &Path, volume: VolumeId) -> Result<Self, BackupError> {
        CopyState::Incomplete.say(&top, volume).map_err(to(path))?;
        make(&top).map_err(to(path))?;
        let store = Store::open(top.clone())?;
        let lock = top.open(OsStr::new(LOCK), Open::ReadWrite).map_err(to(path))?;
        lock.lock(Wait::Try).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => BackupError::Busy,
            _ => BackupError::To(path.to_owned(), e),
        })?;
        Ok(Self { top, store, volume, _lock: lock })
    }

    /// The copy is whole: says so, durably. What `volume.json` leads to is there before it.
    pub(super) fn finish(&self, store: &Store) -> Result<(), BackupError> {
        let root = Path::new("");
        self.top.sync_filesystem().map_err(to(root))?;
        for copy in [Copy::Second, Copy::First] {
            let name = copy.to_string();
            let name = OsStr::new(&name);
            let read = |dir: &Dir| disk::read_all(&**dir, name, MOST_VOLUME);
            let bytes = read(store.top()).map_err(from(Path::new(name)))?;
            if read(&self.top).ok().as_ref() != Some(&bytes) {
                durable::replace(&*self.top, name, &bytes, MODE).map_err(to(Path::new(name)))?;
            }
        }
        CopyState::Whole.say(&self.top, self.volume).map_err(to(root))
    }
}

/// A folder that only the store's owner enters.
fn close_to_others(top: &Dir, (uid, gid): (u32, u32)) -> io::Result<()> {
    let own = top.open(OsStr::new("."), Open::Pin)?;
    let stat = own.stat()?;
    if (stat.uid, stat.gid) != (uid, gid) {
        own.set_owner(Some(uid), Some(gid))?;
    }
    own.set_mode(0o700)
}

/// The folders of a store and its lock, where they are not there yet.
fn make(top: &Dir) -> io::Result<()> {
    let unless_there = |made: io::Result<()>| match made {
        Err(e) if e.raw_os_error() != Some(libc::EEXIST) => Err(e),
        _ => Ok(()),
    };
    let beside = [Folder::Keys.to_string(), Folder::Links.to_string()];
    for folder in beside.iter().map(String::as_str).chain([TREE]) {
        unless_there(top.mkdir(OsStr::new(folder), 0o700))?;
    }
    let store = Store::open(top.clone()).map_err(|e| match e {
        StoreError::Io(_, e) => e,
        e => io::Error::other(e.to_string()),
    })?;
    for missing in Folder::all().filter(|folder| store.names_in(*folder).is_err()) {
        unless_there(store.make_folder(missing))?;
    }
    unless_there(top.open(OsStr::new(LOCK), Open::Create(MODE)).map(drop))
}
