//! Finding an inode's place in the store: a tree of (parent, name), and a bounded set of open
//! directories. No path is ever walked from the root.

use std::ffi::{OsStr, OsString};
use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::Mutex;

use super::Fs;
use super::errno::{Outcome, errno};
use super::node::Node;
use super::table::ROOT;
use crate::disk::{Dir, File, Open};

/// The bounded set of open directories.
pub(super) struct DirCache(Mutex<LruCache<u64, Dir>>);

impl DirCache {
    pub(super) fn new(size: usize) -> Self {
        let size = NonZeroUsize::new(size).unwrap_or(NonZeroUsize::MIN);
        Self(Mutex::new(LruCache::new(size)))
    }

    pub(super) fn forget(&self, ino: u64) {
        self.0.lock().pop(&ino);
    }
}

/// What was found at a place, and the number, in the store, of the inode that it was found of.
pub(super) struct Seen<T> {
    pub(super) ino: u64,
    pub(super) what: T,
}

/// How often a place is looked up again that a rename moved meanwhile.
const TRIES: usize = 16;

impl Fs {
    /// The open directory of an inode.
    pub(super) fn dir(&self, ino: u64) -> Outcome<Dir> {
        for _ in 0..TRIES {
            if let Some(dir) = self.try_dir(ino)? {
                return Ok(dir);
            }
        }
        Err(errno(libc::ESTALE))
    }

    /// `None` when a rename came in between.
    fn try_dir(&self, ino: u64) -> Outcome<Option<Dir>> {
        // Up, until a directory that is open…
        let mut chain: Vec<(u64, OsString)> = Vec::new();
        let mut at = ino;
        let dir = loop {
            if let Some(dir) = self.open_already(at) {
                break dir;
            }
            let (parent, name) = self.node(at)?.place().ok_or(errno(libc::ENOENT))?;
            chain.push((at, name));
            at = parent;
        };
        // …and down again.
        chain.reverse();
        self.go_down(dir, &chain)
    }

    fn open_already(&self, ino: u64) -> Option<Dir> {
        if ino == ROOT {
            return Some(self.store.tree().clone());
        }
        self.dirs.0.lock().get(&ino).cloned()
    }

    /// The directory at the end of a way from the root; `None` where another is there, or none.
    pub(super) fn descend(&self, way: &[(u64, OsString)]) -> Outcome<Option<Dir>> {
        let up = way.iter().enumerate().rev();
        let nearest = up.filter_map(|(n, (ino, _))| Some((n + 1, self.open_already(*ino)?))).next();
        let (from, dir) = nearest.unwrap_or((0, self.store.tree().clone()));
        self.go_down(dir, &way[from..])
    }

    fn go_down(&self, mut dir: Dir, way: &[(u64, OsString)]) -> Outcome<Option<Dir>> {
        for (ino, name) in way {
            let next = match dir.open_dir(name) {
                Ok(next) => next,
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
                    return Ok(None);
                }
                Err(e) => return Err(e.into()),
            };
            if self.map_ino(next.stat_self()?.ino) != *ino {
                return Ok(None);
            }
            self.dirs.0.lock().put(*ino, next.clone());
            dir = next;
        }
        Ok(Some(dir))
    }

    /// The parent directory and name of a node; (root, ".") for the root.
    pub(super) fn locate(&self, node: &Node) -> Outcome<(Dir, OsString)> {
        if node.ino == ROOT {
            return Ok((self.store.tree().clone(), OsStr::new(".").to_owned()));
        }
        let (parent, name) = node.place().ok_or(errno(libc::ESTALE))?;
        Ok((self.dir(parent)?, name))
    }

    /// Runs `look` at the place of a node, again where a rename came in between.
    ///
    /// Another inode may be found there: `look` changes nothing, or takes back what it changed
    /// in another inode.
    pub(super) fn at_place<T>(
        &self,
        node: &Node,
        look: impl Fn(&Dir, &OsStr) -> Outcome<Seen<T>>,
    ) -> Outcome<T> {
        for _ in 0..TRIES {
            let (dir, name) = self.locate(node)?;
            match look(&dir, &name) {
                Ok(seen) if self.map_ino(seen.ino) == node.ino => return Ok(seen.what),
                Ok(_) => {}
                Err(e) if e == errno(libc::ENOENT) => {}
                Err(e) => return Err(e),
            }
            self.dirs.forget(node.ino);
        }
        Err(errno(libc::ESTALE))
    }

    /// Holds the inode itself, to change its attributes: as it is open already, else by a pin of
    /// its own. No name leads elsewhere in between.
    pub(super) fn hold(&self, node: &Node) -> Outcome<File> {
        if let Some(file) = node.content.read().file.clone() {
            return Ok(file);
        }
        self.at_place(node, |dir, name| {
            let pin = dir.open(name, Open::Pin)?;
            Ok(Seen { ino: pin.stat()?.ino, what: pin })
        })
    }
}
