//! Repairing what can be repaired with no loss.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use super::finding::{Finding, Kind, errno};
use super::{Fsck, FsckError, Seen, twin};
use crate::disk::identity::{self, Owners};
use crate::disk::{Dir, File, FileKind, Open};
use crate::fs::{DIR_ID, Errno};
use crate::ids::{BranchId, DirId, LinkId, PageId, SLOTS};
use crate::store::{Copy, Folder, Store, StoreError};

/// Some slots of a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Slots(u64);

impl Slots {
    pub(super) fn add(&mut self, slot: u16) {
        debug_assert!(slot < SLOTS, "a line that parses has a slot");
        self.0 |= 1 << slot;
    }

    pub(super) fn has(self, slot: u16) -> bool {
        self.0 & 1 << slot != 0
    }
}

/// What to do about a finding. In this order all are done: what frees something comes after the
/// syncfs, and a branch key goes after the lines that said it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Repair {
    /// Replace the other copy of `volume.json` by this one.
    Volume(Copy),
    /// Make a folder of the store.
    Folder(Folder),
    /// Remove temporary files.
    Temporary,
    /// Move what is not of the store out of the way: its path in the store.
    Aside(PathBuf),
    /// Make one of two files with one id; or move the other aside, where it is another.
    Twin {
        /// The path on disk of the one that stays.
        keep: PathBuf,
        /// That of the other.
        other: PathBuf,
    },
    /// Give a directory an id.
    DirId(PathBuf),
    /// Remove the record of a long name.
    Record(PathBuf),
    /// Remove an attribute of an entry that the attribute block hides.
    Xattr(PathBuf, OsString),
    /// Remove lines.
    Lines(PageId, Slots),
    /// Remove a body.
    Body(LinkId),
    /// Remove a branch key.
    Branch(BranchId),
}

impl Repair {
    /// Its place in the order.
    fn rank(&self) -> u8 {
        match self {
            Self::Volume(_) => 0,
            Self::Folder(_) => 1,
            Self::Temporary => 2,
            Self::Aside(_) => 3,
            Self::Twin { .. } => 4,
            Self::DirId(_) => 5,
            Self::Record(_) => 6,
            Self::Xattr(..) => 7,
            Self::Lines(..) => 8,
            Self::Body(_) => 9,
            Self::Branch(_) => 10,
        }
    }

    /// Whether it takes for granted that everything in the tree was seen.
    fn needs_all(&self) -> bool {
        matches!(self, Self::Lines(..) | Self::Body(_) | Self::Branch(_))
    }

    fn run(&self, store: &Store) -> io::Result<()> {
        match self {
            Self::Volume(copy) => {
                let file = store.read_volume_copy(*copy).map_err(|e| match e {
                    StoreError::Io(_, e) => e,
                    _ => libc_error(libc::EBADMSG),
                })?;
                store.write_volume_copy(copy.other(), &file)
            }
            Self::Folder(folder) => store.make_folder(*folder),
            Self::Temporary => store.sweep_leftovers(),
            Self::Aside(path) => store.set_aside(path),
            Self::Twin { keep, other } => twin::settle(store, keep, other),
            Self::DirId(path) => give_id(store, path),
            Self::Record(path) => remove_record(store, path),
            Self::Xattr(path, name) => pinned(store, path)?.remove_xattr(name),
            Self::Lines(page, slots) => {
                store.change_page(*page, |lines| lines.remove(|slot| slots.has(slot)))
            }
            Self::Body(link) => store.remove_link_body(*link),
            Self::Branch(branch) => store.remove_branch(*branch),
        }
    }
}

fn libc_error(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

/// A finding, and what can be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Todo {
    pub(super) finding: Finding,
    pub(super) repair: Option<Repair>,
}

/// What a check that ended has found.
#[derive(Debug)]
pub struct Checked {
    /// What was looked at.
    pub seen: Seen,
    todo: Vec<Todo>,
    kept: usize,
}

impl Checked {
    pub(super) fn new(seen: Seen, mut todo: Vec<Todo>, is_whole: bool) -> Self {
        let all = todo.len();
        todo.retain(|t| t.repair.as_ref().is_some_and(|r| is_whole || !r.needs_all()));
        todo.sort_by_key(|t| t.repair.as_ref().map(Repair::rank));
        Self { seen, kept: all - todo.len(), todo }
    }

