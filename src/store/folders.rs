//! The folders of `.kmsfs` and the copies of `volume.json`, each by itself: for whoever checks a
//! store.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;

use super::branch::BRANCH;
use super::layout::{BACKUP, META, MODE, Store, StoreError, VOLUME, lock_folder};
use super::volume_file::VolumeFile;
use crate::disk::{self, Dir};
use crate::durable;
use crate::ids::BranchId;

/// A folder of kmsfs's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folder {
    /// `.kmsfs` itself.
    Meta,
    /// `keys/XX`.
    Keys(u8),
    /// `links/XX`.
    Links(u8),
    /// `branch`.
    Branch,
}

impl Folder {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let shards = || 0..=u8::MAX;
        let fixed = [Self::Meta, Self::Branch].into_iter();
        fixed.chain(shards().map(Self::Keys)).chain(shards().map(Self::Links))
    }
}

/// The path in the store.
impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Meta => f.write_str(META),
            Self::Keys(shard) => write!(f, "{META}/keys/{shard:02x}"),
            Self::Links(shard) => write!(f, "{META}/links/{shard:02x}"),
            Self::Branch => write!(f, "{META}/{BRANCH}"),
        }
    }
}

/// One of the two copies of `volume.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copy {
    /// `volume.json`, which counts where it can be read.
    First,
    /// `volume.json.bak`.
    Second,
}

impl Copy {
    fn name(self) -> &'static str {
        match self {
            Self::First => VOLUME,
            Self::Second => BACKUP,
        }
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

/// The path in the store.
impl fmt::Display for Copy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{META}/{}", self.name())
    }
}

impl Store {
    /// Where a folder lies, and its name there.
    fn place(&self, folder: Folder) -> (&Dir, OsString) {
        match folder {
            Folder::Meta => (self.root(), META.into()),
            Folder::Keys(shard) => (&self.keys, format!("{shard:02x}").into()),
            Folder::Links(shard) => (&self.links, format!("{shard:02x}").into()),
            Folder::Branch => (&self.meta, BRANCH.into()),
        }
    }

    /// Every name in a folder.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn names_in(&self, folder: Folder) -> io::Result<Vec<OsString>> {
        let (parent, name) = self.place(folder);
        disk::names(&*parent.open_dir(&name)?)
    }

    /// Makes a folder that is not there, durably.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn make_folder(&self, folder: Folder) -> io::Result<()> {
        let (parent, name) = self.place(folder);
        parent.mkdir(&name, 0o700)?;
        parent.sync()
    }

    /// Reads one copy of `volume.json`.
    ///
    /// # Errors
    /// `NotAStore` where it is missing, `BadVolumeFile`, `Io`.
    pub fn read_volume_copy(&self, copy: Copy) -> Result<VolumeFile, StoreError> {
        self.read_copy(copy.name())
    }

    /// Replaces one copy of `volume.json`.
    ///
    /// # Errors
    /// Of the backing filesystem; the copy is then as it was.
    pub fn write_volume_copy(&self, copy: Copy, file: &VolumeFile) -> io::Result<()> {
        let _held = lock_folder(&self.meta)?;
        durable::replace(&*self.meta, OsStr::new(copy.name()), &file.encode(), MODE)
    }

    /// Removes a branch key's file. No line may say it any more, durably.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn remove_branch(&self, id: BranchId) -> io::Result<()> {
        let folder = self.meta.open_dir(OsStr::new(BRANCH))?;
        let _held = lock_folder(&folder)?;
        folder.unlink(OsStr::new(&id.to_string()))?;
        folder.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::Sim;

    #[test]
    fn every_folder_is_where_init_made_it_and_is_made_again() {
        let store = Store::init(Sim::new().root()).expect("made");
        assert_eq!(Folder::all().count(), 2 + 2 * 256);
        for folder in Folder::all() {
            let names = store.names_in(folder).expect("there");
            assert_eq!(names.is_empty(), folder != Folder::Meta, "{folder}");
        }
        let gone = Folder::Links(0xab);
        assert_eq!(gone.to_string(), ".kmsfs/links/ab");
        store.links.rmdir(OsStr::new("ab")).expect("empty");
        assert!(store.names_in(gone).is_err());
        store.make_folder(gone).expect("made");
        assert_eq!(store.names_in(gone).expect("there"), Vec::<OsString>::new());
    }
}
