//! The folder `.kmsfs` of a store, and the tree beside it.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;

use super::branch::BRANCH;
use super::{BadVolumeFile, Page, VolumeFile};
use crate::disk::{self, Dir, File, Open, Time, Wait};
use crate::durable;
use crate::ids::{LinkId, PageId};

/// The name of the metadata folder, invisible in the mount.
pub const META: &str = ".kmsfs";
pub(super) const VOLUME: &str = "volume.json";
pub(super) const BACKUP: &str = "volume.json.bak";
pub(super) const MODE: u32 = 0o600;
const MAX_VOLUME_FILE: usize = 64 << 10;
/// 64 lines of the longest wrapped key, with room for damaged lines that are kept.
const MAX_PAGE: usize = 4 << 20;

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no `.kmsfs/volume.json`.
    #[error("it is not a kmsfs store (there is no {META}/{VOLUME})")]
    NotAStore,
    /// `init` was pointed at something that holds files.
    #[error("the folder is not empty")]
    NotEmpty,
    /// `volume.json` is refused.
    #[error("{META}/{VOLUME}: {0}")]
    BadVolumeFile(#[from] BadVolumeFile),
    /// Another daemon holds the lock.
    #[error("another kmsfs has it mounted")]
    Busy,
    /// The backing filesystem failed.
    #[error("{0}: {1}")]
    Io(&'static str, #[source] io::Error),
}

fn at(what: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |e| StoreError::Io(what, e)
}

/// An open store.
#[derive(Debug)]
pub struct Store {
    root: Dir,
    pub(super) meta: Dir,
    pub(super) keys: Dir,
    pub(super) links: Dir,
    dev: u64,
}

impl Store {
    /// Makes the layout in `root`, which must be empty, with everything durable: the 256
    /// folders of sidecars and links, and the lock. `volume.json` is for the caller to write.
    ///
    /// # Errors
    /// `NotEmpty`, `Io`.
    pub fn init(root: Dir) -> Result<Self, StoreError> {
        if !disk::names(&*root).map_err(at("cannot list the store"))?.is_empty() {
            return Err(StoreError::NotEmpty);
        }
        match Self::make(&root) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(StoreError::NotEmpty),
            Err(e) => return Err(StoreError::Io("cannot make the store", e)),
        }
        Self::open(root)
    }

    fn make(root: &Dir) -> io::Result<()> {
        let name = |s: &str| OsStr::new(s).to_owned();
        root.mkdir(&name(META), 0o700)?;
        let meta = root.open_dir(&name(META))?;
        for folder in ["keys", "links", BRANCH] {
            meta.mkdir(&name(folder), 0o700)?;
            let folder_dir = meta.open_dir(&name(folder))?;
            if folder != BRANCH {
                for i in 0..=255u8 {
                    folder_dir.mkdir(&name(&format!("{i:02x}")), 0o700)?;
                }
            }
            folder_dir.sync()?;
        }
        meta.open(&name("lock"), Open::Create(MODE))?;
        meta.sync()?;
        root.sync()
    }

    /// Opens the store whose top folder is `root`.
    ///
    /// # Errors
    /// `NotAStore`, `Io`.
    pub fn open(root: Dir) -> Result<Self, StoreError> {
        let meta = match root.open_dir(OsStr::new(META)) {
            Ok(dir) => dir,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Err(StoreError::NotAStore),
            Err(e) => return Err(StoreError::Io("cannot open .kmsfs", e)),
        };
        let open = |n: &str| meta.open_dir(OsStr::new(n)).map_err(at("cannot open .kmsfs"));
        let (keys, links) = (open("keys")?, open("links")?);
        let dev = root.stat_self().map_err(at("cannot stat the store"))?.dev;
        Ok(Self { root, meta, keys, links, dev })
    }

    /// The folder at `path`, opened as a store.
    ///
    /// # Errors
    /// `NotAStore`, `Io`.
    pub fn open_path(path: &Path) -> Result<Self, StoreError> {
        Self::open(disk::open_dir(path).map_err(at("cannot open the store"))?)
    }

    /// The top folder of the tree.
    pub fn root(&self) -> &Dir {
        &self.root
    }

    /// The device that all of the store lies on.
    pub fn device(&self) -> u64 {
        self.dev
    }

    /// Takes the lock that one daemon holds, until the file is dropped.
    ///
    /// # Errors
    /// `Busy`, `Io`.
    pub fn lock(&self) -> Result<File, StoreError> {
        let open = |how| self.meta.open(OsStr::new("lock"), how);
        let file = match open(Open::ReadWrite) {
            // A store that cannot be written is read all the same.
            Err(e) if e.raw_os_error() == Some(libc::EROFS) => open(Open::Read),
            other => other,
        };
        let file = file.map_err(at("lock"))?;
        match file.lock(Wait::Try) {
            Ok(()) => Ok(file),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(StoreError::Busy),
            Err(e) => Err(StoreError::Io("lock", e)),
        }
    }

    /// Reads `volume.json`; where that is damaged or missing, its second copy.
    ///
    /// # Errors
    /// `NotAStore`, `BadVolumeFile`, `Io`; of the first copy, when both are bad.
    pub fn read_volume(&self) -> Result<VolumeFile, StoreError> {
        let first = self.read_copy(VOLUME);
        match first {
            Err(StoreError::BadVolumeFile(BadVolumeFile::Damaged(_)) | StoreError::NotAStore) => {
                match self.read_copy(BACKUP) {
                    Ok(file) => {
                        log::warn!("{META}/{VOLUME} is damaged or missing; using {BACKUP}");
                        Ok(file)
                    }
                    Err(_) => first,
                }
            }
            other => other,
        }
    }

    pub(super) fn read_copy(&self, name: &str) -> Result<VolumeFile, StoreError> {
        match disk::read_all(&*self.meta, OsStr::new(name), MAX_VOLUME_FILE) {
            Ok(bytes) => Ok(VolumeFile::parse(&bytes)?),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Err(StoreError::NotAStore),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                Err(BadVolumeFile::Damaged("too long".to_owned()).into())
            }
            Err(e) => Err(StoreError::Io("cannot read volume.json", e)),
        }
    }

    /// What tells whether `volume.json` was replaced: its inode number and its last change.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn volume_stamp(&self) -> io::Result<(u64, Time)> {
        let stat = self.meta.stat(OsStr::new(VOLUME))?;
        Ok((stat.ino, stat.ctime))
    }

    /// Replaces `volume.json`, then its second copy.
    ///
    /// # Errors
    /// `Io`; one whole copy is there in any case.
    pub fn write_volume(&self, file: &VolumeFile) -> Result<(), StoreError> {
        let bytes = file.encode();
        let _held = lock_folder(&self.meta).map_err(at("cannot lock .kmsfs"))?;
        for name in [VOLUME, BACKUP] {
            durable::replace(&*self.meta, OsStr::new(name), &bytes, MODE)
                .map_err(at("cannot write volume.json"))?;
        }
        Ok(())
    }

    fn shard(&self, page: PageId) -> io::Result<Dir> {
        self.keys.open_dir(OsStr::new(&format!("{:02x}", page.0[0])))
    }

    /// Reads a sidecar page; `None` where there is none.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn read_page(&self, page: PageId) -> io::Result<Option<Page>> {
        let shard = self.shard(page)?;
        match disk::read_all(&*shard, OsStr::new(&page.to_string()), MAX_PAGE) {
            Ok(bytes) => Ok(Some(Page::parse(&bytes))),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The sidecar pages in the folder `keys/XX`, XX being `shard`. Names that are no page's are
    /// left out.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn pages(&self, shard: u8) -> io::Result<Vec<PageId>> {
        let names = disk::names(&*self.keys.open_dir(OsStr::new(&format!("{shard:02x}")))?)?;
        let page = |n: &OsString| PageId::parse(n.to_str()?).ok().filter(|p| p.0[0] == shard);
        Ok(names.iter().filter_map(page).collect())
    }

    /// When the folder `keys/XX` last changed: no page in it is newer.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn pages_changed(&self, shard: u8) -> io::Result<Time> {
        let folder = self.keys.open_dir(OsStr::new(&format!("{shard:02x}")))?;
        Ok(folder.stat_self()?.mtime)
    }

    /// Writes a new page, durably: only then may its keys be used.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn add_page(&self, page: PageId, lines: &Page) -> io::Result<()> {
        let shard = self.shard(page)?;
        let _held = lock_folder(&shard)?;
        durable::replace(&*shard, OsStr::new(&page.to_string()), &lines.encode(), MODE)
    }

    /// Removes lines from a page: read afresh and replaced whole, under the folder's lock, so
    /// that no other process's change is undone. An empty page is removed.
    ///
    /// # Errors
    /// Of the backing filesystem; the page is then as it was.
    pub fn remove_lines(&self, page: PageId, slots: &HashSet<u16>) -> io::Result<()> {
        self.change_page(page, |lines| lines.remove(|slot| slots.contains(&slot)))
    }

    /// Changes a page that is there, as [`Store::remove_lines`] does.
    ///
    /// # Errors
    /// Of the backing filesystem; the page is then as it was.
    pub fn change_page(&self, page: PageId, change: impl FnOnce(&mut Page)) -> io::Result<()> {
        let shard = self.shard(page)?;
        let _held = lock_folder(&shard)?;
        let name = page.to_string();
        let name = OsStr::new(&name);
        let mut lines = match disk::read_all(&*shard, name, MAX_PAGE) {
            Ok(bytes) => Page::parse(&bytes),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(()),
            Err(e) => return Err(e),
        };
        let before = lines.clone();
        change(&mut lines);
        if lines.is_empty() {
            shard.unlink(name)?;
            shard.sync()
        } else if lines == before {
            Ok(())
        } else {
            durable::replace(&*shard, name, &lines.encode(), MODE)
        }
    }

    fn link_shard(&self, id: LinkId) -> io::Result<Dir> {
        self.links.open_dir(OsStr::new(&format!("{:02x}", id.0[0])))
    }

    /// Writes the body of a long symlink target, durably.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn add_link_body(&self, id: LinkId, body: &[u8]) -> io::Result<()> {
        let shard = self.link_shard(id)?;
        let _held = lock_folder(&shard)?;
        durable::replace(&*shard, OsStr::new(&id.to_string()), body, MODE)
    }

    /// Reads the body of a long symlink target.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn read_link_body(&self, id: LinkId) -> io::Result<Vec<u8>> {
        disk::read_all(&*self.link_shard(id)?, OsStr::new(&id.to_string()), 64 << 10)
    }

    /// Removes the body of a long symlink target.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn remove_link_body(&self, id: LinkId) -> io::Result<()> {
        self.link_shard(id)?.unlink(OsStr::new(&id.to_string()))
    }

    /// Removes what replacements left that a power cut or a kill interrupted, each folder under
    /// the lock that its writers take. It lists every sidecar page: not for a hurried caller.
    ///
    /// # Errors
    /// Of the backing filesystem; the folders before the failing one are swept.
    pub fn sweep_leftovers(&self) -> io::Result<()> {
        sweep_folder(&self.meta)?;
        sweep_folder(&self.meta.open_dir(OsStr::new(BRANCH))?)?;
        for shards in [&self.keys, &self.links] {
            for i in 0..=255u8 {
                sweep_folder(&shards.open_dir(OsStr::new(&format!("{i:02x}")))?)?;
            }
        }
        Ok(())
    }

    /// syncfs of the store.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn sync(&self) -> io::Result<()> {
        self.root.sync_filesystem()
    }
}

