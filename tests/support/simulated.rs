//! A volume on a simulated disk, used through the filesystem layer without FUSE.
#![allow(dead_code)] // Each test binary uses a part of it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::sync::{Arc, LazyLock, Mutex};

use kmsfs::disk::device::{Device, Writeback};
use kmsfs::disk::sim::Sim;
use kmsfs::disk::{Dir, FileKind};
use kmsfs::fs::{Access, Caller, Detail, Errno, Fs, OpenFor, Outcome, ROOT, Reached, Visit};
use kmsfs::ids::VolumeId;
use kmsfs::keys::{self, OpenError};
use kmsfs::kms::local::{LocalKms, Sealing};
use kmsfs::kms::{KeyAdmin, KeyRef};
use kmsfs::store::{DataKeys, Names, Provider, Settings, Store};
use kmsfs::upkeep::{Checked, Finding, Fsck, Offline};

pub const WHO: Caller = Caller { uid: 0, gid: 0, umask: 0o022 };

/// A keystore in memory, one for all volumes.
static KMS: LazyLock<Arc<LocalKms>> = LazyLock::new(|| {
    let kms = LocalKms::create_in(Sim::new().root(), &Sealing::Clear).expect("made");
    let key = kms.create("").expect("made");
    kms.set_alias("alias/test", &KeyRef(key.id)).expect("set");
    Arc::new(kms)
});

static EMPTY: LazyLock<Sim> = LazyLock::new(|| made(Names::Encrypted, DataKeys::PerFile));
static EMPTY_PLAIN: LazyLock<Sim> = LazyLock::new(|| made(Names::Plain, DataKeys::PerFile));

fn made(names: Names, data_keys: DataKeys) -> Sim {
    let sim = Sim::new();
    init_with(&sim, names, data_keys).expect("made");
    sim
}

pub fn kms() -> Arc<LocalKms> {
    KMS.clone()
}

/// `kmsfs init`.
pub fn init(sim: &Sim) -> Result<(), OpenError> {
    init_with(sim, Names::Encrypted, DataKeys::PerFile)
}

/// A disk with an empty volume.
pub fn empty(names: Names) -> Sim {
    match names {
        Names::Encrypted => EMPTY.fork(),
        Names::Plain => EMPTY_PLAIN.fork(),
    }
}

/// The volume of a disk, opened without a mount.
pub fn open(sim: &Sim) -> Result<Offline, OpenError> {
    let device = Device { writeback: Writeback::WaitFirst, tearing: None };
    Offline::over(Store::open(sim.root())?, &device, KMS.clone(), Access::ReadWrite)
}

fn init_with(sim: &Sim, names: Names, data_keys: DataKeys) -> Result<(), OpenError> {
    let store = Store::init(sim.root())?;
    let settings = Settings::new(VolumeId([7; 16]), names, data_keys);
    let provider = Provider::Local { keystore: "/keystore".to_owned() };
    keys::create(&store, &**KMS, provider, KeyRef("alias/test".to_owned()), settings)?;
    Ok(())
}

/// `kmsfs fsck`: what it found, and what can be repaired.
pub fn fsck(sim: &Sim) -> Result<(Fsck, Checked, Vec<Finding>), String> {
    let store = Store::open(sim.root()).map_err(|e| e.to_string())?;
    let fsck = Fsck::over(store, KMS.clone()).map_err(|e| e.to_string())?;
    let found = Mutex::new(Vec::new());
    let told = |finding: &Finding| found.lock().expect("not poisoned").push(finding.clone());
    let checked = fsck.check(&told, &|_| {}).map_err(|e| e.to_string())?;
    Ok((fsck, checked, found.into_inner().expect("not poisoned")))
}

/// The tree of the volume on a disk, as it lies there.
pub fn tree(sim: &Sim) -> Dir {
    sim.root().open_dir(OsStr::new("files")).expect("a store")
}

