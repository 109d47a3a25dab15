//! Reading and writing content.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::sync::Arc;

use super::Fs;
use super::errno::Outcome;
use super::handles::OpenFor;
use super::node::{Capability, Content, Node};
use super::piece::Piece;
use super::records::Records;
use super::seek::Sought;
use super::xattrs::CAPABILITY;
use crate::content::{ContentCipher, PAGE, disk_size, locate, start_of};
use crate::disk::{File, OpenFile, Range};
use crate::secret::wipe;

thread_local! {
    /// Pages on the way from or to the disk: ciphertext, kept for the next request.
    static PAGES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// So many bytes are copied in one step.
const COPIED_AT_ONCE: usize = 256 << 10;

/// So many records are reserved in one call of the store: 1 GiB.
const RESERVED_AT_ONCE: u64 = 1 << 18;

/// What `fallocate` does to the size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It stays.
    KeepSize,
    /// It grows to the range's end.
    Extend,
}

impl Fs {
    /// The cipher of a file's content, or `None` while it has no key; and the backing file.
    fn reading(&self, node: &Arc<Node>) -> Outcome<(File, Option<Arc<ContentCipher>>)> {
        let file = self.backing(node, OpenFor::Reading)?;
        let cipher = match self.file_id(node, &*file)? {
            Some(id) => Some(self.keyring.cipher(id)?),
            None => None,
        };
        Ok((file, cipher))
    }

