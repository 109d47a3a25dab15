//! The inode table: exactly the inodes that the kernel knows.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};

use crate::disk::{File, FileKind};
use crate::fs::fresh::Fresh;
use crate::fs::records::Tail;
use crate::ids::{DirId, FileId};

/// Where an inode is found: a parent and a name on disk.
type Link = (u64, Box<OsStr>);

/// Past this many known links of one inode, more are not remembered.
const MOST_LINKS: usize = 64;

/// What is known of a regular file's content, under its lock.
#[derive(Debug, Default)]
pub struct Content {
    /// The backing file, while it is open or unlinked.
    pub file: Option<File>,
    /// Whether `file` is open for writing too.
    pub writable: bool,
    /// The file id, once read from the header or assigned.
    pub id: Option<FileId>,
    /// Whether the id is in memory alone: an empty file has no header. Who forgets the inode
    /// forgets the key.
    pub headerless: bool,
    /// What is known of the last record's padding.
    pub tail: Tail,
    /// While it has no key: so many of its records were looked at, and are holes.
    pub blank: u64,
    /// Whether a removal left the header to be read when the kernel forgets the inode.
    pub header_asked: bool,
    /// Opens that are not released yet.
    pub openers: u32,
    /// Those for writing.
    pub writers: u32,
    /// Removals under way that hold `file`.
    pub removals: u32,
}

/// An inode.
#[derive(Debug)]
pub struct Node {
    /// Its number on the mount.
    pub ino: u64,
    /// Its kind.
    pub kind: FileKind,
    /// Tells it from an inode that had its number before and that the kernel has not forgotten.
    pub generation: u32,
    links: Mutex<Vec<Link>>,
    /// A directory's id, once read.
    pub dir_id: OnceLock<DirId>,
    /// A regular file's content.
    pub content: RwLock<Content>,
    /// Whether the kernel may hold pages of it.
    pub paged: AtomicBool,
    /// Whether a directory has a default ACL: 0 unknown, 1 no, 2 yes.
    pub default_acl: AtomicU8,
    /// Whether security.capability is known to be absent.
    pub no_capability: AtomicBool,
    /// Whether it is a directory with an entry that is not of this volume.
    pub has_stranger: AtomicBool,
    /// Directories made in this one, whose ids are not durable yet.
    pub fresh_children: Mutex<Fresh>,
}

impl Node {
    /// A parent and a name on disk that lead here; `None` for the root and for what has been
    /// unlinked.
    pub fn place(&self) -> Option<(u64, OsString)> {
        self.links.lock().last().map(|(parent, name)| (*parent, name.to_os_string()))
    }

    /// Closes the backing file where nothing needs it: no open, no removal under way. What has no
    /// name any more could not be opened again, and stays until the kernel forgets it.
    pub fn close_unused(&self, content: &mut Content) {
        if content.openers == 0 && content.removals == 0 && self.is_named() {
            content.file = None;
            content.writable = false;
        }
    }

    fn is_named(&self) -> bool {
        !self.links.lock().is_empty()
    }

    /// Every known parent and name.
    pub fn places(&self) -> Vec<(u64, OsString)> {
        self.links.lock().iter().map(|(p, n)| (*p, n.to_os_string())).collect()
    }

    /// Adds a name that leads here.
    pub fn add_link(&self, parent: u64, name: &OsStr) {
        let mut links = self.links.lock();
        let known = links.iter().any(|(p, n)| *p == parent && **n == *name);
        if !known && links.len() < MOST_LINKS {
            links.reserve_exact(1);
            links.push((parent, name.into()));
        }
    }

    /// Removes a name; answers whether none is left.
    pub fn remove_link(&self, parent: u64, name: &OsStr) -> bool {
        let mut links = self.links.lock();
        links.retain(|(p, n)| !(*p == parent && **n == *name));
        links.is_empty()
    }
}

/// What is known of an inode that was looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// It was made just now: what had its number before is gone.
    New,
    /// It was there.
    There,
}

#[derive(Debug)]
struct Known {
    node: Arc<Node>,
    lookups: u64,
}

const SHARDS: usize = 32;

/// The inodes that the kernel knows, by number, each with its count of look-ups.
#[derive(Debug)]
pub struct Table {
    shards: Vec<Mutex<HashMap<u64, Known>>>,
    nodes: AtomicUsize,
    paged: AtomicUsize,
    /// The most nodes since memory was last given back.
    most: AtomicUsize,
}

/// So many nodes are worth giving the memory of back.
const MANY: usize = 20_000;

/// The root's inode number on every FUSE mount.
pub const ROOT: u64 = 1;

impl Default for Table {
    fn default() -> Self {
        let table = Self {
            shards: (0..SHARDS).map(|_| Mutex::new(HashMap::new())).collect(),
            nodes: AtomicUsize::new(0),
            paged: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        };
        let (root, _) = table.remember((ROOT, FileKind::Dir), None, Sighting::There);
        root.dir_id.get_or_init(|| DirId::ROOT);
        table
    }
}

impl Table {
    fn shard(&self, ino: u64) -> &Mutex<HashMap<u64, Known>> {
        &self.shards[(ino % SHARDS as u64) as usize]
    }

    /// The node that the kernel names.
    pub fn get(&self, ino: u64) -> Option<Arc<Node>> {
        self.shard(ino).lock().get(&ino).map(|k| k.node.clone())
    }