/// flock on a folder, held until the file is dropped. The folder itself is locked
/// through a descriptor of its own, so that two threads of one process exclude each other too.
pub(super) fn lock_folder(shard: &Dir) -> io::Result<File> {
    let file = shard.open(OsStr::new("."), Open::Read)?;
    file.lock(Wait::Block)?;
    Ok(file)
}

fn sweep_folder(folder: &Dir) -> io::Result<()> {
    let _held = lock_folder(folder)?;
    durable::sweep(&**folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::Sim;
    use crate::ids::BranchId;
    use crate::kms::{KeyArn, Wrapped};
    use crate::store::BranchFile;

    fn leftovers(store: &Store) -> usize {
        let shards = |top: &Dir| -> Vec<Dir> {
            let names = disk::names(&**top).expect("listed");
            names.iter().map(|n| top.open_dir(n).expect("opened")).collect()
        };
        let branch = store.meta.open_dir(OsStr::new(BRANCH)).expect("opened");
        let folders = [vec![store.meta.clone(), branch], shards(&store.keys), shards(&store.links)];
        let names = folders.iter().flatten().flat_map(|d| disk::names(&**d).expect("listed"));
        names.filter(|n| durable::is_leftover(n)).count()
    }

    /// A power cut between the steps of a replacement leaves its temporary file, which used to
    /// stay for ever.
    #[test]
    fn what_interrupted_replacements_left_is_swept_and_nothing_else() {
        let sim = Sim::new();
        let store = Store::init(sim.root()).expect("made");
        let (page, link, id) = (PageId::random(), LinkId::random(), BranchId::random());
        let branch = BranchFile { master: KeyArn("arn:k".to_owned()), key: Wrapped(vec![1; 9]) };
        sim.moments();
        store.add_page(page, &Page::parse(b"line\n")).expect("added");
        store.add_link_body(link, b"body").expect("added");
        store.write_branch(id, &branch).expect("added");
        let mut found = 0;
        for moment in sim.moments().iter().chain([&sim]) {
            for state in moment.crash().states(64, 0) {
                let store = Store::open(state.root()).expect("opened");
                found += leftovers(&store);
                let (before, body) = (store.read_page(page), store.read_link_body(link).ok());
                let key = store.read_branch(id).ok();
                store.sweep_leftovers().expect("swept");
                assert_eq!(leftovers(&store), 0);
                assert_eq!(store.read_page(page).ok(), before.ok());
                assert_eq!(store.read_link_body(link).ok(), body);
                assert_eq!(store.read_branch(id).ok(), key);
            }
        }
        assert!(found >= 3, "of each kind, some power cut left one: {found}");
    }
}
