//! One folder of the tree, and the same folder in the copy.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;

use super::file::{self, Buffers, Written};
use crate::disk::{self, Dir, FileKind, Open, Replace, Stat, Time};
use crate::fs::DIR_ID;
use crate::names;

/// Both of them.
pub(super) struct Pair {
    pub(super) from: Dir,
    pub(super) to: Dir,
    /// The store's device.
    pub(super) dev: u64,
}

/// The files of a folder that were copied, by inode number: under which name, and as what they were
/// then. A number may be another file's by now.
pub(super) type Known = HashMap<u64, (OsString, (Time, u64))>;

/// What became of an entry.
pub(super) enum Entry {
    /// It is gone by now.
    Gone,
    /// The copy has it already: with a symlink's text.
    Kept(Stat, Option<OsString>),
    /// A folder, to be gone into.
    Folder,
    /// A regular file was written.
    File(Stat, Written),
    /// Anything else was made: with a symlink's text.
    Made(Stat, Option<OsString>),
}

/// The names of a folder in the order in which they are copied: the id, then the records of long
/// names, then the rest.
pub(super) fn ordered(dir: &Dir) -> io::Result<Vec<OsString>> {
    let mut names = disk::names(&**dir)?;
    let rank = |name: &OsString| match name {
        name if *name == *DIR_ID => 0,
        name if names::is_record(name.as_bytes()) => 1,
        _ => 2,
    };
    names.sort_by(|a, b| (rank(a), a).cmp(&(rank(b), b)));
    Ok(names)
}

pub(super) fn is_gone(e: &io::Error) -> bool {
    e.raw_os_error() == Some(libc::ENOENT)
}

impl Pair {
    /// Copies an entry. `known` are the inodes of this folder that were copied under another name
    /// a moment ago: one that was renamed since has the new name alone.
    pub(super) fn copy(
        &self,
        name: &OsStr,
        known: &mut Known,
        buffers: &mut Buffers,
    ) -> io::Result<Entry> {
        let stat = match self.from.stat(name) {
            Err(e) if is_gone(&e) => return Ok(Entry::Gone),
            stat => stat?,
        };
        if stat.dev != self.dev {
            return Err(io::Error::from_raw_os_error(libc::EXDEV));
        }
        if stat.nlink == 1 && stat.kind() == FileKind::File {
            let state = (stat.mtime, stat.size);
            if let Some((before, known)) = known.insert(stat.ino, (name.to_owned(), state))
                && before != name
                && known == state
                && self.from.stat(&before).is_err_and(|e| is_gone(&e))
                && self.to.stat(&before).is_ok()
            {
                self.to.rename(&before, &*self.to, name, Replace::Over)?;
            }
        }
        let there = match self.to.stat(name) {
            Err(e) if is_gone(&e) => None,
            stat => Some(stat?),
        };
        let there = match there {
            Some(there) if there.kind() != stat.kind() => {
                file::remove(&*self.to, name)?;
                None
            }
            there => there,
        };
        match stat.kind() {
            FileKind::Dir => self.folder(name, there),
            FileKind::File => self.file(name, stat, there, buffers),
            FileKind::Symlink => self.symlink(name, stat, there),
            _ => self.special(name, stat, there),
        }
    }

    fn folder(&self, name: &OsStr, there: Option<Stat>) -> io::Result<Entry> {
        if there.is_none() {
            self.to.mkdir(name, 0o700)?;
        }
        Ok(Entry::Folder)
    }

    fn file(
        &self,
        name: &OsStr,
        stat: Stat,
        there: Option<Stat>,
        buffers: &mut Buffers,
    ) -> io::Result<Entry> {
        if there.is_some_and(|there| file::is_unchanged(&stat, &there)) {
            return Ok(Entry::Kept(stat, None));
        }
        let from = match self.from.open(name, Open::Read) {
            Err(e) if is_gone(&e) => return Ok(Entry::Gone),
            opened => opened?,
        };
        let written = file::copy(&from, &self.to, name, buffers)?;
        Ok(Entry::File(from.stat()?, written))
    }

    fn symlink(&self, name: &OsStr, stat: Stat, there: Option<Stat>) -> io::Result<Entry> {
        let text = match self.from.readlink(name) {
            Err(e) if is_gone(&e) => return Ok(Entry::Gone),
            text => text?,
        };
        if there.is_some() && self.to.readlink(name)? == text {
            if !there.is_some_and(|there| file::is_unchanged(&stat, &there)) {
                self.attributes(name, &stat)?;
            }
            return Ok(Entry::Kept(stat, Some(text)));
        }
        if there.is_some() {
            self.to.unlink(name)?;
        }
        self.to.symlink(name, &text)?;
        self.attributes(name, &stat)?;
        Ok(Entry::Made(stat, Some(text)))
    }

    fn special(&self, name: &OsStr, stat: Stat, there: Option<Stat>) -> io::Result<Entry> {
        let is_same = |there: &Stat| (there.mode, there.rdev) == (stat.mode, stat.rdev);
        if there.is_some_and(|t| is_same(&t) && file::is_unchanged(&stat, &t)) {
            return Ok(Entry::Kept(stat, None));
        }
        if there.is_some() {
            self.to.unlink(name)?;
        }
        self.to.mknod(name, stat.mode, stat.rdev)?;
        self.attributes(name, &stat)?;
        Ok(Entry::Made(stat, None))
    }

    /// Gives an entry of the copy the attributes of its original.
    pub(super) fn attributes(&self, name: &OsStr, stat: &Stat) -> io::Result<()> {
        let from = match self.from.open(name, Open::Pin) {
            Err(e) if is_gone(&e) => return Ok(()),
            pin => pin?,
        };
        file::attributes(&*from, stat, &*self.to.open(name, Open::Pin)?)
    }

    /// Another name of an inode that the copy has.
    pub(super) fn link(&self, name: &OsStr, (dir, first): (&Dir, &OsStr)) -> io::Result<()> {
        let first_ino = dir.stat(first)?.ino;
        match self.to.stat(name) {
            Ok(there) if there.ino == first_ino => return Ok(()),
            Ok(_) => drop(file::remove(&*self.to, name)?),
            Err(e) if is_gone(&e) => {}
            Err(e) => return Err(e),
        }
        dir.link(first, &*self.to, name)
    }
}
