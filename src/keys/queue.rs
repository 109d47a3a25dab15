//! What is to be fetched: the keys that somebody waits for, and after them those that may be wanted
//! next. A file is in flight from here to the answer, and is fetched once at a time.

use std::collections::{HashSet, VecDeque};

use crate::ids::{FileId, PageId};

/// What becomes of the other keys of a page when one is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Neighbours {
    /// They may be fetched ahead.
    Follow,
    /// They stay.
    Stay,
}

/// What a fetch thread is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// To fetch the key of a file.
    File(FileId, Neighbours),
    /// To look which keys a page has, and to fetch them ahead.
    Page(PageId),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Later {
    File(FileId),
    Page(PageId),
}

#[derive(Default)]
pub(super) struct Queue {
    wanted: VecDeque<FileId>,
    later: VecDeque<Later>,
    in_flight: HashSet<FileId>,
}

impl Queue {
    /// Somebody waits for this key. Says whether a thread has something new to do.
    pub(super) fn want(&mut self, file: FileId) -> bool {
        let is_new = self.claim(file);
        if is_new {
            self.wanted.push_back(file);
        }
        is_new
    }

    /// Claims a file for who calls; `false` where another thread fetches it.
    pub(super) fn claim(&mut self, file: FileId) -> bool {
        match self.later.iter().position(|l| *l == Later::File(file)) {
            Some(at) => self.later.remove(at).is_some(),
            None => self.in_flight.insert(file),
        }
    }

    /// Queues a key that nobody waits for yet; `false` where it is being fetched.
    pub(super) fn want_later(&mut self, file: FileId) -> bool {
        let is_new = self.in_flight.insert(file);
        if is_new {
            self.later.push_back(Later::File(file));
        }
        is_new
    }

    /// Queues pages to be looked at.
    pub(super) fn look_later(&mut self, pages: impl IntoIterator<Item = PageId>) {
        self.later.extend(pages.into_iter().map(Later::Page));
    }

    /// Queues a file again that is in flight.
    pub(super) fn requeue(&mut self, files: &[FileId]) {
        self.wanted.extend(files);
    }

    /// What is to be done next.
    pub(super) fn next(&mut self) -> Option<Task> {
        if let Some(file) = self.wanted.pop_front() {
            return Some(Task::File(file, Neighbours::Follow));
        }
        Some(match self.later.pop_front()? {
            Later::File(file) => Task::File(file, Neighbours::Stay),
            Later::Page(page) => Task::Page(page),
        })
    }

    /// A file is no longer in flight.
    pub(super) fn done(&mut self, file: FileId) {
        self.in_flight.remove(&file);
    }

    /// How many keys wait to be fetched ahead.
    pub(super) fn ahead(&self) -> usize {
        self.later.len()
    }

    /// Whether somebody waits for a key that no thread has taken up.
    pub(super) fn is_wanted(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// Forgets what was to be fetched ahead.
    pub(super) fn drop_later(&mut self) {
        for later in self.later.drain(..) {
            if let Later::File(file) = later {
                self.in_flight.remove(&file);
            }
        }
    }

    /// Those that somebody waits for, as if they had been fetched in vain.
    #[cfg(test)]
    pub(super) fn take_wanted(&mut self) -> Vec<FileId> {
        self.in_flight.clear();
        self.wanted.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_comes_first_and_each_file_is_fetched_once_at_a_time() {
        let (mut queue, page) = (Queue::default(), PageId([1; 14]));
        let file = |slot| FileId::new(page, slot);
        assert!(queue.want_later(file(1)) && queue.want_later(file(2)));
        queue.look_later([page]);
        assert!(queue.want(file(3)) && !queue.want(file(3)) && !queue.want_later(file(3)));
        assert!(queue.want(file(2)), "now somebody waits for it");
        assert_eq!(queue.next(), Some(Task::File(file(3), Neighbours::Follow)));
        assert_eq!(queue.next(), Some(Task::File(file(2), Neighbours::Follow)));
        assert!(!queue.claim(file(2)), "it is in flight");
        queue.done(file(2));
        assert!(queue.claim(file(2)));
        assert_eq!(queue.next(), Some(Task::File(file(1), Neighbours::Stay)));
        assert_eq!(queue.next(), Some(Task::Page(page)));
        assert_eq!(queue.next(), None);
    }

    #[test]
    fn what_was_to_be_fetched_ahead_can_be_forgotten() {
        let (mut queue, file) = (Queue::default(), FileId::new(PageId([1; 14]), 1));
        assert!(queue.want_later(file));
        queue.drop_later();
        assert_eq!((queue.next(), queue.ahead()), (None, 0));
        assert!(queue.claim(file));
    }
}