/// What is seen in a volume, by inode number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    pub dirs: BTreeMap<u64, BTreeMap<OsString, u64>>,
    pub files: BTreeMap<u64, Result<Vec<u8>, Errno>>,
    pub links: BTreeMap<u64, OsString>,
}

impl Tree {
    /// The inode that a path leads to, without links on the way.
    pub fn find(&self, path: &str) -> Option<u64> {
        let parts = path.split('/').filter(|part| !part.is_empty());
        parts
            .into_iter()
            .try_fold(ROOT, |ino, name| self.dirs.get(&ino)?.get(OsStr::new(name)).copied())
    }
}

/// A mounted volume.
pub struct Volume {
    pub sim: Sim,
    offline: Offline,
}

impl Volume {
    /// An empty volume.
    pub fn new() -> Self {
        Self::mount(empty(Names::Encrypted)).expect("an empty volume")
    }

    /// An empty volume whose data keys are wrapped by branch keys.
    pub fn under_branches() -> Self {
        Self::with(Names::Encrypted, DataKeys::Branch)
    }

    /// An empty volume with these settings.
    pub fn with(names: Names, data_keys: DataKeys) -> Self {
        Self::mount(made(names, data_keys)).expect("an empty volume")
    }

    pub fn mount(sim: Sim) -> Result<Self, OpenError> {
        let offline = open(&sim)?;
        Ok(Self { sim, offline })
    }

    /// Ends as a daemon does that is asked to.
    pub fn unmount(self) -> Sim {
        self.offline.fs().forget_all();
        self.offline.fs().keyring().end_grace().expect("the disk is well");
        self.offline.fs().keyring().volume();
        self.sim
    }

    pub fn fs(&self) -> &Fs {
        self.offline.fs()
    }

    pub fn run<T>(&self, op: impl FnMut(&Fs) -> Outcome<T>) -> Result<T, Errno> {
        self.offline.run(op)
    }

    /// Looks a path up, acts on its inode, and forgets the lookups.
    pub fn at<T>(&self, path: &str, act: impl FnOnce(u64) -> Result<T, Errno>) -> Result<T, Errno> {
        let mut known = vec![ROOT];
        let mut done = Ok(ROOT);
        for name in path.split('/').filter(|n| !n.is_empty()) {
            let parent = *known.last().expect("begins with the root");
            if self.run(|fs| fs.getattr(parent))?.0.kind() != FileKind::Dir {
                // The kernel looks nothing up in what is no directory.
                done = Err(Errno(libc::ENOTDIR));
                break;
            }
            done = self.run(|fs| fs.lookup(parent, OsStr::new(name))).map(|attr| attr.attr.0.ino);
            match done {
                Ok(ino) => known.push(ino),
                Err(_) => break,
            }
        }
        let done = done.and_then(act);
        known[1..].iter().rev().for_each(|ino| self.fs().forget(*ino, 1));
        done
    }

    /// Acts on the parent of a path and the name in it.
    pub fn in_parent<T>(
        &self,
        path: &str,
        act: impl FnOnce(u64, &OsStr) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        self.at(parent, |ino| match self.run(|fs| fs.getattr(ino))?.0.kind() {
            FileKind::Dir => act(ino, OsStr::new(name)),
            _ => Err(Errno(libc::ENOTDIR)),
        })
    }

    /// Acts on an open file.
    pub fn opened<T>(
        &self,
        path: &str,
        act: impl FnOnce(u64) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        self.at(path, |ino| {
            self.run(|fs| fs.open(ino, OpenFor::Writing))?;
            let done = act(ino);
            self.run(|fs| fs.release(ino, OpenFor::Writing))?;
            done
        })
    }

    pub fn create(&self, path: &str) -> Result<(), Errno> {
        let ino = self.in_parent(path, |dir, name| {
            Ok(self.run(|fs| fs.create(dir, name, 0o644, WHO))?.attr.0.ino)
        })?;
        let done = self.run(|fs| fs.release(ino, OpenFor::Writing));
        self.fs().forget(ino, 1);
        done
    }

