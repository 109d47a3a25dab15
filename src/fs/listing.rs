//! Open directories and their listings, with the store's own positions as cookies.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::Fs;
use super::attr::{Attr, Found};
use super::errno::{Fail, Outcome, errno};
use super::fresh::Fresh;
use super::piece::Piece;
use super::positions::{Kind, Positions};
use super::table::{ROOT, Sighting};
use crate::disk::{Dir, Entry, FileKind};

/// The open listings, by handle.
pub(super) struct Listings {
    open: Mutex<HashMap<u64, Arc<OpenListing>>>,
    next: AtomicU64,
    kind: Kind,
}

/// A listing that goes on.
struct OpenListing {
    ino: u64,
    dir: Dir,
    positions: Mutex<Positions>,
    /// Who opened it.
    user: u32,
}

impl Listings {
    pub(super) fn new(kind: Kind) -> Self {
        Self { open: Mutex::default(), next: AtomicU64::new(0), kind }
    }
}

/// One entry of a listing.
#[derive(Debug)]
pub struct Listed {
    /// The name in the mount.
    pub name: OsString,
    /// Its inode number in the mount.
    pub ino: u64,
    /// Its kind.
    pub kind: FileKind,
    /// The position after it.
    pub next: u64,
    /// Its attributes, where they were asked for; the entry's lookup is then counted.
    pub found: Option<Found>,
}

/// Whether a listing brings attributes, and counts a lookup of each entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Names alone.
    Names,
    /// Attributes too.
    Attributes,
}

/// What became of an entry that a listing came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// It was taken.
    Taken,
    /// It is left out, and the listing goes on.
    LeftOut,
    /// There is no room for it: the listing ends before it.
    NoRoom,
}

/// Where a listing stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// At the folder's end.
    End,
    /// Before it: there is more to ask for.
    More,
}

impl Fs {
    /// Opens a directory for listing, for a user.
    ///
    /// # Errors
    /// ENOTDIR; ENFILE where he has too many open; of the backing filesystem.
    pub fn open_listing(&self, ino: u64, user: u32) -> Outcome<u64> {
        let node = self.node(ino)?;
        // The id is read now: a directory whose id is damaged does not open.
        if self.names == crate::store::Names::Encrypted {
            self.dir_id(&node)?;
        }
        self.room.take(user)?;
        let own = self.dir(ino).and_then(|dir| Ok(dir.open_dir(OsStr::new("."))?));
        let dir = own.inspect_err(|_| self.room.give_back(user))?;
        let positions = Mutex::new(Positions::new(self.listings.kind));
        let handle = self.listings.next.fetch_add(1, Ordering::Relaxed);
        let listing = OpenListing { ino, dir, positions, user };
        self.listings.open.lock().insert(handle, Arc::new(listing));
        Ok(handle)
    }

    /// Closes a listing.
    pub fn close_listing(&self, handle: u64) {
        if let Some(listing) = self.listings.open.lock().remove(&handle) {
            self.room.give_back(listing.user);
        }
    }

    /// Lists from a position (0, or an entry's `next`) until there is no room, or for as long as
    /// a piece takes. Lookups of entries that are taken are counted. `from` advances past what
    /// was taken or left out.
    ///
    /// # Errors
    /// EBADF; `Park`; `Unfinished` where nothing was taken yet; of the backing filesystem. After
    /// an entry was taken there is none: the listing stops there, and what failed fails again for
    /// whoever asks on.
    pub fn list(
        &self,
        handle: u64,
        from: &mut u64,
        detail: Detail,
        visit: &mut dyn FnMut(&Listed) -> Visit,
    ) -> Outcome<Reached> {
        let listing = self.listings.open.lock().get(&handle).cloned().ok_or(errno(libc::EBADF))?;
        let (ino, dir) = (listing.ino, &listing.dir);
        let mut positions = listing.positions.lock();
        let parent = self.node(ino)?;
        let keys = self.keyring.names()?;
        let piece = Piece::begin();
        let mut stopped = Ok(Reached::End);
        let mut any_taken = false;
        let listed = dir.list(positions.real(*from), &mut |mut entry| {
            entry.next = positions.shown(entry.next);
            let next = entry.next;
            let step = self.listed(&parent, &keys, dir, entry, detail).map(|listed| {
                let Some((mut listed, on_disk)) = listed else { return Visit::LeftOut };
                let mut counted = false;
                if let Some(found) = listed.found.as_mut().filter(|_| !is_dots(&listed.name)) {
                    let node = self.remember(&found.attr, Some((ino, &on_disk)), Sighting::There);
                    found.generation = node.generation;
                    counted = true;
                }
                let visit = visit(&listed);
                if counted && visit != Visit::Taken {
                    self.forget(listed.ino, 1);
                }
                visit
            });
            stopped = match step {
                Err(e) => Err(e),
                Ok(Visit::NoRoom) => Ok(Reached::More),
                Ok(visit) => {
                    any_taken |= visit == Visit::Taken;
                    *from = next;
                    if !piece.is_over() {
                        return true;
                    }
                    Err(Fail::Unfinished)
                }
            };
            false
        });
        drop(positions);
        match listed.map_err(Fail::from).and(stopped) {
            // Its lookups are counted, and the kernel has to hear of them.
            Err(_) if any_taken => Ok(Reached::More),
            other => other,
        }
    }