    /// A file's content; the caller holds its lock.
    fn records<'a>(
        &self,
        node: &'a Node,
        file: &'a dyn OpenFile,
        cipher: Option<&'a ContentCipher>,
    ) -> Records<'a> {
        Records { file, cipher, writeback: self.writeback, floor: &node.size_floor }
    }

    /// Reads at `offset` into `out`; answers how many bytes, fewer at the end.
    ///
    /// # Errors
    /// `Park`, EBADMSG, EKEYREJECTED; of the backing filesystem.
    pub fn read(&self, ino: u64, offset: u64, out: &mut [u8]) -> Outcome<usize> {
        let node = self.node(ino)?;
        self.read_records(&node, |records| {
            PAGES.with_borrow_mut(|pages| records.read(offset, out, pages))
        })
    }

    /// Runs `look` under the file's lock, shared, with its cipher if it has a key.
    fn read_records<T>(
        &self,
        node: &Arc<Node>,
        look: impl FnOnce(&Records<'_>) -> Outcome<T>,
    ) -> Outcome<T> {
        loop {
            let (file, cipher) = self.reading(node)?;
            let content = node.content.read();
            if content.id != cipher.as_ref().map(|c| c.file()) {
                continue; // It got its key in between.
            }
            return look(&self.records(node, &*file, cipher.as_deref()));
        }
    }

    /// Writes at `offset`.
    ///
    /// # Errors
    /// `Park`, EFBIG, EBADMSG, EKEYREJECTED; of the backing filesystem.
    pub fn write(&self, ino: u64, offset: u64, data: &[u8]) -> Outcome<()> {
        self.writable()?;
        let node = self.node(ino)?;
        self.with_key(&node, |content, records| {
            PAGES.with_borrow_mut(|pages| records.write(&mut content.tail, offset, data, pages))
        })?;
        self.drop_capability(&node);
        Ok(())
    }

    /// Makes sure that a file without a key has no content that a key could make unreadable.
    fn check_blank(&self, node: &Node, file: &File) -> Outcome<()> {
        let mut content = node.content.write();
        if content.id.is_some() {
            return Ok(());
        }
        self.records(node, &**file, None).check_blank(&mut content.blank, &Piece::begin())
    }

    /// Runs `act` under the file's lock with its cipher, giving it a key first if it has none.
    fn with_key<T>(
        &self,
        node: &Arc<Node>,
        act: impl FnOnce(&mut Content, &Records<'_>) -> Outcome<T>,
    ) -> Outcome<T> {
        let file = self.backing(node, OpenFor::Writing)?;
        let (mut content, cipher) = loop {
            let known = self.file_id(node, &*file)?;
            let cipher = match known {
                Some(id) => self.keyring.cipher(id)?,
                None => {
                    self.check_blank(node, &file)?;
                    self.keyring.fresh()?
                }
            };
            let content = node.content.write();
            if content.id == known {
                break (content, cipher);
            }
            // Another writer gave it a key first, or cut it to nothing.
            drop(content);
            if known.is_none() {
                self.keyring.discard_unused_key(cipher.file());
            }
        };
        let records = self.records(node, &*file, Some(&cipher));
        if content.id.is_none() {
            if let Err(e) = records.give_key() {
                // It stays without a key. The header may be on its way to the disk all the same.
                self.keyring.schedule_key_removal(cipher.file());
                content.keyless = false;
                return Err(e);
            }
            self.learn_id(node, &mut content, cipher.file());
            content.headerless = true;
        }
        let done = act(&mut content, &records);
        if content.headerless {
            // Where the size cannot be told the key is kept: `fsck` finds what is of no file.
            content.headerless = records.size().is_ok_and(|size| size == 0);
        }
        done
    }

    /// Sets the size.
    pub(super) fn truncate(&self, node: &Arc<Node>, size: u64) -> Outcome<()> {
        let file = self.backing(node, OpenFor::Writing)?;
        if size == 0 {
            return self.cut_to_nothing(node, &*file);
        }
        let id = self.file_id(node, &*file)?;
        let cipher = match id {
            Some(id) => Some(self.keyring.cipher(id)?),
            None => None,
        };
        let mut content = node.content.write();
        if content.id != id {
            drop(content);
            return self.truncate(node, size);
        }
        self.records(node, &*file, cipher.as_deref()).set_size(&mut content.tail, size)?;
        content.headerless = false;
        Ok(())
    }

    /// It takes no key, and works on a file whose key is gone: what is written to it next has
    /// another.
    fn cut_to_nothing(&self, node: &Arc<Node>, file: &dyn OpenFile) -> Outcome<()> {
        let mut content = node.content.write();
        // The id is in the header, which goes; where it is damaged, a line without a file stays.
        let _ = self.look_up_id(node, &mut content, file);
        self.records(node, file, None).cut(&mut content.tail, 0)?;
        self.give_up_id(node, &mut content);
        Ok(())
    }

    /// fallocate(2) without a mode, or with KEEP_SIZE, of the bytes from `at` to `end`. `at`
    /// advances with what is reserved.
    ///
    /// # Errors
    /// `Park`, `Unfinished`; of the backing filesystem.
    pub fn allocate(&self, ino: u64, at: &mut u64, end: u64, reach: Reach) -> Outcome<()> {
        self.writable()?;
        let node = self.node(ino)?;
        let piece = Piece::begin();
        self.with_key(&node, |content, r| {
            while *at < end {
                let (record, _) = locate(*at);
                let to = start_of(record + RESERVED_AT_ONCE).min(end);
                let from = record * PAGE;
                r.file.range(Range::Reserve, from, disk_size(to).saturating_sub(from).max(PAGE))?;
                *at = to;
                if *at < end {
                    piece.go_on()?;
                }
            }
            if reach == Reach::Extend && end > r.size()? {
                r.set_size(&mut content.tail, end)?;
            }
            Ok(())
        })
    }

    /// fallocate(2) with PUNCH_HOLE or ZERO_RANGE: the bytes from `at` to `end` read as zeros.
    /// `at` advances with what is done.
    ///
    /// # Errors
    /// `Park`, `Unfinished`; of the backing filesystem.
    pub fn zero(&self, ino: u64, at: &mut u64, end: u64, reach: Reach) -> Outcome<()> {
        self.writable()?;
        let node = self.node(ino)?;
        let piece = Piece::begin();
        self.with_key(&node, |content, r| {
            r.punch(&mut content.tail, at, end, &piece)?;
            if reach == Reach::Extend && end > r.size()? {
                r.set_size(&mut content.tail, end)?;
            }
            Ok(())
        })
    }

    /// lseek(2) SEEK_DATA and SEEK_HOLE. `offset` advances with what has been looked at.
    ///
    /// # Errors
    /// `Park`, `Unfinished`; ENXIO; EBADMSG, EKEYREJECTED; of the backing filesystem.
    pub fn seek(&self, ino: u64, offset: &mut u64, to: Sought) -> Outcome<u64> {
        let node = self.node(ino)?;
        self.read_records(&node, |records| records.seek(offset, to, &Piece::begin()))
    }

    /// copy_file_range(2); answers how many bytes: fewer where the source ends, or where it has
    /// taken long enough. Who copies goes on from there.
    ///
    /// # Errors
    /// `Park`, when nothing is copied yet; of the backing filesystem.
    pub fn copy(&self, from: (u64, u64), to: (u64, u64), len: u64) -> Outcome<u64> {
        let mut bytes = vec![0; COPIED_AT_ONCE.min(usize::try_from(len).unwrap_or(usize::MAX))];
        let piece = Piece::begin();
        let mut done = 0;
        while done < len && (done == 0 || !piece.is_over()) {
            let want = bytes.len().min(usize::try_from(len - done).unwrap_or(usize::MAX));
            let step = self
                .read(from.0, from.1 + done, &mut bytes[..want])
                .and_then(|n| self.write(to.0, to.1 + done, &bytes[..n]).map(|()| n));
            match step {
                Ok(0) => break,
                Ok(n) => done += n as u64,
                Err(_) if done > 0 => break,
                Err(e) => {
                    wipe(&mut bytes);
                    return Err(e);
                }
            }
        }
        wipe(&mut bytes);
        Ok(done)
    }

    /// Changed content loses its file capabilities; looked at once per inode.
    fn drop_capability(&self, node: &Node) {
        if node.capability() != Capability::Unknown {
            return;
        }
        if let Some(file) = &node.content.read().file {
            let is_gone = match file.remove_xattr(OsStr::new(CAPABILITY)) {
                Ok(()) => true,
                // The common answer; and that of a filesystem without attributes.
                Err(e) => matches!(e.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)),
            };
            node.set_capability(if is_gone { Capability::Absent } else { Capability::Stays });
        }
    }
}
