//! The tree: each folder by itself, from the root on.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use super::file::{self, Buffers};
use super::folder::{Entry, Known, Pair, is_gone, ordered};
use super::{BackupError, Copied, Destination, References, Watcher, to};
use crate::content::{FirstPage, parse_header};
use crate::disk::{Dir, FileKind, Open, Stat, Time};
use crate::fs::DIR_ID;
use crate::ids::FileId;
use crate::names::{self, LinkText};
use crate::store::{Store, TREE};

/// Whether the tree held still while it was walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stillness {
    /// As far as matters.
    Still,
    /// A folder was gone when its turn came: removed, or moved to where the walk has been.
    Lost,
    /// Something was met in two places, and the copy may have it in both.
    Twice,
}

/// Copies the tree once.
pub(super) fn copy(
    store: &Store,
    destination: &Destination,
    references: &mut References,
    done: &mut Copied,
    watcher: &mut dyn Watcher,
) -> Result<Stillness, BackupError> {
    (done.entries, done.failed) = (0, 0);
    let walk = Walk {
        from: store.tree().clone(),
        to: destination.store.tree().clone(),
        dev: store.device(),
        folders: vec![PathBuf::new()],
        met: Met::default(),
        links: HashMap::new(),
        buffers: Buffers::default(),
        references,
        done,
        watcher,
    };
    walk.run()
}

/// What a file says of itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Carries {
    /// This id.
    Id(FileId),
    /// None: it is empty, or has no key yet.
    Nothing,
    /// It was not read.
    Unknown,
}

/// What was met in a walk. Who is met twice was moved meanwhile: the copy may have it in both places,
/// and then no mount reads either.
struct Met {
    files: HashMap<u64, (Time, u64, Carries)>,
    folders: HashSet<OsString>,
    settled: bool,
    lost: bool,
}

impl Default for Met {
    fn default() -> Self {
        Self { files: HashMap::new(), folders: HashSet::new(), settled: true, lost: false }
    }
}

impl Met {
    /// A file with one name. Its number may have been that of another, which was removed meanwhile.
    fn file(&mut self, stat: &Stat, carries: Carries) {
        let now = (stat.mtime, stat.size, carries);
        let Some(before) = self.files.insert(stat.ino, now) else { return };
        self.settled &= match (before.2, carries) {
            (Carries::Id(before), Carries::Id(now)) => before != now,
            (Carries::Nothing, _) | (_, Carries::Nothing) => true,
            _ => (before.0, before.1) != (now.0, now.1),
        };
    }

    /// The id of a folder.
    fn folder(&mut self, id: OsString) {
        self.settled &= self.folders.insert(id);
    }
}

struct Walk<'a> {
    from: Dir,
    to: Dir,
    dev: u64,
    /// Folders that are still to be gone into, from the root on.
    folders: Vec<PathBuf>,
    /// What was met, to see what is met twice.
    met: Met,
    /// Files with several names that the copy has: under this one.
    links: HashMap<u64, PathBuf>,
    buffers: Buffers,
    references: &'a mut References,
    done: &'a mut Copied,
    watcher: &'a mut dyn Watcher,
}

fn open(root: &Dir, path: &Path) -> io::Result<Dir> {
    path.iter().try_fold(root.clone(), |dir, name| dir.open_dir(name))
}

/// Opens a folder of the copy, and lets its owner do everything in it for now: its own mode may
/// forbid him.
fn open_for_writing(root: &Dir, path: &Path) -> io::Result<Dir> {
    let Some(name) = path.file_name() else { return Ok(root.clone()) };
    let parent = open(root, path.parent().unwrap_or(Path::new("")))?;
    let pin = parent.open(name, Open::Pin)?;
    let mode = pin.mode()? & 0o7777;
    if mode & 0o700 != 0o700 {
        pin.set_mode(mode | 0o700)?;
    }
    parent.open_dir(name)
}

