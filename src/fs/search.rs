//! Finding an inode by its number alone: for a file handle (open_by_handle_at(2)) whose inode the
//! kernel has forgotten, or that is from an earlier mount. NFS servers hold such handles for as
//! long as their clients like.
//!
//! No filesystem says where a number lies, so the tree is walked, names and numbers alone, in
//! pieces. Where a walk saw an entry is remembered, so that the next handle mostly needs none.

use std::ffi::{OsStr, OsString};
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;

use lru::LruCache;
use parking_lot::Mutex;

use super::Fs;
use super::attr::Found;
use super::errno::{Outcome, errno};
use super::names::DIR_ID;
use super::piece::Piece;
use super::table::{ROOT, Sighting};
use crate::disk::{Dir, Entry, FileKind};
use crate::names;
use crate::store::Names;

/// So many places are remembered: a few megabytes, once handles are used at all.
const SEEN: NonZeroUsize = NonZeroUsize::new(1 << 15).expect("not zero");

/// An entry that a walk came by, by its inode's number: its folder's number, and its name on disk.
type Place = (u64, Box<OsStr>);

/// Where walks saw entries. Any may have gone since.
pub(super) struct SeenPlaces(Mutex<LruCache<u64, Place>>);

impl Default for SeenPlaces {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(SEEN)))
    }
}

impl SeenPlaces {
    fn place(&self, ino: u64) -> Option<(u64, OsString)> {
        self.0.lock().get(&ino).map(|(parent, name)| (*parent, name.to_os_string()))
    }

    fn add(&self, all: Vec<(u64, Place)>) {
        let mut seen = self.0.lock();
        for (ino, place) in all {
            seen.put(ino, place);
        }
    }
}

/// A folder that a walk came by.
struct Folder {
    ino: u64,
    name: OsString,
    /// Which of the walk's folders it lies in.
    within: usize,
}

/// How far a search is.
pub struct Search {
    /// Folders in the order in which they are listed; the root is the first.
    folders: Vec<Folder>,
    /// The one that is listed.
    at: usize,
    /// The position in it.
    from: u64,
}

impl Default for Search {
    fn default() -> Self {
        let root = Folder { ino: ROOT, name: OsString::new(), within: 0 };
        Self { folders: vec![root], at: 0, from: 0 }
    }
}

impl Search {
    /// The way down to one of the walk's folders, and to an entry in it.
    fn way_to(&self, mut within: usize, ino: u64, name: &OsStr) -> Vec<(u64, OsString)> {
        let mut way = vec![(ino, name.to_owned())];
        while within != 0 {
            let folder = &self.folders[within];
            way.push((folder.ino, folder.name.clone()));
            within = folder.within;
        }
        way.reverse();
        way
    }
}

impl Fs {
    /// Looks an inode up by its number, and counts the lookup.
    ///
    /// # Errors
    /// `Unfinished`; ESTALE where nothing in the tree has this number; of the backing filesystem.
    pub fn lookup_number(&self, ino: u64, search: &mut Search) -> Outcome<Found> {
        if let Some(known) = self.lookup_known(ino) {
            return known;
        }
        if search.at == 0
            && search.from == 0
            && let Some(way) = self.seen_way(ino)
            && let Ok(found) = self.found_along(&way)
        {
            return Ok(found);
        }
        let piece = Piece::begin();
        while search.at < search.folders.len() {
            if let Some(way) = self.search_folder(ino, search, &piece)? {
                match self.found_along(&way) {
                    // Gone, or another's, since it was listed.
                    Err(_) => {}
                    found => return found,
                }
            }
            piece.go_on()?;
        }
        Err(errno(libc::ESTALE))
    }

    /// Looks the folder of an inode up, and counts the lookup.
    ///
    /// # Errors
    /// ESTALE for the root, and for what has no name any more; of the backing filesystem.
    pub fn lookup_parent(&self, ino: u64) -> Outcome<Found> {
        let (parent, _) = self.node(ino)?.place().ok_or(errno(libc::ESTALE))?;
        self.lookup_known(parent).unwrap_or(Err(errno(libc::ESTALE)))
    }

    /// Looks up what is in the table.
    fn lookup_known(&self, ino: u64) -> Option<Outcome<Found>> {
        let generation = self.table.remember_again(ino)?.generation;
        let known = self.getattr(ino).and_then(|attr| match attr.0.nlink {
            // What has no name any more is there until the kernel's forget has come.
            0 => Err(errno(libc::ESTALE)),
            _ => Ok(Found { attr, generation }),
        });
        Some(known.inspect_err(|_| self.forget(ino, 1)))
    }