    /// Counts one more lookup of an inode that was found at `place`. Answers its node, and the
    /// node that it takes the place of, where the store has given the number of an inode that was
    /// removed beneath the mount to another. The kernel goes on counting lookups by number.
    pub fn remember(
        &self,
        (ino, kind): (u64, FileKind),
        place: Option<(u64, &OsStr)>,
        sighting: Sighting,
    ) -> (Arc<Node>, Option<Arc<Node>>) {
        let mut shard = self.shard(ino).lock();
        let known = shard.entry(ino).or_insert_with(|| {
            let nodes = self.nodes.fetch_add(1, Ordering::Relaxed) + 1;
            self.most.fetch_max(nodes, Ordering::Relaxed);
            Known { node: Arc::new(new_node(ino, kind, 0)), lookups: 0 }
        });
        let is_another =
            known.lookups > 0 && (known.node.kind != kind || sighting == Sighting::New);
        let gone = is_another.then(|| {
            let next = known.node.generation.wrapping_add(1);
            std::mem::replace(&mut known.node, Arc::new(new_node(ino, kind, next)))
        });
        known.lookups += 1;
        let node = known.node.clone();
        drop(shard);
        if gone.as_ref().is_some_and(|gone| gone.paged.load(Ordering::Relaxed)) {
            self.paged.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some((parent, name)) = place {
            node.add_link(parent, name);
        }
        (node, gone)
    }

    /// Takes lookups back; answers the node when the kernel has forgotten it.
    pub fn forget(&self, ino: u64, lookups: u64) -> Option<Arc<Node>> {
        let mut shard = self.shard(ino).lock();
        let known = shard.get_mut(&ino)?;
        known.lookups = known.lookups.saturating_sub(lookups);
        if known.lookups > 0 || ino == ROOT {
            return None;
        }
        let node = shard.remove(&ino)?.node;
        if shard.len() < shard.capacity() / 8 {
            let room = shard.len() * 2;
            shard.shrink_to(room);
        }
        self.nodes.fetch_sub(1, Ordering::Relaxed);
        if node.paged.load(Ordering::Relaxed) {
            self.paged.fetch_sub(1, Ordering::Relaxed);
        }
        Some(node)
    }

    /// Whether most of many nodes have been forgotten since this last said so.
    pub fn has_shrunk(&self) -> bool {
        let (nodes, most) = (self.nodes.load(Ordering::Relaxed), self.most.load(Ordering::Relaxed));
        let shrunk = most > MANY && nodes < most / 4;
        shrunk
            && self.most.compare_exchange(most, nodes, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Notes that the kernel may hold pages of an inode from now on.
    pub fn mark_paged(&self, node: &Node) {
        if !node.paged.load(Ordering::Relaxed) && !node.paged.swap(true, Ordering::Relaxed) {
            self.paged.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Every node.
    pub fn all(&self) -> Vec<Arc<Node>> {
        let nodes = |s: &Mutex<HashMap<u64, Known>>| -> Vec<_> {
            s.lock().values().map(|k| k.node.clone()).collect()
        };
        self.shards.iter().flat_map(nodes).collect()
    }

    /// How many inodes the kernel knows, and how many of them may have pages.
    pub fn counts(&self) -> (usize, usize) {
        (self.nodes.load(Ordering::Relaxed), self.paged.load(Ordering::Relaxed))
    }
}

fn new_node(ino: u64, kind: FileKind, generation: u32) -> Node {
    Node {
        ino,
        kind,
        generation,
        links: Mutex::new(Vec::new()),
        dir_id: OnceLock::new(),
        content: RwLock::new(Content::default()),
        paged: AtomicBool::new(false),
        default_acl: AtomicU8::new(0),
        no_capability: AtomicBool::new(false),
        has_stranger: AtomicBool::new(false),
        fresh_children: Mutex::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_lives_as_long_as_its_lookups() {
        let table = Table::default();
        let name = OsStr::new("x");
        table.remember((7, FileKind::File), Some((ROOT, name)), Sighting::New);
        table.remember((7, FileKind::File), Some((ROOT, name)), Sighting::There);
        assert!(table.forget(7, 1).is_none());
        assert!(table.forget(7, 1).is_some());
        assert!(table.get(7).is_none());
        assert!(table.forget(ROOT, 99).is_none());
        assert!(!table.has_shrunk());
        assert_eq!(table.counts(), (1, 0));
    }

    /// A device was removed beneath a mount, and a file got its number: each use of it was EINVAL.
    #[test]
    fn a_number_that_is_given_to_another_inode_is_another_node() {
        let table = Table::default();
        let see = |kind, sighting| table.remember((7, kind), None, sighting);
        let (device, none) = see(FileKind::Char, Sighting::There);
        assert!(none.is_none());
        table.mark_paged(&device);
        let (file, gone) = see(FileKind::File, Sighting::There);
        assert!(gone.is_some_and(|gone| Arc::ptr_eq(&gone, &device)));
        assert_eq!((file.kind, file.generation), (FileKind::File, 1));
        let (same, none) = see(FileKind::File, Sighting::There);
        assert!(none.is_none() && Arc::ptr_eq(&same, &file));
        let (made, gone) = see(FileKind::File, Sighting::New);
        assert!(gone.is_some_and(|gone| Arc::ptr_eq(&gone, &file)) && made.generation == 2);
        assert_eq!(table.counts(), (2, 0), "the root, and this one without pages");
        assert!(table.forget(7, 3).is_none(), "the kernel counts by number");
        assert!(table.forget(7, 1).is_some());
    }

    #[test]
    fn a_large_walk_is_given_back_once() {
        let table = Table::default();
        let many = u64::try_from(MANY).expect("small");
        for ino in 2..many + 10 {
            table.remember((ino, FileKind::File), None, Sighting::There);
        }
        assert!(!table.has_shrunk());
        for ino in 2..many + 10 {
            table.forget(ino, 1);
        }
        assert!(table.has_shrunk() && !table.has_shrunk());
        let rooms = table.shards.iter().map(|s| s.lock().capacity());
        assert!(rooms.sum::<usize>() < 2000);
    }
}
