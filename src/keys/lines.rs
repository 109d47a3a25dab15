//! Sidecar lines and bodies of long symlinks that nothing refers to any more.
//!
//! They are removed only after a syncfs of the store that began after the last unlink and the
//! last close: a power cut may undo those, and the file must still open, the link still lead.

use std::collections::{HashMap, HashSet};
use std::io;

use parking_lot::Mutex;

use crate::ids::{FileId, LinkId, PageId};
use crate::store::Store;

/// What waits for its removal.
#[derive(Clone, Copy)]
enum Removal {
    Line(FileId),
    Body(LinkId),
}

/// The lines and bodies that wait for their removal.
#[derive(Default)]
pub(super) struct PendingRemovals(Mutex<Vec<Removal>>);

impl PendingRemovals {
    pub(super) fn add(&self, file: FileId) {
        self.0.lock().push(Removal::Line(file));
    }

    pub(super) fn add_body(&self, link: LinkId) {
        self.0.lock().push(Removal::Body(link));
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Removes what is waiting now. What fails is left over, which is harmless.
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
        let mut first = Ok(());
        for dead in batch {
            match dead {
                Removal::Line(file) => {
                    pages.entry(file.page()).or_default().insert(file.slot());
                }
                Removal::Body(link) => first = first.and(store.remove_link_body(link)),
            }
        }
        for (page, slots) in pages {
            first = first.and(store.remove_lines(page, &slots));
        }
        first
    }
}
