//! Cuts the power between all writes of the filesystem layer: names, directories, links and
//! sidecars, over a simulated disk.
//!
//! After every operation of a script, for everything that a disk may then hold, and at every sync
//! on the way: the volume mounts; every entry on disk is shown and found; every file opens and
//! reads as [`History`] allows, so none misses a sidecar line; every link has its target; a check
//! of the store finds no damage; and in every directory files and directories can be made.

use std::ffi::OsString;

use kmsfs::disk::FileKind;
use kmsfs::disk::sim::Sim;
use kmsfs::fs::{Change, Errno, Made, RenameHow, SyncWhat};
use kmsfs::upkeep::{Kind, Problem};

use crate::history::History;
use crate::simulated::{Volume, WHO};

/// Where operations act: names short and long, in directories that come and go.
pub const PATHS: [&str; 10] = [
    "a",
    "b",
    // 200 bytes: over the limit of a short entry.
    concat!(
        "long-50-bytes-50-bytes-50-bytes-50-bytes-50-bytes-",
        "long-50-bytes-50-bytes-50-bytes-50-bytes-50-bytes-",
        "long-50-bytes-50-bytes-50-bytes-50-bytes-50-bytes-",
        "long-50-bytes-50-bytes-50-bytes-50-bytes-50-bytes-",
    ),
    "d",
    "d/a",
    concat!(
        "d/",
        "long-50-bytes-50-bytes-50-bytes-50-bytes-50-bytes-",
        "long-50-bytes-50-bytes-50-bytes-50-bytes-50-bytes-",
        "long-50-bytes-50-bytes-50-bytes-50-bytes-50-bytes-",
        "long-50-bytes-50-bytes-50-bytes-50-bytes-50-bytes-",
    ),
    "e",
    "e/a",
    "d/e",
    "d/e/a",
];
pub const A: usize = 0;
pub const B: usize = 1;
pub const LONG: usize = 2;
pub const D: usize = 3;
pub const DA: usize = 4;
pub const DLONG: usize = 5;
pub const E: usize = 6;
pub const EA: usize = 7;
pub const DE: usize = 8;
pub const DEA: usize = 9;

/// Lengths of contents and of link targets: one record, several; in the link, in a body.
const LENGTHS: [usize; 2] = [100, 5000];
const TARGETS: [usize; 2] = [10, 4000];

/// An operation; numbers are indices of [`PATHS`], then of a length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Create(usize),
    Write(usize, usize),
    Empty(usize),
    Link(usize, usize),
    Symlink(usize, usize),
    Mkdir(usize),
    Rmdir(usize),
    Unlink(usize),
    /// While it is open: it is closed and forgotten afterwards.
    UnlinkOpen(usize),
    Rename(usize, usize),
    Exchange(usize, usize),
    Fsync(usize),
    FsyncDir(usize),
    SyncAll,
    /// The kernel keeps an inode that it looked up, until the end of the mount.
    Hold(usize),
    /// The sidecar lines and bodies of what is gone are removed.
    Sweep,
    EndGrace,
    Remount,
}

/// What an operation made durable.
#[derive(Clone, Copy, Debug)]
enum Synced {
    Nothing,
    Inode(u64),
    All,
}

/// A volume under a script.
pub struct Run {
    volume: Option<Volume>,
    pub history: History,
    value: u8,
}

impl Run {
    pub fn new(volume: Volume) -> Result<Self, String> {
        let history = History::new(volume.tree()?);
        Ok(Self { volume: Some(volume), history, value: 0 })
    }

    /// A volume with something of everything in it, all of it durable.
    pub fn furnished() -> Self {
        let mut run = Self::new(Volume::new()).expect("an empty volume");
        let made = [
            Op::Create(A),
            Op::Write(A, 0),
            Op::Create(LONG),
            Op::Write(LONG, 1),
            Op::Mkdir(D),
            Op::Create(DA),
            Op::Write(DA, 0),
            Op::Symlink(DLONG, 1),
            Op::Mkdir(E),
            Op::Mkdir(DE),
            Op::Link(A, DEA),
            Op::SyncAll,
        ];
        for op in made {
            run.step(op).unwrap_or_else(|why| panic!("{op:?}: {why}"));
        }
        run
    }

    pub fn volume(&self) -> &Volume {
        self.volume.as_ref().expect("taken by a remount alone, which puts one back")
    }

