//! The folders of a store: the tree, and what kmsfs keeps beside it.

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use super::{BadVolumeFile, FORMAT};
use crate::disk::{self, AccessTimes, Dir, File, Open, Wait};
use crate::durable;
use crate::ids::LinkId;

/// The folder of the tree.
pub const FILES: &str = "files";
/// The folder of sidecar pages and branch keys.
pub(super) const KEYS: &str = "keys";
/// The folder of branch keys, in that of keys.
pub(super) const BRANCH: &str = "branch";
/// The journal of removed lines and bodies, in the folder of keys.
pub(super) const REMOVED: &str = "removed";
/// The folder of the bodies of long symlink targets.
pub(super) const LINKS: &str = "links";
/// The folder of what was moved out of the way.
pub(super) const ASIDE: &str = "aside";
/// What a copy of a store says of itself.
pub(super) const COPY: &str = "copy";
/// The file that a daemon locks which has the store mounted.
pub const LOCK: &str = "lock";
/// What a store of format 1 had in place of all these.
const FORMAT_1: &str = ".kmsfs";
pub(super) const VOLUME: &str = "volume.json";
pub(super) const BACKUP: &str = "volume.json.bak";
pub(super) const MODE: u32 = 0o600;
/// The mode of a new mount's root: the store's folder is what keeps others out of the tree.
const TREE_MODE: u32 = 0o755;

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no `volume.json`.
    #[error("it is not a kmsfs store (there is no {VOLUME})")]
    NotAStore,
    /// It was made by a kmsfs from before the first release.
    #[error(
        "it is a store of format 1, which was never released: this kmsfs reads format {FORMAT}"
    )]
    FormatOne,
    /// Somebody else than the user who opens it can enter its folder.
    #[error("others can enter the store's folder (it is {owner}'s, mode {mode:04o})")]
    NotPrivate {
        /// The user whom the folder belongs to.
        owner: u32,
        /// The folder's permissions.
        mode: u32,
    },
    /// `init` was pointed at something that holds files.
    #[error("the folder is not empty")]
    NotEmpty,
    /// `volume.json` is refused.
    #[error("{VOLUME}: {0}")]
    BadVolumeFile(#[from] BadVolumeFile),
    /// Another daemon holds the lock.
    #[error("another kmsfs has it mounted")]
    Busy,
    /// The backing filesystem failed.
    #[error("{0}: {1}")]
    Io(&'static str, #[source] io::Error),
}

pub(super) fn at(what: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |e| StoreError::Io(what, e)
}

/// An open store.
#[derive(Debug)]
pub struct Store {
    /// The store's own folder.
    pub(super) top: Dir,
    tree: Dir,
    pub(super) keys: Dir,
    pub(super) links: Dir,
    dev: u64,
    /// What keeps the mount that the store lies on from being unmounted, where the other folders
    /// were opened through another one.
    _place: Option<Dir>,
}

impl Store {
    /// Makes the layout in `top`, which must be empty, with everything durable: the tree, the
    /// folders of sidecars, branch keys and links, and the lock. `volume.json` is for the caller
    /// to write. From then on nobody but its owner can enter `top`.
    ///
    /// # Errors
    /// `NotEmpty`, `Io`.
    pub fn init(top: Dir) -> Result<Self, StoreError> {
        if !disk::names(&*top).map_err(at("cannot list the store"))?.is_empty() {
            return Err(StoreError::NotEmpty);
        }
        match Self::make(&top) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(StoreError::NotEmpty),
            Err(e) => return Err(StoreError::Io("cannot make the store", e)),
        }
        Self::open(top)
    }

    fn make(top: &Dir) -> io::Result<()> {
        // First: nobody gets a descriptor of what is made in it.
        set_mode(top, 0o700)?;
        let folder = |within: &Dir, name: &str| {
            within.mkdir(OsStr::new(name), 0o700)?;
            within.open_dir(OsStr::new(name))
        };
        let tree = folder(top, FILES)?;
        set_mode(&tree, TREE_MODE)?;
        tree.sync()?;
        let keys = folder(top, KEYS)?;
        folder(&keys, BRANCH)?.sync()?;
        folder(&keys, REMOVED)?.sync()?;
        let links = folder(top, LINKS)?;
        for shards in [keys, links] {
            for i in 0..=255u8 {
                folder(&shards, &format!("{i:02x}"))?;
            }
            shards.sync()?;
        }
        top.open(OsStr::new(LOCK), Open::Create(MODE))?;
        top.sync()
    }

    /// Opens the store whose own folder is `top`.
    ///
    /// # Errors
    /// `NotAStore`, `FormatOne`, `Io`.
    pub fn open(top: Dir) -> Result<Self, StoreError> {
        let open = |name: &str| top.open_dir(OsStr::new(name));
        let is_missing = |e: &io::Error| e.raw_os_error() == Some(libc::ENOENT);
        let keys = match open(KEYS) {
            Ok(dir) => dir,
            Err(e) if is_missing(&e) && open(FORMAT_1).is_ok() => {
                return Err(StoreError::FormatOne);
            }
            Err(e) if is_missing(&e) => return Err(StoreError::NotAStore),
            Err(e) => return Err(StoreError::Io("cannot open the folder keys", e)),
        };
        let links = open(LINKS).map_err(at("cannot open the folder links"))?;
        let tree = open(FILES).map_err(at("cannot open the folder files"))?;
        let dev = tree.stat_self().map_err(at("cannot stat the folder files"))?.dev;
        Ok(Self { top, tree, keys, links, dev, _place: None })
    }

    /// The folder at `path`, opened as a store.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_path(path: &Path) -> Result<Self, StoreError> {
        Self::open(disk::open_dir(path).map_err(at("cannot open the store"))?)
    }

    /// As [`Store::open_path`], for a mount: reading changes times of access as `times` says,
    /// whatever the mount of the store's filesystem says. Where that cannot be had, which a word in
    /// the log tells, they are as there.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_path_for_mount(path: &Path, times: AccessTimes) -> Result<Self, StoreError> {
        let place = disk::open_dir(path).map_err(at("cannot open the store"))?;
        match disk::open_dir_with(path, times) {
            Ok(top) => Ok(Self { _place: Some(place), ..Self::open(top)? }),
            Err(e) => {
                log::info!("times of access are as on the mount that holds the store: {e}");
                Self::open(place)
            }
        }
    }

    /// Makes sure that nobody but `user` (and root) can enter the store's folder: whoever could
    /// would change the tree beneath a mount, which acts with more rights than theirs.
    ///
    /// # Errors
    /// `NotPrivate`, `Io`.
    pub fn check_private(&self, user: u32) -> Result<(), StoreError> {
        let stat = self.top.stat_self().map_err(at("cannot stat the store"))?;
        let (owner, mode) = (stat.uid, stat.mode & 0o7777);
        // An access control list shows in the bits of the group: they are its mask (acl(5)).
        if owner != user || mode & 0o077 != 0 {
            return Err(StoreError::NotPrivate { owner, mode });
        }
        Ok(())
    }

    /// The store's own folder.
    pub fn top(&self) -> &Dir {
        &self.top
    }

    /// The top folder of the tree.
    pub fn tree(&self) -> &Dir {
        &self.tree
    }

    /// Whom the store belongs to: user and group.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn owner(&self) -> io::Result<(u32, u32)> {
        let stat = self.top.stat_self()?;
        Ok((stat.uid, stat.gid))
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
        let open = |how| self.top.open(OsStr::new(LOCK), how);
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

    /// Whether nothing in the store can be changed, for its filesystem is mounted read-only.
    ///
    /// # Errors
    /// `Io`.
    pub fn is_read_only(&self) -> Result<bool, StoreError> {
        if self.tree.statfs().map_err(at("statfs of the store"))?.is_read_only {
            return Ok(true);
        }
        // A server may refuse what the mount of its folder here allows.
        match self.top.open(OsStr::new(LOCK), Open::ReadWrite) {
            Err(e) if e.raw_os_error() == Some(libc::EROFS) => Ok(true),
            Err(e) => Err(StoreError::Io("lock", e)),
            Ok(_) => Ok(false),
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
        sweep_folder(&self.top)?;
        sweep_folder(&self.keys.open_dir(OsStr::new(BRANCH))?)?;
        sweep_folder(&self.keys.open_dir(OsStr::new(REMOVED))?)?;
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
        self.tree.sync_filesystem()
    }
}

