//! Fetching ahead: whose keys will be wanted next.
//!
//! Files made together share a sidecar page, and are mostly read together. When a second key of
//! a page has to be fetched, the others of that page are fetched too; when that paid off, those
//! of the next page already at its first.

use std::collections::{HashSet, VecDeque};

use crate::ids::{FileId, PageId};

/// Pages that are looked at: as many walks through directories may go on side by side.
const PAGES: usize = 4;

struct Seen {
    page: PageId,
    asked: usize,
    unused: HashSet<u16>,
}

impl Seen {
    /// Whether half of what was fetched ahead was used.
    fn paid_off(&self) -> bool {
        self.asked > 0 && self.unused.len() * 2 <= self.asked
    }
}

/// The sidecar pages that keys were fetched from lately, and what fetching ahead was worth there.
#[derive(Default)]
pub(super) struct Ahead(VecDeque<Seen>);

impl Ahead {
    /// A key of this page had to be fetched. Says whether its others shall be, too.
    pub(super) fn miss(&mut self, page: PageId) -> bool {
        if let Some(seen) = self.0.iter().find(|s| s.page == page) {
            return seen.asked == 0;
        }
        let paid_off = self.0.back().is_some_and(Seen::paid_off);
        if self.0.len() == PAGES {
            self.0.pop_front();
        }
        self.0.push_back(Seen { page, asked: 0, unused: HashSet::new() });
        paid_off
    }

    /// The slots of a page that are fetched ahead now.
    pub(super) fn asked(&mut self, page: PageId, slots: &[u16]) {
        if let Some(seen) = self.0.iter_mut().find(|s| s.page == page) {
            seen.asked = slots.len();
            seen.unused = slots.iter().copied().collect();
        }
    }

    /// A key was at hand when it was wanted.
    pub(super) fn hit(&mut self, file: FileId) {
        if let Some(seen) = self.0.iter_mut().rfind(|s| s.page == file.page()) {
            seen.unused.remove(&file.slot());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(n: u8) -> PageId {
        PageId([n; 14])
    }

    #[test]
    fn a_walk_is_seen_at_its_second_file_and_followed_to_the_next_page() {
        let mut ahead = Ahead::default();
        assert!(!ahead.miss(page(1)));
        assert!(ahead.miss(page(1)));
        ahead.asked(page(1), &[2, 3, 4, 5]);
        assert!(!ahead.miss(page(1)), "once a page");
        assert!(!ahead.miss(page(2)), "nothing was used yet");
        for slot in [2, 3] {
            ahead.hit(FileId::new(page(1), slot));
        }
        assert!(ahead.miss(page(2)));
        ahead.asked(page(2), &[1, 2, 3]);
        for slot in [1, 2, 3] {
            ahead.hit(FileId::new(page(2), slot));
        }
        assert!(ahead.miss(page(3)));
    }

    #[test]
    fn scattered_files_fetch_nothing_ahead() {
        let mut ahead = Ahead::default();
        assert!((0..200).all(|n| !ahead.miss(page(n))));
    }
}