    fn act(&mut self, op: Op) -> Result<(), Errno> {
        self.value = self.value % 250 + 1;
        if op == Op::Remount {
            let sim = self.volume.take().expect("it is there").unmount();
            self.volume = Some(Volume::mount(sim).expect("it was mounted before"));
            return Ok(());
        }
        let v = self.volume();
        match op {
            Op::Create(p) => v.create(PATHS[p]),
            Op::Write(p, len) => v.write(PATHS[p], 0, &vec![self.value; LENGTHS[len]]),
            Op::Empty(p) => v.at(PATHS[p], |ino| {
                let change = Change { size: Some(0), ..Change::default() };
                v.run(|fs| fs.setattr(ino, &change)).map(|_| ())
            }),
            Op::Link(p, q) => v.at(PATHS[p], |ino| {
                v.in_parent(PATHS[q], |dir, name| v.run(|fs| fs.link(ino, dir, name, WHO)))?;
                v.fs().forget(ino, 1);
                Ok(())
            }),
            Op::Symlink(p, len) => {
                let target = OsString::from("t".repeat(TARGETS[len]));
                self.make(p, Made::Symlink(&target))
            }
            Op::Mkdir(p) => self.make(p, Made::Dir(0o755)),
            Op::Rmdir(p) => v.in_parent(PATHS[p], |dir, name| v.run(|fs| fs.rmdir(dir, name))),
            Op::Unlink(p) => v.at(PATHS[p], |_| self.unlink(p)),
            Op::UnlinkOpen(p) => v.opened(PATHS[p], |_| self.unlink(p)),
            Op::Rename(p, q) => self.rename(p, q, RenameHow::Over),
            Op::Exchange(p, q) => self.rename(p, q, RenameHow::Exchange),
            Op::Fsync(p) => v.opened(PATHS[p], |ino| v.run(|fs| fs.fsync(ino, SyncWhat::All))),
            Op::FsyncDir(p) => v.at(dir(p), |ino| match v.run(|fs| fs.getattr(ino))?.0.kind() {
                FileKind::Dir => v.run(|fs| fs.sync_dir(ino)),
                _ => Err(Errno(libc::ENOTDIR)),
            }),
            Op::SyncAll => v.sim.root().sync_filesystem().map_err(|_| Errno(libc::EIO)),
            Op::Hold(p) => {
                v.in_parent(PATHS[p], |dir, name| v.run(|fs| fs.lookup(dir, name)).map(drop))
            }
            Op::Sweep => v.fs().keyring().sweep().map_err(|_| Errno(libc::EIO)),
            Op::EndGrace => v.fs().keyring().end_grace().map_err(|_| Errno(libc::EIO)),
            Op::Remount => unreachable!("handled above"),
        }
    }

    fn make(&self, p: usize, what: Made<'_>) -> Result<(), Errno> {
        let v = self.volume();
        let made = v.in_parent(PATHS[p], |dir, name| v.run(|fs| fs.make(dir, name, what, WHO)));
        made.map(|attr| v.fs().forget(attr.attr.0.ino, 1))
    }

    /// The kernel knows what it removes, and forgets it afterwards.
    fn unlink(&self, p: usize) -> Result<(), Errno> {
        let v = self.volume();
        v.in_parent(PATHS[p], |dir, name| v.run(|fs| fs.unlink(dir, name)))
    }

    fn rename(&self, p: usize, q: usize, how: RenameHow) -> Result<(), Errno> {
        let v = self.volume();
        let act = || {
            v.at(PATHS[p], |_| {
                v.in_parent(PATHS[p], |from, name| {
                    v.in_parent(PATHS[q], |to, new| {
                        v.run(|fs| fs.rename((from, name), (to, new), how))
                    })
                })
            })
        };
        // A target that is there is known, too.
        match v.at(PATHS[q], |_| act()) {
            Err(Errno(libc::ENOENT)) => act(),
            done => done,
        }
    }

    pub fn step(&mut self, op: Op) -> Result<(), String> {
        self.step_unsynced(op).map(|synced| self.note(synced))
    }

