//! A size that a file has at least, so that what lies well within it need not ask the store.
//!
//! Most reads and writes of a large file end before its last record, and are the same whatever
//! its size is. Files are cut under their lock by this daemon alone, through
//! [`Records`](super::records::Records), which forgets the floor first; growing leaves it true.
//! It is forgotten, too, when the backing file is closed.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::content::{records, start_of};

/// See the module. 0 while nothing is known.
#[derive(Debug, Default)]
pub struct SizeFloor(AtomicU64);

impl SizeFloor {
    /// A size that does in the real one's place for bytes that end at `end`: they end before the
    /// last record of a file of that size.
    pub fn beyond(&self, end: u64) -> Option<u64> {
        let size = self.0.load(Ordering::Relaxed);
        (end <= start_of(records(size).saturating_sub(1))).then_some(size)
    }

    /// The file has this size. The caller holds its lock.
    pub fn note(&self, size: u64) {
        self.0.store(size, Ordering::Relaxed);
    }

    /// Nothing is known any more. The caller holds the file's lock, exclusive.
    pub fn forget(&self) {
        self.note(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_does_for_bytes_before_the_last_record_alone() {
        let floor = SizeFloor::default();
        assert_eq!(floor.beyond(1), None);
        let size = start_of(3) + 10;
        floor.note(size);
        assert_eq!(floor.beyond(start_of(3)), Some(size));
        assert_eq!(floor.beyond(start_of(3) + 1), None);
        floor.forget();
        assert_eq!(floor.beyond(1), None);
        // Of a file of one record there is nothing before the last.
        floor.note(10);
        assert_eq!(floor.beyond(1), None);
    }
}
