//! The inode table: the inodes that the kernel knows, and the folders above them.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::node::{MOST_LINKS, Node};
use crate::disk::{FileKind, Time};
use crate::ids::DirId;

/// What the store says of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inode {
    /// Its number on the mount.
    pub ino: u64,
    /// Its kind.
    pub kind: FileKind,
    /// When it was made; 1970 where the store does not say.
    pub btime: Time,
}

impl Inode {
    /// The generation of an inode that is seen for the first time: the same after a remount. A
    /// number that is used again within a tick of the store's clock is not told apart by it.
    fn generation(self) -> u32 {
        let Time { secs, nanos } = self.btime;
        // Each of a second's ticks is another number, and neighbouring seconds lie far apart.
        (secs as u32).wrapping_mul(0x9e37_79b1).rotate_left(16) ^ nanos
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
    /// Links of other nodes that name this one as their parent. The kernel may forget a folder
    /// before what lies in it, where it was asked for that by a handle.
    children: u64,
}

impl Known {
    fn is_unused(&self) -> bool {
        self.lookups == 0 && self.children == 0 && self.node.ino != ROOT
    }

    /// Whether the store has given the number to another inode. Not all filesystems say when one
    /// was made, nor each time.
    fn is_other_than(&self, inode: Inode, sighting: Sighting) -> bool {
        let (before, now) = (self.node.btime, inode.btime);
        let is_made_anew = before != now && ![before, now].contains(&Time::default());
        self.lookups > 0
            && (sighting == Sighting::New || self.node.kind != inode.kind || is_made_anew)
    }
}

const SHARDS: usize = 32;

/// The inodes that the kernel knows and those above them, by number, each with its count of
/// look-ups. A node's places lead up to the root through nodes that are in the table.
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
        let inode = Inode { ino: ROOT, kind: FileKind::Dir, btime: Time::default() };
        let root = table.remember(inode, None, Sighting::There, &mut |_| {});
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

    /// Counts one more lookup of an inode that was found at `place`. `gone` is called with the
    /// node that it takes the place of, where the store has given the number of an inode that was
    /// removed beneath the mount to another. The kernel goes on counting lookups by number.
    pub fn remember(
        &self,
        inode: Inode,
        place: Option<(u64, &OsStr)>,
        sighting: Sighting,
        gone: &mut dyn FnMut(&Node),
    ) -> Arc<Node> {
        let ino = inode.ino;
        let mut shard = self.shard(ino).lock();
        let known = shard.entry(ino).or_insert_with(|| {
            let nodes = self.nodes.fetch_add(1, Ordering::Relaxed) + 1;
            self.most.fetch_max(nodes, Ordering::Relaxed);
            let node = Arc::new(Node::new(inode, inode.generation()));
            Known { node, lookups: 0, children: 0 }
        });
        let before = known.is_other_than(inode, sighting).then(|| {
            let mut next = inode.generation();
            if next == known.node.generation {
                next = next.wrapping_add(1);
            }
            std::mem::replace(&mut known.node, Arc::new(Node::new(inode, next)))
        });
        known.lookups += 1;
        let node = known.node.clone();
        drop(shard);
        if let Some(before) = before {
            if before.paged.load(Ordering::Relaxed) {
                self.paged.fetch_sub(1, Ordering::Relaxed);
            }
            gone(&before);
            self.drop_unused(before.parents(), gone);
        }
        if let Some((parent, name)) = place {
            self.add_link(&node, parent, name);
        }
        node
    }

    /// Counts one more lookup of an inode that is in the table.
    pub fn remember_again(&self, ino: u64) -> Option<Arc<Node>> {
        let mut shard = self.shard(ino).lock();
        let known = shard.get_mut(&ino)?;
        known.lookups += 1;
        Some(known.node.clone())
    }

    /// Adds a name that leads to a node. Its folder stays in the table as long as the node does.
    pub fn add_link(&self, node: &Node, parent: u64, name: &OsStr) {
        let mut links = node.links.lock();
        let known = links.iter().any(|(p, n)| *p == parent && **n == *name);
        if known || links.len() >= MOST_LINKS || !self.count_child(parent) {
            return;
        }
        links.reserve_exact(1);
        links.push((parent, name.into()));
    }

    /// Whether the folder is in the table: its child is counted then.
    fn count_child(&self, parent: u64) -> bool {
        // The root is never forgotten.
        parent == ROOT
            || self.shard(parent).lock().get_mut(&parent).is_some_and(|known| {
                known.children += 1;
                true
            })
    }

    /// Removes a name; `gone` is called with each folder that nothing needs any more.
    pub fn remove_link(&self, node: &Node, parent: u64, name: &OsStr, gone: &mut dyn FnMut(&Node)) {
        let mut links = node.links.lock();
        let before = links.len();
        links.retain(|(p, n)| !(*p == parent && **n == *name));
        let was_there = links.len() < before;
        drop(links);
        if was_there {
            self.drop_unused(vec![parent], gone);
        }
    }

    /// Takes lookups back; `gone` is called with the node when nothing needs it any more, and with
    /// each folder that it was the last to need.
    pub fn forget(&self, ino: u64, lookups: u64, gone: &mut dyn FnMut(&Node)) {
        let taken = self.take_unused(ino, |known| {
            known.lookups = known.lookups.saturating_sub(lookups);
        });
        if let Some(node) = taken {
            gone(&node);
            self.drop_unused(node.parents(), gone);
        }
    }

    /// Counts a child of each of these folders out. Step by step: a tree may be deep.
    fn drop_unused(&self, mut folders: Vec<u64>, gone: &mut dyn FnMut(&Node)) {
        while let Some(folder) = folders.pop() {
            let taken = self.take_unused(folder, |known| {
                known.children = known.children.saturating_sub(1);
            });
            if let Some(node) = taken {
                gone(&node);
                folders.extend(node.parents());
            }
        }
    }