    /// Runs an operation and notes what is seen then; answers what it made durable.
    fn step_unsynced(&mut self, op: Op) -> Result<Synced, String> {
        let synced = self.inode_of_sync(op);
        let done = self.act(op);
        self.volume().sim.clear_faults();
        let tree = self.volume().tree()?;
        if let Some(broken) = tree.files.values().find(|c| c.is_err()) {
            return Err(format!("a file does not read: {broken:?}"));
        }
        self.history.add(tree);
        match done {
            Ok(()) => return Ok(synced),
            Err(Errno(libc::EIO)) => {
                self.history.failed();
                if let Op::Link(from, to) = op {
                    self.history.link_failed(PATHS[from], PATHS[to]);
                }
            }
            // What the script does is not always possible.
            Err(Errno(
                libc::ENOENT
                | libc::EEXIST
                | libc::ENOTDIR
                | libc::EISDIR
                | libc::ENOTEMPTY
                | libc::EINVAL
                | libc::EPERM
                | libc::ELOOP,
            )) => {}
            Err(e) => return Err(format!("{e:?}")),
        }
        Ok(Synced::Nothing)
    }

    fn inode_of_sync(&self, op: Op) -> Synced {
        let inode = |path| self.volume().at(path, Ok).map_or(Synced::Nothing, Synced::Inode);
        match op {
            Op::Fsync(p) => inode(PATHS[p]),
            Op::FsyncDir(p) => inode(dir(p)),
            Op::SyncAll => Synced::All,
            _ => Synced::Nothing,
        }
    }

    fn note(&mut self, synced: Synced) {
        match synced {
            Synced::Nothing => {}
            Synced::Inode(ino) => self.history.synced(ino),
            Synced::All => self.history.synced_all(),
        }
    }

    /// Runs an operation, and checks what a power cut may leave during it and after.
    pub fn step_and_cut(&mut self, op: Op, limit: usize, seed: u64) -> Result<(), String> {
        let _ = self.volume().sim.moments();
        let synced = self.step_unsynced(op)?;
        let sim = self.volume().sim.clone();
        sim.moments().iter().try_for_each(|moment| self.cut(moment, limit, seed))?;
        self.note(synced);
        self.cut(&sim, limit, seed)
    }

    fn cut(&self, moment: &Sim, limit: usize, seed: u64) -> Result<(), String> {
        moment.crash().states(limit, seed).try_for_each(|state| {
            let unmounted = state.fork();
            self.check(unmounted, Volume::mount(state).map_err(|e| format!("no mount: {e}"))?)
        })
    }

    fn check(&self, unmounted: Sim, left: Volume) -> Result<(), String> {
        let tree = left.tree()?;
        self.history.check(&tree)?;
        is_undamaged(&unmounted, &tree)?;
        use_all(&left, "", &tree, kmsfs::fs::ROOT)
    }
}

/// The top for anything that is no path of a directory.
fn dir(p: usize) -> &'static str {
    match p {
        D | E | DE => PATHS[p],
        _ => "",
    }
}

/// `kmsfs fsck` finds no damage, but of files that a power cut took the header of.
fn is_undamaged(left: &Sim, tree: &crate::simulated::Tree) -> Result<(), String> {
    let (_, _, found) = crate::simulated::fsck(left)?;
    let damage: Vec<_> = found.into_iter().filter(|f| f.what.kind() == Kind::Damage).collect();
    let headless = tree.files.values().filter(|content| content.is_err()).count();
    if damage.len() == headless && damage.iter().all(|f| f.what == Problem::NoHeader) {
        return Ok(());
    }
    Err(format!("{headless} files do not read, and fsck finds {damage:?}"))
}

/// In every directory files and directories can be made.
fn use_all(
    volume: &Volume,
    at: &str,
    tree: &crate::simulated::Tree,
    ino: u64,
) -> Result<(), String> {
    let failed = |e: Errno| format!("nothing can be made in {at:?}: {e:?}");
    let (file, folder) = (format!("{at}new"), format!("{at}newdir"));
    volume.create(&file).map_err(failed)?;
    volume.write(&file, 0, b"content").map_err(failed)?;
    if volume.read(&file).map_err(failed)? != b"content" {
        return Err(format!("{file} reads back otherwise"));
    }
    let made = volume
        .in_parent(&folder, |dir, name| volume.run(|fs| fs.make(dir, name, Made::Dir(0o755), WHO)));
    volume.fs().forget(made.map_err(failed)?.attr.0.ino, 1);
    for (name, child) in &tree.dirs[&ino] {
        if tree.dirs.contains_key(child) {
            let name = name.to_str().expect("names are ASCII here");
            use_all(volume, &format!("{at}{name}/"), tree, *child)?;
        }
    }
    Ok(())
}
