//! The folders of a store, each by itself: for whoever checks a store.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::Path;

use super::layout::{
    ASIDE, BACKUP, BRANCH, COPY, FILES, KEYS, LINKS, LOCK, REMOVED, Store, VOLUME, lock_folder,
};
use crate::disk::{self, Dir};
use crate::ids::BranchId;

/// A folder of kmsfs's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folder {
    /// The store's own.
    Top,
    /// `keys`.
    Keys,
    /// `links`.
    Links,
    /// `keys/XX`.
    Pages(u8),
    /// `links/XX`.
    Bodies(u8),
    /// `keys/branch`.
    Branch,
    /// `keys/removed`.
    Removed,
}

impl Folder {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let shards = || 0..=u8::MAX;
        let fixed = [Self::Top, Self::Keys, Self::Links, Self::Branch, Self::Removed].into_iter();
        fixed.chain(shards().map(Self::Pages)).chain(shards().map(Self::Bodies))
    }
}

impl Folder {
    /// Whether `init` makes all that it ever holds.
    pub fn has_fixed_entries(self) -> bool {
        matches!(self, Self::Top | Self::Keys | Self::Links)
    }

    /// Whether an entry of this name belongs in a folder whose entries are not named by ids.
    pub fn expects(self, name: &OsStr) -> bool {
        let is_shard = || (0..=u8::MAX).any(|shard| *name == *format!("{shard:02x}"));
        match self {
            Self::Top => {
                let own = [FILES, KEYS, LINKS, LOCK, VOLUME, BACKUP, ASIDE, COPY];
                own.iter().any(|own| name == *own)
            }
            Self::Keys => name == BRANCH || name == REMOVED || is_shard(),
            Self::Links => is_shard(),
            Self::Removed => Store::is_of_journal(name),
            Self::Pages(_) | Self::Bodies(_) | Self::Branch => false,
        }
    }
}

/// The path in the store.
impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Top => Ok(()),
            Self::Keys => f.write_str(KEYS),
            Self::Links => f.write_str(LINKS),
            Self::Pages(shard) => write!(f, "{KEYS}/{shard:02x}"),
            Self::Bodies(shard) => write!(f, "{LINKS}/{shard:02x}"),
            Self::Branch => write!(f, "{KEYS}/{BRANCH}"),
            Self::Removed => write!(f, "{KEYS}/{REMOVED}"),
        }
    }
}

impl Store {
    /// Where a folder lies, and its name there.
    fn place(&self, folder: Folder) -> (&Dir, OsString) {
        match folder {
            Folder::Top => (&self.top, ".".into()),
            Folder::Keys => (&self.top, KEYS.into()),
            Folder::Links => (&self.top, LINKS.into()),
            Folder::Pages(shard) => (&self.keys, format!("{shard:02x}").into()),
            Folder::Bodies(shard) => (&self.links, format!("{shard:02x}").into()),
            Folder::Branch => (&self.keys, BRANCH.into()),
            Folder::Removed => (&self.keys, REMOVED.into()),
        }
    }

    /// Opens a folder.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn open_folder(&self, folder: Folder) -> io::Result<Dir> {
        let (parent, name) = self.place(folder);
        parent.open_dir(&name)
    }

    /// Every name in a folder.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn names_in(&self, folder: Folder) -> io::Result<Vec<OsString>> {
        disk::names(&*self.open_folder(folder)?)
    }

    /// Whether the tree has an entry at this path on disk.
    pub fn has_entry(&self, path: &Path) -> bool {
        let parent = path.parent().into_iter().flat_map(Path::iter);
        let dir = parent.into_iter().try_fold(self.tree().clone(), |dir, name| dir.open_dir(name));
        path.file_name().is_some_and(|name| dir.is_ok_and(|dir| dir.stat(name).is_ok()))
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

    /// Removes a branch key's file. No line may say it any more, durably.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn remove_branch(&self, id: BranchId) -> io::Result<()> {
        let folder = self.keys.open_dir(OsStr::new(BRANCH))?;
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
        assert_eq!(Folder::all().count(), 5 + 2 * 256);
        for folder in Folder::all() {
            let names = store.names_in(folder).expect("there");
            assert_eq!(names.is_empty(), !folder.has_fixed_entries(), "{folder}");
            assert!(names.iter().all(|name| folder.expects(name)), "{folder}");
        }
        let gone = Folder::Bodies(0xab);
        assert_eq!(gone.to_string(), "links/ab");
        store.links.rmdir(OsStr::new("ab")).expect("empty");
        assert!(store.names_in(gone).is_err());
        store.make_folder(gone).expect("made");
        assert_eq!(store.names_in(gone).expect("there"), Vec::<OsString>::new());
    }
}