    /// Takes a node out of the table where nothing needs it after `count`.
    fn take_unused(&self, ino: u64, count: impl FnOnce(&mut Known)) -> Option<Arc<Node>> {
        if ino == ROOT {
            return None;
        }
        let mut shard = self.shard(ino).lock();
        let known = shard.get_mut(&ino)?;
        count(known);
        if !known.is_unused() {
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

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [u64; 0] = [];

    fn inode(ino: u64, kind: FileKind) -> Inode {
        Inode { ino, kind, btime: Time::default() }
    }

    fn remember(table: &Table, ino: u64, kind: FileKind, place: Option<(u64, &str)>) {
        let place = place.map(|(parent, name)| (parent, OsStr::new(name)));
        table.remember(inode(ino, kind), place, Sighting::There, &mut |_| panic!("none is gone"));
    }

    /// The numbers of the nodes that go with it.
    fn forget(table: &Table, ino: u64, lookups: u64) -> Vec<u64> {
        let mut gone = Vec::new();
        table.forget(ino, lookups, &mut |node| gone.push(node.ino));
        gone
    }

    #[test]
    fn a_node_lives_as_long_as_its_lookups() {
        let table = Table::default();
        remember(&table, 7, FileKind::File, Some((ROOT, "x")));
        remember(&table, 7, FileKind::File, Some((ROOT, "x")));
        assert_eq!(forget(&table, 7, 1), NONE);
        assert_eq!(forget(&table, 7, 1), [7]);
        assert!(table.get(7).is_none());
        assert_eq!(forget(&table, ROOT, 99), NONE);
        assert!(!table.has_shrunk());
        assert_eq!(table.counts(), (1, 0));
    }

    #[test]
    fn folders_live_as_long_as_what_lies_in_them() {
        let table = Table::default();
        remember(&table, 2, FileKind::Dir, Some((ROOT, "a")));
        remember(&table, 3, FileKind::Dir, Some((2, "b")));
        remember(&table, 4, FileKind::File, Some((3, "c")));
        remember(&table, 4, FileKind::File, Some((3, "d")));
        assert_eq!(forget(&table, 2, 1), NONE);
        assert_eq!(forget(&table, 3, 1), NONE);
        let file = table.get(4).expect("there");
        let mut gone = Vec::new();
        table.remove_link(&file, 3, OsStr::new("c"), &mut |node| gone.push(node.ino));
        assert_eq!(gone, NONE);
        assert_eq!(forget(&table, 4, 2), [4, 3, 2]);
        assert_eq!(table.counts(), (1, 0));
    }

    #[test]
    fn a_deep_tree_goes_without_a_deep_stack() {
        let table = Table::default();
        let deepest = 200_000;
        remember(&table, 2, FileKind::Dir, Some((ROOT, "x")));
        for ino in 3..deepest {
            remember(&table, ino, FileKind::Dir, Some((ino - 1, "x")));
        }
        for ino in 2..deepest - 1 {
            assert_eq!(forget(&table, ino, 1), NONE);
        }
        assert_eq!(forget(&table, deepest - 1, 1).len() as u64, deepest - 2);
        assert_eq!(table.counts(), (1, 0));
    }

    /// A device was removed beneath a mount, and a file got its number: each use of it was EINVAL.
    #[test]
    fn a_number_that_is_given_to_another_inode_is_another_node() {
        let table = Table::default();
        remember(&table, 2, FileKind::Dir, Some((ROOT, "d")));
        let see = |inode, sighting| {
            let mut gone = 0;
            let place = Some((2, OsStr::new("x")));
            let node = table.remember(inode, place, sighting, &mut |_| gone += 1);
            (node, gone)
        };
        let (device, none) = see(inode(7, FileKind::Char), Sighting::There);
        assert_eq!(none, 0);
        table.mark_paged(&device);
        let (file, gone) = see(inode(7, FileKind::File), Sighting::There);
        assert_eq!((gone, file.kind), (1, FileKind::File));
        assert_ne!(file.generation, device.generation);
        let (same, none) = see(inode(7, FileKind::File), Sighting::There);
        assert!(none == 0 && Arc::ptr_eq(&same, &file));
        let (made, gone) = see(inode(7, FileKind::File), Sighting::New);
        assert!(gone == 1 && made.generation != file.generation);
        let at = |secs| Inode { btime: Time { secs, nanos: 1 }, ..inode(7, FileKind::File) };
        let (same, none) = see(at(5), Sighting::There);
        assert!(none == 0 && Arc::ptr_eq(&same, &made), "the store did not say before");
        let (told, _) = see(at(5), Sighting::New);
        let (another, gone) = see(at(6), Sighting::There);
        assert!(gone == 1 && another.generation != told.generation);
        assert_eq!(table.counts(), (3, 0), "the root, the folder, and this one without pages");
        assert_eq!(forget(&table, 2, 1), NONE);
        assert_eq!(forget(&table, 7, 6), NONE, "the kernel counts by number");
        assert_eq!(forget(&table, 7, 1), [7, 2]);
    }

    #[test]
    fn a_large_walk_is_given_back_once() {
        let table = Table::default();
        let many = u64::try_from(MANY).expect("small");
        for ino in 2..many + 10 {
            remember(&table, ino, FileKind::File, None);
        }
        assert!(!table.has_shrunk());
        for ino in 2..many + 10 {
            forget(&table, ino, 1);
        }
        assert!(table.has_shrunk() && !table.has_shrunk());
        let rooms = table.shards.iter().map(|s| s.lock().capacity());
        assert!(rooms.sum::<usize>() < 2000);
    }
}