    pub fn write(&self, path: &str, at: u64, data: &[u8]) -> Result<(), Errno> {
        self.opened(path, |ino| self.run(|fs| fs.write(ino, at, data)))
    }

    pub fn read(&self, path: &str) -> Result<Vec<u8>, Errno> {
        self.at(path, |ino| self.content(ino))
    }

    fn content(&self, ino: u64) -> Result<Vec<u8>, Errno> {
        self.run(|fs| fs.open(ino, OpenFor::Reading))?;
        let read = || {
            let size = self.run(|fs| fs.getattr(ino))?.0.size;
            let buf = RefCell::new(vec![0xaa; usize::try_from(size).expect("small")]);
            let n = self.run(|fs| fs.read(ino, 0, &mut buf.borrow_mut()))?;
            assert_eq!(n as u64, size, "all of it is read");
            Ok(buf.into_inner())
        };
        let done = read();
        self.run(|fs| fs.release(ino, OpenFor::Reading))?;
        done
    }

    /// Everything in the volume. What cannot be read is an error, but for contents.
    pub fn tree(&self) -> Result<Tree, String> {
        let mut tree = Tree::default();
        self.walk(ROOT, &crate::simulated::tree(&self.sim), &mut tree)?;
        Ok(tree)
    }

    fn walk(&self, dir: u64, raw: &Dir, tree: &mut Tree) -> Result<(), String> {
        let names = self.list(dir).map_err(|e| format!("directory {dir} does not list: {e:?}"))?;
        let mut on_disk = BTreeMap::new();
        raw.list(0, &mut |e| {
            if !is_own(&e.name) {
                on_disk.insert(e.ino, e.name);
            }
            true
        })
        .map_err(|e| e.to_string())?;
        let mut shown: Vec<u64> = names.values().copied().collect();
        shown.sort_unstable();
        shown.dedup();
        if !shown.iter().eq(on_disk.keys()) {
            return Err(format!("directory {dir} shows {names:?} of {on_disk:?}"));
        }
        for (name, ino) in &names {
            let attr = self.run(|fs| fs.lookup(dir, name));
            let kind = attr.map_err(|e| format!("{name:?} is not found: {e:?}"))?.attr.0.kind();
            match kind {
                FileKind::Dir => {
                    let below = raw.open_dir(&on_disk[ino]).map_err(|e| e.to_string())?;
                    self.walk(*ino, &below, tree)?;
                }
                FileKind::Symlink => {
                    let target = self.run(|fs| fs.readlink(*ino));
                    tree.links.insert(*ino, target.map_err(|e| format!("{name:?}: {e:?}"))?);
                }
                _ => drop(tree.files.insert(*ino, self.content(*ino))),
            }
            self.fs().forget(*ino, 1);
        }
        tree.dirs.insert(dir, names);
        Ok(())
    }

    fn list(&self, dir: u64) -> Result<BTreeMap<OsString, u64>, Errno> {
        let handle = self.run(|fs| fs.open_listing(dir, 0))?;
        let (mut names, mut from) = (BTreeMap::new(), 0);
        let done = loop {
            let reached = self.run(|fs| {
                fs.list(handle, &mut from, Detail::Names, &mut |listed| {
                    if listed.name != "." && listed.name != ".." {
                        names.insert(listed.name.clone(), listed.ino);
                    }
                    Visit::Taken
                })
            });
            match reached {
                Ok(Reached::More) => {}
                Ok(Reached::End) => break Ok(names),
                Err(e) => break Err(e),
            }
        };
        self.fs().close_listing(handle);
        done
    }
}

/// What kmsfs keeps beside the entries, and what others do.
fn is_own(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with('.') || name.ends_with(".name")
}
