//! Which inodes carry which id, as far as a mount has seen them.
//!
//! An id is one inode's. Whoever can write the store can copy a file with its header, or a
//! directory with its id: then two carry one, and what is written to one could be moved to the
//! other. Neither is served then, and the key of the one stays when the other is removed.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

const SHARDS: usize = 16;

/// Inode numbers by the id that they carry.
#[derive(Debug)]
pub struct Carriers<Id> {
    shards: [Mutex<HashMap<Id, u64>>; SHARDS],
    /// Ids with more than one, and all who carry them.
    shared: Mutex<HashMap<Id, Vec<u64>>>,
    /// How many those are: mostly none, and then nobody takes the lock.
    count: AtomicUsize,
    /// Ids that more than one has carried since the mount began. The kernel forgets inodes in any
    /// order: with the other one forgotten first, the last would seem to be alone.
    ever_shared: Mutex<EverShared<Id>>,
    hasher: RandomState,
}

/// So many ids are remembered. Nobody makes as many by accident.
const MOST_REMEMBERED: usize = 1 << 16;

#[derive(Debug)]
enum EverShared<Id> {
    These(HashSet<Id>),
    /// More than can be remembered: any may be one.
    Any,
}

impl<Id: Eq + Hash> EverShared<Id> {
    fn add(&mut self, id: Id) {
        let Self::These(ids) = self else { return };
        ids.insert(id);
        if ids.len() > MOST_REMEMBERED {
            *self = Self::Any;
        }
    }

    fn has(&self, id: &Id) -> bool {
        match self {
            Self::These(ids) => ids.contains(id),
            Self::Any => true,
        }
    }
}

impl<Id> Default for Carriers<Id> {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            shared: Mutex::default(),
            count: AtomicUsize::new(0),
            ever_shared: Mutex::new(EverShared::These(HashSet::new())),
            hasher: RandomState::new(),
        }
    }
}

impl<Id: Copy + Eq + Hash> Carriers<Id> {
    fn shard(&self, id: Id) -> &Mutex<HashMap<Id, u64>> {
        &self.shards[(self.hasher.hash_one(id) % SHARDS as u64) as usize]
    }

    /// An inode was seen to carry an id. Answers whether another one carries it and this was not
    /// known.
    pub fn add(&self, id: Id, ino: u64) -> bool {
        let mut shard = self.shard(id).lock();
        match shard.entry(id) {
            Entry::Vacant(free) => {
                free.insert(ino);
                false
            }
            Entry::Occupied(first) if *first.get() == ino => false,
            Entry::Occupied(first) => {
                let mut shared = self.shared.lock();
                let all = shared.entry(id).or_insert_with(|| vec![*first.get()]);
                let is_new = !all.contains(&ino);
                if is_new {
                    all.push(ino);
                    self.ever_shared.lock().add(id);
                }
                self.count.store(shared.len(), Ordering::Release);
                is_new
            }
        }
    }

    /// An inode does not carry an id any more, or is not known any more.
    pub fn remove(&self, id: Id, ino: u64) {
        let mut shard = self.shard(id).lock();
        let mut shared = self.shared.lock();
        let Some(all) = shared.get_mut(&id) else {
            if shard.get(&id) == Some(&ino) {
                shard.remove(&id);
            }
            return;
        };
        all.retain(|other| *other != ino);
        if let [last] = all[..] {
            shared.remove(&id);
            shard.insert(id, last);
        }
        self.count.store(shared.len(), Ordering::Release);
    }

    /// Whether more than one inode carries it.
    pub fn is_shared(&self, id: Id) -> bool {
        self.count.load(Ordering::Acquire) > 0 && self.shared.lock().contains_key(&id)
    }

    /// Whether an inode carries it, or more than one has since the mount began: then its key may
    /// be wanted though all that were known are gone.
    pub fn may_be_wanted(&self, id: Id) -> bool {
        self.shard(id).lock().contains_key(&id) || self.ever_shared.lock().has(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_shared_while_two_carry_it() {
        let carriers = Carriers::<u8>::default();
        assert!(!carriers.may_be_wanted(7));
        assert!(!carriers.add(7, 100) && !carriers.add(7, 100));
        assert!(carriers.may_be_wanted(7) && !carriers.is_shared(7));
        assert!(carriers.add(7, 101) && carriers.add(7, 102));
        assert!(!carriers.add(7, 101), "known");
        assert!(!carriers.add(8, 200));
        assert!(carriers.is_shared(7) && !carriers.is_shared(8));
        carriers.remove(7, 100);
        carriers.remove(7, 999);
        assert!(carriers.is_shared(7), "two are left");
        carriers.remove(7, 102);
        assert!(!carriers.is_shared(7) && carriers.may_be_wanted(7));
        carriers.remove(7, 101);
        assert!(carriers.may_be_wanted(7), "by one that was forgotten first");
        carriers.remove(8, 200);
        assert!(!carriers.may_be_wanted(8));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_then_every_id_may_be_wanted() {
        let carriers = Carriers::<u32>::default();
        for id in 0..u32::try_from(MOST_REMEMBERED).expect("small") + 1 {
            for ino in [1, 2] {
                carriers.add(id, ino);
            }
        }
        assert!(carriers.may_be_wanted(u32::MAX));
    }
}
