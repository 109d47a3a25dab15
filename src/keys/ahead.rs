//! Fetching ahead: whose keys will be wanted next.
//!
//! Files made together share a sidecar page, and are mostly read together. When a second key of
//! a page has to be fetched, the others of that page are fetched too; when that paid off, those
//! of the next page already at its first. Pages that were made one after the other have ids that
//! follow each other, so the pages after one that paid off are known, and are fetched before they
//! are wanted: else each page would wait for the KMS once.

use std::collections::{HashSet, VecDeque};

use crate::ids::{FileId, PageId};

/// Pages that are remembered: as many as a few walks through directories have at once.
const PAGES: usize = 24;
/// Pages that are fetched beyond the one that is read: four times as many keys as a KMS is asked for
/// at once.
const BEYOND: usize = 4;

struct Seen {
    page: PageId,
    asked: usize,
    unused: HashSet<u16>,
    /// The pages after it are looked at.
    is_followed: bool,
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
        let last = self.0.iter().rev().find(|seen| seen.asked > 0);
        let paid_off = last.is_some_and(Seen::paid_off);
        self.remember(page);
        paid_off
    }

    fn remember(&mut self, page: PageId) {
        if self.0.len() == PAGES {
            self.0.pop_front();
        }
        self.0.push_back(Seen { page, asked: 0, unused: HashSet::new(), is_followed: false });
    }

    /// The slots of a page that are fetched ahead now.
    pub(super) fn asked(&mut self, page: PageId, slots: &[u16]) {
        if let Some(seen) = self.0.iter_mut().find(|s| s.page == page && s.asked == 0) {
            seen.asked = slots.len();
            seen.unused = slots.iter().copied().collect();
        }
    }

    /// A key was at hand when it was wanted. Answers which further pages are worth a look: once for
    /// each page that paid off.
    pub(super) fn hit(&mut self, file: FileId) -> Vec<PageId> {
        let Some(seen) = self.0.iter_mut().rfind(|s| s.page == file.page()) else {
            return Vec::new();
        };
        seen.unused.remove(&file.slot());
        if seen.is_followed || !seen.paid_off() {
            return Vec::new();
        }
        seen.is_followed = true;
        let next = std::iter::successors(Some(file.page().next()), |page| Some(page.next()));
        let is_new = |page: &PageId| self.0.iter().all(|seen| seen.page != *page);
        let new: Vec<_> = next.take(BEYOND).filter(is_new).collect();
        new.iter().for_each(|page| self.remember(*page));
        new
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
        assert_eq!(ahead.hit(FileId::new(page(1), 2)), []);
        assert_eq!(ahead.hit(FileId::new(page(1), 3)).len(), BEYOND, "half of it paid off");
        assert_eq!(ahead.hit(FileId::new(page(1), 4)), [], "once a page");
        ahead.0.truncate(1);
        assert!(ahead.miss(page(2)));
        ahead.asked(page(2), &[1, 2, 3]);
        for slot in [1, 2, 3] {
            ahead.hit(FileId::new(page(2), slot));
        }
        assert!(ahead.miss(page(3)));
    }

    #[test]
    fn a_walk_is_always_as_many_pages_behind_what_is_fetched() {
        let (mut ahead, first) = (Ahead::default(), page(7));
        assert!(!ahead.miss(first) && ahead.miss(first));
        ahead.asked(first, &[1]);
        let mut page = first;
        let mut known: Vec<_> = ahead.hit(FileId::new(first, 1));
        assert_eq!((known.len(), known[0]), (BEYOND, first.next()));
        for _ in 0..100 {
            page = page.next();
            ahead.asked(page, &[1]);
            let new = ahead.hit(FileId::new(page, 1));
            assert_eq!(new.len(), 1);
            assert!(!known.contains(&new[0]));
            known.extend(new);
        }
    }

    #[test]
    fn scattered_files_fetch_nothing_ahead() {
        let mut ahead = Ahead::default();
        assert!((0..200).all(|n| !ahead.miss(page(n))));
    }
}
