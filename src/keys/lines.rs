//! Sidecar lines that nothing refers to any more.
//!
//! A line is removed only after a syncfs of the store that began after the file's last unlink
//! and last close: a power cut may undo those, and the file must still open.

use std::collections::{HashMap, HashSet};
use std::io;

use parking_lot::Mutex;

use crate::ids::{FileId, PageId};
use crate::store::Store;

/// The lines that wait for their removal.
#[derive(Default)]
pub(super) struct DeadLines(Mutex<Vec<FileId>>);

impl DeadLines {
    pub(super) fn add(&self, file: FileId) {
        self.0.lock().push(file);
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Removes what is waiting now. A page that fails is left over; left-over lines are
    /// harmless.
    ///
    /// # Errors
    /// Of the syncfs, and then nothing was removed; or the first page's.
    pub(super) fn sweep(&self, store: &Store) -> io::Result<()> {
        let batch = std::mem::take(&mut *self.0.lock());
        if batch.is_empty() {
            return Ok(());
        }
        if let Err(e) = store.sync() {
            self.0.lock().extend(batch);
            return Err(e);
        }
        let mut pages: HashMap<PageId, HashSet<u16>> = HashMap::new();
        for file in batch {
            pages.entry(file.page()).or_default().insert(file.slot());
        }
        let mut first = Ok(());
        for (page, slots) in pages {
            first = first.and(store.remove_lines(page, &slots));
        }
        first
    }
}