    fn listed(
        &self,
        parent: &super::node::Node,
        keys: &crate::names::VolumeKeys,
        dir: &Dir,
        entry: Entry,
        detail: Detail,
    ) -> Outcome<Option<(Listed, OsString)>> {
        let dots = is_dots(&entry.name);
        let name = if dots {
            entry.name.clone()
        } else {
            match self.shown_name(keys, parent, &**dir, &entry.name)? {
                Some(name) => name,
                None => return Ok(None),
            }
        };
        // What lies above the root is not the mount's.
        let ino = if dots && parent.ino == ROOT { ROOT } else { self.map_ino(entry.ino) };
        let mut listed = Listed {
            name,
            ino,
            kind: entry.kind.unwrap_or(FileKind::File),
            next: entry.next,
            found: None,
        };
        if dots {
            listed.kind = FileKind::Dir;
            listed.found = (detail == Detail::Attributes).then(|| first_generation(dots_attr(ino)));
        } else if detail == Detail::Attributes || entry.kind.is_none() {
            // Removed since the listing: not there any more.
            let Ok(stat) = dir.stat(&entry.name) else { return Ok(None) };
            let Ok(attr) = self.attr_of(stat, &**dir, &entry.name) else {
                listed.kind = stat.kind();
                return Ok(Some((listed, entry.name)));
            };
            listed.kind = stat.kind();
            listed.ino = attr.0.ino;
            listed.found = (detail == Detail::Attributes).then(|| first_generation(attr));
        }
        Ok(Some((listed, entry.name)))
    }

    /// fsync(2) of a directory: its entries, and the ids of directories made in it.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn sync_dir(&self, ino: u64) -> Outcome<()> {
        let node = self.node(ino)?;
        if ino != ROOT && node.place().is_none() {
            // Removed: it has no entries, and its own is its parent's.
            return Ok(());
        }
        let fresh = node.fresh_children.lock().take();
        if let Err(e) = self.sync_fresh(&fresh) {
            node.fresh_children.lock().put_back(fresh);
            return Err(e);
        }
        Ok(self.dir(ino)?.sync()?)
    }

    fn sync_fresh(&self, fresh: &Fresh) -> Outcome<()> {
        // One that the kernel has forgotten cannot be found any more by its number.
        let open = |children: &[u64]| -> Option<Vec<Dir>> {
            children.iter().map(|child| self.dir(*child).ok()).collect()
        };
        match fresh.listed().and_then(open) {
            // One that may be entered alone cannot be synced by itself.
            Some(dirs) if dirs.iter().all(|dir| dir.sync().is_ok()) => Ok(()),
            _ => Ok(self.store.sync()?),
        }
    }
}

fn first_generation(attr: Attr) -> Found {
    Found { attr, generation: 0 }
}

fn is_dots(name: &OsStr) -> bool {
    name == "." || name == ".."
}

/// The kernel reads nothing but the number and kind of `.` and `..`.
fn dots_attr(ino: u64) -> Attr {
    let zero = crate::disk::Time::default();
    Attr(crate::disk::Stat {
        dev: 0,
        ino,
        mode: libc::S_IFDIR | 0o700,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        blocks: 0,
        blksize: 4096,
        atime: zero,
        mtime: zero,
        ctime: zero,
        btime: zero,
    })
}