/// What went wrong with an entry: on which side it was is not to be seen in the error alone, but a
/// destination that is full or fails is no reason to go on.
fn is_of_destination(e: &io::Error) -> bool {
    let ends = [libc::ENOSPC, libc::EDQUOT, libc::EROFS, libc::EMFILE, libc::ENFILE];
    e.raw_os_error().is_some_and(|code| ends.contains(&code))
}

impl Walk<'_> {
    fn run(mut self) -> Result<Stillness, BackupError> {
        while let Some(path) = self.folders.pop() {
            self.folder(&path)?;
        }
        Ok(match (self.met.settled, self.met.lost) {
            (false, _) => Stillness::Twice,
            (true, true) => Stillness::Lost,
            (true, false) => Stillness::Still,
        })
    }

    /// An entry that cannot be copied is told of, and the rest goes on.
    fn failed(&mut self, path: &Path, e: &io::Error) -> Result<(), BackupError> {
        let place = Path::new(TREE).join(path);
        if is_of_destination(e) {
            let again = e.raw_os_error().map_or(e.kind().into(), io::Error::from_raw_os_error);
            return Err(BackupError::To(place, again));
        }
        self.done.failed += 1;
        self.watcher.failed(&place, e);
        Ok(())
    }

    fn folder(&mut self, path: &Path) -> Result<(), BackupError> {
        let from = match open(&self.from, path) {
            Ok(from) => from,
            Err(e) if is_gone(&e) || e.raw_os_error() == Some(libc::ENOTDIR) => {
                return self.lost(path);
            }
            Err(e) => return self.failed(path, &e),
        };
        let to_dir = open_for_writing(&self.to, path).map_err(to(&Path::new(TREE).join(path)))?;
        let pair = Pair { from, to: to_dir, dev: self.dev };
        let listed = ordered(&pair.from).and_then(|names| Ok((names, pair.from.stat_self()?)));
        let (names, stat) = match listed {
            Ok(listed) => listed,
            // One that was removed while it is open is empty, and cannot be looked at.
            Err(e) if is_gone(&e) => return self.lost(path),
            Err(e) => return self.failed(path, &e),
        };
        let kept = self.entries(&pair, path, names)?;
        self.remove_others(&pair, path, &kept)?;
        let own = pair.from.open(OsStr::new("."), Open::Pin);
        let own = own.and_then(|own| {
            let there = pair.to.open(OsStr::new("."), Open::Pin)?;
            file::attributes(&*own, &stat, &*there)
        });
        match own {
            Ok(()) => Ok(()),
            Err(e) if is_gone(&e) => self.lost(path),
            Err(e) => self.failed(path, &e),
        }
    }

    /// A folder was moved or removed since its parent was listed: where it lay it is no more.
    fn lost(&mut self, path: &Path) -> Result<(), BackupError> {
        self.met.lost = true;
        self.remove(path)
    }

    /// Copies a folder's entries; answers which of them the copy has.
    fn entries(
        &mut self,
        pair: &Pair,
        path: &Path,
        mut names: Vec<OsString>,
    ) -> Result<HashSet<OsString>, BackupError> {
        let mut known = Known::new();
        let mut kept = HashSet::new();
        if !path.as_os_str().is_empty() && names.first().is_none_or(|name| *name != *DIR_ID) {
            // It may have been made after the folder was listed.
            names.push(DIR_ID.into());
        }
        for name in names {
            if names::is_long_entry(name.as_encoded_bytes()) {
                let record = names::record_of(name.as_encoded_bytes());
                if !kept.contains(&record) {
                    self.entry(pair, path, &record, (&mut known, &mut kept))?;
                }
            }
            self.entry(pair, path, &name, (&mut known, &mut kept))?;
        }
        Ok(kept)
    }

    fn entry(
        &mut self,
        pair: &Pair,
        path: &Path,
        name: &OsStr,
        (known, kept): (&mut Known, &mut HashSet<OsString>),
    ) -> Result<(), BackupError> {
        let place = path.join(name);
        let copied = match self.linked(pair, name, &place) {
            Ok(true) => {
                kept.insert(name.to_owned());
                return Ok(());
            }
            Ok(false) => pair.copy(name, known, &mut self.buffers),
            Err(e) => Err(e),
        };
        let written = self.done.bytes;
        match copied {
            Ok(Entry::Gone) => return Ok(()),
            Ok(Entry::Kept(stat, text)) => self.met(&stat, &place, Carries::Unknown, text),
            Ok(Entry::Folder) => self.folders.push(place),
            Ok(Entry::File(stat, file)) => {
                self.done.written += 1;
                self.done.bytes += file.bytes;
                let carries = match parse_header(&file.first) {
                    Ok(FirstPage::Keyed(header)) if stat.size > 0 => Carries::Id(header.file),
                    _ => Carries::Nothing,
                };
                self.met(&stat, &place, carries, None);
                if let Carries::Id(id) = carries {
                    self.references.files.push((id, place));
                }
            }
            Ok(Entry::Made(stat, text)) => {
                let text = text.unwrap_or_default();
                self.met(&stat, &place, Carries::Nothing, Some(text.clone()));
                if let Ok(LinkText::Body(id)) = names::parse_link(text.as_encoded_bytes()) {
                    self.references.links.push((id, place));
                }
            }
            Err(e) => self.failed(&place, &e)?,
        }
        kept.insert(name.to_owned());
        self.done.entries += 1;
        self.watcher.advance(1, self.done.bytes - written);
        Ok(())
    }

    /// Whether an entry is another name of what the copy has, and is made so.
    fn linked(&mut self, pair: &Pair, name: &OsStr, place: &Path) -> io::Result<bool> {
        let Ok(stat) = pair.from.stat(name) else { return Ok(false) };
        if stat.nlink < 2 || stat.kind() == FileKind::Dir {
            return Ok(false);
        }
        let Some(first) = self.links.get(&stat.ino).filter(|first| **first != *place) else {
            return Ok(false);
        };
        let (Some(entry), Some(parent)) = (first.file_name(), first.parent()) else {
            return Ok(false);
        };
        let there = open(&self.to, parent).and_then(|dir| dir.stat(entry).map(|_| dir));
        match there {
            Ok(dir) => pair.link(name, (&dir, entry)).map(|()| true),
            Err(e) if is_gone(&e) => {
                // It was removed meanwhile, or its folder was.
                self.links.remove(&stat.ino);
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    fn met(&mut self, stat: &Stat, place: &Path, carries: Carries, text: Option<OsString>) {
        if stat.nlink > 1 {
            self.links.entry(stat.ino).or_insert_with(|| place.to_owned());
        } else if stat.kind() == FileKind::File {
            self.met.file(stat, carries);
        } else if let Some(id) = text.filter(|_| place.ends_with(DIR_ID)) {
            self.met.folder(id);
        }
    }

    /// Removes an entry from the copy.
    fn remove(&mut self, path: &Path) -> Result<(), BackupError> {
        let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else { return Ok(()) };
        let removed = open(&self.to, parent).and_then(|dir| file::remove(&*dir, name));
        match removed {
            Ok(_) => Ok(()),
            Err(e) if is_gone(&e) => Ok(()),
            Err(e) => Err(BackupError::To(Path::new(TREE).join(path), e)),
        }
    }

    /// Removes from the copy what the store does not have any more.
    fn remove_others(
        &mut self,
        pair: &Pair,
        path: &Path,
        kept: &HashSet<OsString>,
    ) -> Result<(), BackupError> {
        let place = |name: &OsStr| Path::new(TREE).join(path).join(name);
        let names = crate::disk::names(&*pair.to).map_err(to(&place(OsStr::new(""))))?;
        for name in names.iter().filter(|name| !kept.contains(*name)) {
            file::remove(&*pair.to, name).map_err(to(&place(name)))?;
            self.done.removed += 1;
        }
        Ok(())
    }
}
