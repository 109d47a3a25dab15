//! Directories made since their parent was last synced: their ids are not durable yet, and a sync
//! of the parent makes them so.

/// So many are synced one by one; more take one sync of the whole filesystem.
const MOST: usize = 16;

/// The fresh directories in one parent, by inode number.
#[derive(Debug, Default)]
pub struct Fresh {
    known: Vec<u64>,
    /// There are or were more than are listed.
    more: bool,
}

impl Fresh {
    /// Adds one.
    pub fn add(&mut self, ino: u64) {
        if self.known.contains(&ino) {
            return;
        }
        if self.known.len() == MOST {
            self.more = true;
        } else {
            self.known.push(ino);
        }
    }

    /// Takes one out that is removed, or moved elsewhere. Answers whether it may be fresh.
    pub fn remove(&mut self, ino: u64) -> bool {
        let before = self.known.len();
        self.known.retain(|known| *known != ino);
        self.more || self.known.len() != before
    }

    /// Takes all out.
    #[must_use]
    pub fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    /// Puts back what could not be synced.
    pub fn put_back(&mut self, taken: Self) {
        self.more |= taken.more;
        taken.known.into_iter().for_each(|ino| self.add(ino));
    }

    /// All of them, where they are few enough to be listed.
    pub fn listed(&self) -> Option<&[u64]> {
        (!self.more).then_some(&self.known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_an_end_and_forgets_what_is_gone() {
        let mut fresh = Fresh::default();
        for ino in 0..1000 {
            fresh.add(ino);
            assert!(fresh.remove(ino));
            assert!(!fresh.remove(ino));
        }
        assert_eq!(fresh.listed(), Some(&[][..]));
        for ino in 0..=MOST as u64 {
            assert!(fresh.listed().is_some());
            fresh.add(ino);
        }
        assert_eq!((fresh.listed(), fresh.known.len()), (None, MOST));
        assert!(fresh.remove(99), "it may be one of those that are not listed");
        let taken = fresh.take();
        assert_eq!(fresh.listed(), Some(&[][..]));
        fresh.put_back(taken);
        assert!(fresh.listed().is_none());
    }
}