/// flock on a folder, held until the file is dropped. The folder itself is locked
/// through a descriptor of its own, so that two threads of one process exclude each other too.
pub(super) fn lock_folder(shard: &Dir) -> io::Result<File> {
    let file = shard.open(OsStr::new("."), Open::Read)?;
    file.lock(Wait::Block)?;
    Ok(file)
}

fn set_mode(folder: &Dir, mode: u32) -> io::Result<()> {
    folder.open(OsStr::new("."), Open::Pin)?.set_mode(mode)
}

fn sweep_folder(folder: &Dir) -> io::Result<()> {
    let _held = lock_folder(folder)?;
    durable::sweep(&**folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::Sim;
    use crate::ids::{BranchId, PageId};
    use crate::kms::{KeyArn, Wrapped};
    use crate::store::{BranchFile, Page};

    fn leftovers(store: &Store) -> usize {
        let shards = |top: &Dir| -> Vec<Dir> {
            let names = disk::names(&**top).expect("listed");
            names.iter().map(|n| top.open_dir(n).expect("opened")).collect()
        };
        // That of branch keys is among those of keys.
        let folders = [vec![store.top.clone()], shards(&store.keys), shards(&store.links)];
        let names = folders.iter().flatten().flat_map(|d| disk::names(&**d).expect("listed"));
        names.filter(|n| durable::is_leftover(n)).count()
    }

    #[test]
    fn a_store_that_others_can_enter_is_refused_and_so_is_one_of_format_1() {
        let sim = Sim::new();
        let store = Store::init(sim.root()).expect("made");
        let owner = store.owner().expect("there").0;
        store.check_private(owner).expect("made so");
        let other = store.check_private(owner + 1);
        assert!(matches!(other, Err(StoreError::NotPrivate { mode: 0o700, .. })), "{other:?}");
        for open in [0o710, 0o701, 0o755, 0o740] {
            set_mode(&sim.root(), open).expect("set");
            let got = store.check_private(owner);
            assert!(matches!(got, Err(StoreError::NotPrivate { mode, .. }) if mode == open));
        }
        let old = Sim::new();
        old.root().mkdir(OsStr::new(FORMAT_1), 0o700).expect("made");
        assert!(matches!(Store::open(old.root()), Err(StoreError::FormatOne)));
        assert!(matches!(Store::open(Sim::new().root()), Err(StoreError::NotAStore)));
    }

    /// A power cut between the steps of a replacement leaves its temporary file, which used to
    /// stay for ever.
    #[test]
    fn what_interrupted_replacements_left_is_swept_and_nothing_else() {
        let sim = Sim::new();
        let store = Store::init(sim.root()).expect("made");
        let (page, link, id) = (PageId::random(), LinkId::random(), BranchId::random());
        let branch = BranchFile::by_kms(KeyArn("arn:k".to_owned()), Wrapped(vec![1; 9]));
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
