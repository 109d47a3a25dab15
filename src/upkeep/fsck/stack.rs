//! The directories from the root to where a walk is: however deep that is, few of them are open.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::finding::Place;
use crate::disk::{Dir, Entry};
use crate::ids::DirId;
use crate::store::{Store, TREE};

/// How many of the deepest directories stay open.
const OPEN: usize = 64;
/// How many entries are listed at a time.
const BATCH: usize = 512;

/// A directory on the way.
pub(super) struct Frame {
    /// Its name in its parent; empty for the root.
    entry: OsString,
    /// Its name in the mount, if that is known.
    name: Option<OsString>,
    dir: Option<Dir>,
    /// Its id; `None` where names are plain, or it is damaged.
    pub(super) id: Option<DirId>,
    /// From where to list on; `None` at the end.
    from: Option<u64>,
    batch: VecDeque<Entry>,
}

/// The way.
pub(super) struct Stack {
    frames: Vec<Frame>,
    root: Dir,
}

impl Stack {
    pub(super) fn new(store: &Store) -> Self {
        Self { frames: Vec::new(), root: store.tree().clone() }
    }

    /// Goes down into a directory; the first is the root.
    pub(super) fn push(&mut self, (entry, name): (OsString, Option<OsString>), dir: Dir) {
        let batch = VecDeque::new();
        let frame = Frame { entry, name, dir: Some(dir), id: None, from: Some(0), batch };
        self.frames.push(frame);
        if let Some(closed) = self.frames.len().checked_sub(OPEN + 1) {
            self.frames[closed].dir = None;
        }
    }

    /// Goes up.
    pub(super) fn pop(&mut self) {
        self.frames.pop();
    }

    /// Says the id of the deepest directory.
    pub(super) fn set_id(&mut self, id: Option<DirId>) {
        if let Some(frame) = self.frames.last_mut() {
            frame.id = id;
        }
    }

    pub(super) fn is_at_root(&self) -> bool {
        self.frames.len() == 1
    }

    pub(super) fn top(&self) -> Option<&Frame> {
        self.frames.last()
    }

    /// The deepest directory, opened again where it was closed.
    pub(super) fn dir(&mut self) -> io::Result<Dir> {
        if let Some(Frame { dir: Some(dir), .. }) = self.frames.last() {
            return Ok(dir.clone());
        }
        let mut at = self.root.clone();
        let first_open = self.frames.len().saturating_sub(OPEN);
        for (depth, frame) in self.frames.iter_mut().enumerate() {
            if depth > 0 {
                at = at.open_dir(&frame.entry)?;
            }
            if depth >= first_open {
                frame.dir = Some(at.clone());
            }
        }
        Ok(at)
    }

    /// The next entry of the deepest directory; `None` at its end.
    pub(super) fn next(&mut self) -> io::Result<Option<Entry>> {
        let dir = self.dir()?;
        let Some(frame) = self.frames.last_mut() else { return Ok(None) };
        if let Some(from) = frame.from.filter(|_| frame.batch.is_empty()) {
            let batch = &mut frame.batch;
            dir.list(from, &mut |entry| {
                batch.push_back(entry);
                batch.len() < BATCH
            })?;
            frame.from = frame.batch.back().filter(|_| frame.batch.len() == BATCH).map(|e| e.next);
        }
        Ok(frame.batch.pop_front())
    }

    /// The path on disk of an entry of the deepest directory, or of that itself.
    pub(super) fn path(&self, entry: Option<&OsString>) -> PathBuf {
        self.frames.iter().skip(1).map(|f| &f.entry).chain(entry).collect()
    }

    /// As [`Stack::path`], from the store's folder on.
    fn in_store(&self, entry: Option<&OsString>) -> PathBuf {
        Path::new(TREE).join(self.path(entry))
    }

    /// Where an entry is that has this name in the mount, if any.
    pub(super) fn place(&self, entry: &OsString, name: Option<&OsString>) -> Place {
        self.known(name).unwrap_or_else(|| Place::Store(self.in_store(Some(entry))))
    }

    /// Where the deepest directory is.
    pub(super) fn here(&self) -> Place {
        let names: Option<Vec<&OsString>> =
            self.frames.iter().skip(1).map(|f| f.name.as_ref()).collect();
        match names {
            Some(names) => Place::Mount(in_mount(names)),
            None => Place::Store(self.in_store(None)),
        }
    }

    fn known(&self, name: Option<&OsString>) -> Option<Place> {
        let mut names = Vec::with_capacity(self.frames.len());
        for frame in self.frames.iter().skip(1) {
            names.push(frame.name.as_ref()?);
        }
        names.push(name?);
        Some(Place::Mount(in_mount(names)))
    }
}

fn in_mount(names: Vec<&OsString>) -> PathBuf {
    std::iter::once("/".as_ref()).chain(names.into_iter().map(OsString::as_os_str)).collect()
}