    /// Lists the folder that the search has come to, or a piece of it; answers the way to what is
    /// looked for where it is there.
    fn search_folder(
        &self,
        wanted: u64,
        search: &mut Search,
        piece: &Piece,
    ) -> Outcome<Option<Vec<(u64, OsString)>>> {
        let at = search.at;
        let Some(dir) = self.searched_dir(search, at) else {
            (search.at, search.from) = (at + 1, 0);
            return Ok(None);
        };
        let (mut found, mut is_cut) = (None, false);
        let mut seen = Vec::new();
        let folder = search.folders[at].ino;
        let mut folders = Vec::new();
        let from = &mut search.from;
        dir.list(*from, &mut |entry| {
            *from = entry.next;
            if !self.is_of_the_tree(&entry) {
                return true;
            }
            let ino = self.map_ino(entry.ino);
            let kind = match entry.kind {
                Some(kind) => Some(kind),
                None => dir.stat(&entry.name).ok().map(|stat| stat.kind()),
            };
            seen.push((ino, (folder, entry.name.as_os_str().into())));
            if kind == Some(FileKind::Dir) {
                folders.push(Folder { ino, name: entry.name.clone(), within: at });
            }
            if ino == wanted {
                found = Some(entry.name);
            }
            is_cut = found.is_some() || piece.is_over();
            !is_cut
        })?;
        search.folders.append(&mut folders);
        self.seen.add(seen);
        if !is_cut {
            (search.at, search.from) = (at + 1, 0);
        }
        Ok(found.map(|name| search.way_to(at, wanted, &name)))
    }

    fn is_of_the_tree(&self, entry: &Entry) -> bool {
        let (name, bytes) = (&entry.name, entry.name.as_bytes());
        let is_own = self.names == Names::Encrypted && (name == DIR_ID || names::is_record(bytes));
        name != "." && name != ".." && !is_own
    }

    /// A folder of the walk; `None` where it cannot be entered, or is gone.
    fn searched_dir(&self, search: &Search, at: usize) -> Option<Dir> {
        let Folder { ino, name, within } = &search.folders[at];
        let way = if at == 0 { Vec::new() } else { search.way_to(*within, *ino, name) };
        // With a position of its own.
        self.descend(&way).ok()??.open_dir(OsStr::new(".")).ok()
    }

    /// The way to what a walk has seen, from the root or from a folder in the table.
    fn seen_way(&self, ino: u64) -> Option<Vec<(u64, OsString)>> {
        let mut way = Vec::new();
        let mut at = ino;
        while at != ROOT {
            // Folders that were renamed may seem to lie in each other.
            if way.len() > SEEN.get() {
                return None;
            }
            let known = self.table.get(at).and_then(|node| node.place());
            let (parent, name) = match known {
                Some(place) => place,
                None => self.seen.place(at)?,
            };
            way.push((at, name));
            at = parent;
        }
        way.reverse();
        Some(way)
    }

    /// Looks up what lies at the end of a way, and counts that lookup; what lies along it stays in
    /// the table with it.
    fn found_along(&self, way: &[(u64, OsString)]) -> Outcome<Found> {
        let stale = errno(libc::ESTALE);
        let (last, above) = way.split_last().ok_or(stale)?;
        let mut counted = Counted { fs: self, folders: Vec::new() };
        let mut parent = self.node(ROOT)?;
        for (ino, name) in above {
            let place = (&*parent, &*self.dir(parent.ino)?);
            let attr = self.found(place, name, Sighting::There)?.attr;
            counted.folders.push(attr.0.ino);
            if attr.0.ino != *ino || attr.0.kind() != FileKind::Dir {
                return Err(stale);
            }
            parent = self.node(*ino)?;
        }
        let place = (&*parent, &*self.dir(parent.ino)?);
        let found = self.found(place, &last.1, Sighting::There)?;
        if found.attr.0.ino != last.0 {
            self.forget(found.attr.0.ino, 1);
            return Err(stale);
        }
        Ok(found)
    }
}

/// Lookups of our own, taken back when this is dropped.
struct Counted<'a> {
    fs: &'a Fs,
    folders: Vec<u64>,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        for folder in self.folders.drain(..).rev() {
            self.fs.forget(folder, 1);
        }
    }
}
