//! Opening and releasing regular files. A handle is a few bits: no key, no descriptor of its
//! own; all opens of an inode share one backing file.

use std::sync::Arc;

use super::Fs;
use super::dirs::Seen;
use super::errno::{Outcome, errno};
use super::node::{Content, Node};
use crate::disk::{File, FileKind, Open};

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenFor {
    /// Reading alone.
    Reading,
    /// Writing, and perhaps reading.
    Writing,
}

impl Fs {
    /// Opens a regular file. Access is decided here: a file with content takes its key.
    ///
    /// # Errors
    /// `Park`, EKEYREJECTED, EBADMSG; of the backing filesystem.
    pub fn open(&self, ino: u64, how: OpenFor) -> Outcome<()> {
        let node = self.node(ino)?;
        if how == OpenFor::Writing {
            self.writable()?;
        }
        let file = self.backing(&node, how)?;
        if let Some(id) = self.file_id(&node, &*file)? {
            self.keyring.cipher(id)?;
        }
        let mut content = node.content.write();
        self.count_open(&mut content, file, how);
        Ok(())
    }

    /// Counts an open in. `file` is the backing file that it may share.
    pub(super) fn count_open(&self, content: &mut Content, file: File, how: OpenFor) {
        let writing = how == OpenFor::Writing;
        if content.file.is_none() || (writing && !content.writable) {
            content.file = Some(file);
            content.writable = writing;
        }
        content.openers += 1;
        if writing {
            content.writers += 1;
            if content.writers == 1
                && let Some(id) = content.id
            {
                self.keyring.hold(id);
            }
        }
    }

    /// Counts an open out.
    ///
    /// # Errors
    /// ESTALE.
    pub fn release(&self, ino: u64, how: OpenFor) -> Outcome<()> {
        let node = self.node(ino)?;
        let mut content = node.content.write();
        content.openers = content.openers.saturating_sub(1);
        if how == OpenFor::Writing {
            content.writers = content.writers.saturating_sub(1);
            if content.writers == 0
                && let Some(id) = content.id
            {
                self.keyring.release(id);
            }
        }
        node.close_unused(&mut content);
        Ok(())
    }

    /// The backing file, opened where it is not yet, or not yet for writing.
    pub(super) fn backing(&self, node: &Arc<Node>, how: OpenFor) -> Outcome<File> {
        if node.kind != FileKind::File {
            return Err(errno(libc::EINVAL));
        }
        {
            let content = node.content.read();
            if let Some(file) = &content.file {
                if how == OpenFor::Reading || content.writable {
                    return Ok(file.clone());
                }
                // Programs find what has no name any more through /proc.
                if node.place().is_none() {
                    return Ok(file.reopen()?);
                }
            }
        }
        let open = match how {
            OpenFor::Reading => Open::Read,
            OpenFor::Writing => Open::ReadWrite,
        };
        self.at_place(node, |dir, name| {
            let file = dir.open(name, open)?;
            Ok(Seen { ino: file.stat()?.ino, what: file })
        })
    }

    /// fsync(2) or fdatasync(2). It needs no key, and works while locked.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn fsync(&self, ino: u64, what: SyncWhat) -> Outcome<()> {
        let node = self.node(ino)?;
        let file = node.content.read().file.clone();
        let Some(file) = file else { return Ok(()) };
        {
            // Write-back starts under the lock: a record is never rewritten while half of its
            // old page is on the way to the disk.
            let _content = node.content.write();
            file.start_writeback(0, 0)?;
        }
        match what {
            SyncWhat::Data => file.sync_data()?,
            SyncWhat::All => file.sync_all()?,
        }
        Ok(())
    }
}

/// What a sync makes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncWhat {
    /// Content, and the size (fdatasync(2)).
    Data,
    /// Every attribute too (fsync(2)).
    All,
}

impl Fs {
    /// Removes the wrapped key of a file at once, and its key from the cache: what is left of
    /// it is ciphertext. Backups of the sidecar still open it. The keys of removed files go with it,
    /// for what they held may have been an earlier state of this one.
    ///
    /// # Errors
    /// EINVAL for what has no key; of the backing filesystem.
    pub fn shred(&self, ino: u64) -> Outcome<()> {
        self.writable()?;
        let node = self.node(ino)?;
        let file = self.backing(&node, OpenFor::Reading)?;
        let id = self.file_id(&node, &*file)?.ok_or(errno(libc::EINVAL))?;
        self.store.remove_lines(id.page(), &[id.slot()].into())?;
        self.keyring.shredded(id);
        // What it held before, under other keys, is to be gone too.
        Ok(self.keyring.end_grace()?)
    }
}