    /// How many findings can be repaired.
    pub fn repairable(&self) -> usize {
        self.todo.len()
    }

    /// How many could be, if the tree had no damage: what they remove may belong to what cannot
    /// be read.
    pub fn kept(&self) -> usize {
        self.kept
    }
}

/// What a repair has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Findings that are gone.
    pub done: u64,
    /// Of them, those that were damage.
    pub damage: u64,
    /// Findings that could not be repaired.
    pub failed: u64,
}

impl Fsck {
    /// Repairs what a check has found that can be repaired with no loss: copies of
    /// `volume.json`, folders of the store, temporary files, ids of empty directories, records of
    /// long names, attributes that were replaced; wrapped keys and bodies that nothing refers to; and what is not of the store is
    /// moved aside. `report` gets each finding,
    /// and why it could not be repaired, if so.
    ///
    /// # Errors
    /// `Sync`, `Owner`. What is done stays done.
    pub fn repair(
        &self,
        checked: &Checked,
        report: &mut dyn FnMut(&Finding, Option<Errno>),
    ) -> Result<Repaired, FsckError> {
        let mut repaired = Repaired::default();
        if checked.todo.is_empty() {
            return Ok(repaired);
        }
        // What a killed daemon unlinked may be on the disk still, and its key has to be, too.
        self.store.sync().map_err(FsckError::Sync)?;
        let (uid, gid) = self.store.owner().map_err(FsckError::Owner)?;
        assume(uid, gid).map_err(FsckError::Owner)?;
        self.run(checked, &mut repaired, report);
        assume(0, 0).map_err(FsckError::Owner)?;
        self.store.sync().map_err(FsckError::Sync)?;
        Ok(repaired)
    }

    fn run(
        &self,
        checked: &Checked,
        repaired: &mut Repaired,
        report: &mut dyn FnMut(&Finding, Option<Errno>),
    ) {
        let mut swept = None;
        for Todo { finding, repair } in &checked.todo {
            let Some(repair) = repair else { continue };
            let outcome = match repair {
                // One sweep is for all.
                Repair::Temporary => {
                    *swept.get_or_insert_with(|| repair.run(&self.store).map_err(|e| errno(&e)))
                }
                repair => repair.run(&self.store).map_err(|e| errno(&e)),
            };
            match outcome {
                Ok(()) => repaired.done += 1,
                Err(_) => repaired.failed += 1,
            }
            if outcome.is_ok() && finding.what.kind() == Kind::Damage {
                repaired.damage += 1;
            }
            report(finding, outcome.err());
        }
    }
}

/// What root writes from here on belongs to this user, as what it replaces does: the daemon of an
/// ordinary user could not read it else.
fn assume(uid: u32, gid: u32) -> io::Result<()> {
    identity::assume(Owners::detect(), uid, gid)
}

/// Opens the directory that a path of the tree lies in; the path was walked a moment ago.
pub(super) fn parent_of(store: &Store, path: &Path) -> io::Result<(Dir, OsString)> {
    let mut dir = store.tree().clone();
    let mut parts = path.iter();
    let name = parts.next_back().ok_or(libc_error(libc::EINVAL))?;
    for part in parts {
        dir = dir.open_dir(part)?;
    }
    Ok((dir, name.to_owned()))
}

/// Holds the inode that a path of the tree leads to; an empty one is the tree's own.
fn pinned(store: &Store, path: &Path) -> io::Result<File> {
    if path.as_os_str().is_empty() {
        return store.tree().open(OsStr::new("."), Open::Pin);
    }
    let (dir, name) = parent_of(store, path)?;
    dir.open(&name, Open::Pin)
}

fn give_id(store: &Store, path: &Path) -> io::Result<()> {
    let (parent, name) = parent_of(store, path)?;
    let dir = parent.open_dir(&name)?;
    if !crate::disk::names(&*dir)?.is_empty() {
        return Err(libc_error(libc::ENOTEMPTY));
    }
    dir.symlink(OsStr::new(DIR_ID), OsStr::new(&DirId::random().to_string()))?;
    dir.sync()
}

fn remove_record(store: &Store, path: &Path) -> io::Result<()> {
    let (dir, name) = parent_of(store, path)?;
    if dir.stat(&name)?.kind() != FileKind::Symlink {
        return Err(libc_error(libc::EINVAL));
    }
    dir.unlink(&name)
}
