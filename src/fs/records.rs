//! Content as records on an open file: reading, writing, growing, cutting, punching.
//!
//! The caller holds the file's lock: shared for reading, exclusive for the rest. The rules of
//! order are those of docs/FORMAT.md; tests/crash cuts the power between all of them.

use super::errno::{Outcome, errno};
use super::size_floor::SizeFloor;
use crate::content::{
    ContentCipher, FirstPage, HEADER, Header, MAX_SIZE, Opened, PAGE, Span, capacity, disk_size,
    is_hole, locate, parse_header, plain_size, records, spans, start_of,
};
use crate::disk::OpenFile;
use crate::disk::device::Writeback;
use crate::ids::FileId;
use crate::secret::{random_nonce, wipe};

pub(super) const PAGE_LEN: usize = PAGE as usize;

/// What is known of the padding of a file's last record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tail {
    /// Not looked at since the file was opened or cut.
    #[default]
    Unknown,
    /// Zero, on stable storage too as far as this record was ever written.
    Zero,
    /// Made zero in the page cache, but the sync failed: to be looked at and synced again.
    Unsynced,
}

impl Tail {
    /// The file was cut: its last record is another one, or ends elsewhere.
    fn forget(&mut self) {
        if *self == Self::Zero {
            *self = Self::Unknown;
        }
    }
}

/// The file id in the header; `None` for an empty file, or one that has no key yet.
///
/// # Errors
/// EBADMSG for a header that is not one; of reading.
pub fn file_id(file: &dyn OpenFile) -> Outcome<Option<FileId>> {
    let mut head = [0; HEADER];
    let n = file.read_at(&mut head, 0)?;
    id_in(&head[..n])
}

/// As [`file_id`] where the header is in memory. `None` where it is not, and the disk has been
/// asked for it.
///
/// # Errors
/// As [`file_id`].
pub fn file_id_at_hand(file: &dyn OpenFile) -> Outcome<Option<Option<FileId>>> {
    let mut head = [0; HEADER];
    let Some(n) = file.read_at_hand(&mut head, 0)? else { return Ok(None) };
    id_in(&head[..n]).map(Some)
}

fn id_in(head: &[u8]) -> Outcome<Option<FileId>> {
    let Some(head) = head.first_chunk::<HEADER>() else {
        // Cut within its header it is as empty as one cut within its first record.
        return Ok(None);
    };
    match parse_header(head) {
        Ok(FirstPage::Keyed(Header { file })) => Ok(Some(file)),
        Ok(FirstPage::Keyless) => Ok(None),
        Err(_) => Err(errno(libc::EBADMSG)),
    }
}

/// A file's content, under its lock.
pub struct Records<'a> {
    /// The open file.
    pub file: &'a dyn OpenFile,
    /// Its cipher; `None` while it has no key.
    pub cipher: Option<&'a ContentCipher>,
    /// What the device promises.
    pub writeback: Writeback,
    /// What is known of its size.
    pub floor: &'a SizeFloor,
}

impl Records<'_> {
    /// The size of the plaintext.
    ///
    /// # Errors
    /// Of stat.
    pub fn size(&self) -> Outcome<u64> {
        Ok(plain_size(self.file.size()?))
    }

    /// The size, or one that does in its place for bytes that end at `end`.
    fn size_for(&self, end: u64) -> Outcome<u64> {
        if let Some(size) = self.floor.beyond(end) {
            return Ok(size);
        }
        let size = self.size()?;
        self.floor.note(size);
        Ok(size)
    }

    pub(super) fn cipher(&self) -> Outcome<&ContentCipher> {
        // A file without a key has no record to seal or open; one that has is damaged.
        self.cipher.ok_or(errno(libc::EBADMSG))
    }

    pub(super) fn open_page(&self, record: u64, page: &[u8], out: &mut [u8]) -> Outcome<Opened> {
        let Some(cipher) = self.cipher else {
            out.fill(0);
            return if is_hole(page) { Ok(Opened::Hole) } else { Err(errno(libc::EBADMSG)) };
        };
        cipher.open(record, page, out).map_err(|e| {
            log::error!(
                "file {}: record {record} (offset {}) fails authentication",
                cipher.file(),
                start_of(record)
            );
            e.into()
        })
    }

    /// Reads one record whole into `plain`; beyond the end of the file it is zeros.
    pub(super) fn load(&self, record: u64, plain: &mut [u8]) -> Outcome<()> {
        let mut page = [0; PAGE_LEN];
        self.file.read_at(&mut page, record * PAGE)?;
        self.open_page(record, &page, plain)?;
        Ok(())
    }

    /// Reads up to `out.len()` bytes at `offset`, and says how many: fewer at the end.
    ///
    /// # Errors
    /// EBADMSG; of the backing file.
    pub fn read(&self, offset: u64, out: &mut [u8], pages: &mut Vec<u8>) -> Outcome<usize> {
        let size = self.size_for(offset.saturating_add(out.len() as u64))?;
        let len = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX).min(out.len());
        if len == 0 {
            return Ok(0);
        }
        let (first, _) = locate(offset);
        let (last, _) = locate(offset + len as u64 - 1);
        let count = usize::try_from(last - first + 1).map_err(|_| errno(libc::EINVAL))?;
        pages.resize(count * PAGE_LEN, 0);
        self.read_pages(first, pages)?;
        for span in spans(offset, len) {
            let at =
                usize::try_from(span.record - first).map_err(|_| errno(libc::EINVAL))? * PAGE_LEN;
            let page = &pages[at..at + PAGE_LEN];
            let into = &mut out[span.at..span.at + span.len];
            if span.len as u64 == capacity(span.record) {
                self.open_page(span.record, page, into)?;
            } else {
                let mut plain = [0; PAGE_LEN];
                let plain = &mut plain[..capacity(span.record) as usize];
                self.open_page(span.record, page, plain)?;
                into.copy_from_slice(&plain[span.within..span.within + span.len]);
                wipe(plain);
            }
        }
        Ok(len)
    }

    /// Writes `data` at `offset`, growing the file where it ends beyond it.
    ///
    /// # Errors
    /// EFBIG, EBADMSG; of the backing file, and then the size is as before.
    pub fn write(
        &self,
        tail: &mut Tail,
        offset: u64,
        data: &[u8],
        pages: &mut Vec<u8>,
    ) -> Outcome<()> {
        if data.is_empty() {
            return Ok(());
        }
        let end = offset.checked_add(data.len() as u64).filter(|e| *e <= MAX_SIZE);
        let end = end.ok_or(errno(libc::EFBIG))?;
        let size = self.size_for(end)?;
        if size > 0 && *tail != Tail::Zero && records(size) > locate(offset).0 {
            // The last record may be among those overwritten: then its padding is looked at
            // now, for a later look would see the zeros that this write leaves in the cache.
            let last = records(size) - 1;
            if end > start_of(last) {
                self.clean_tail(tail, size)?;
            }
        }
        self.seal_spans(size, offset, data, pages)?;
        let (first, _) = locate(offset);
        if end > size {
            self.grow(tail, size, end)?;
        } else if self.writeback == Writeback::WaitFirst {
            self.file.wait_writeback(first * PAGE, pages.len() as u64)?;
        }
        let whole = self.put(first, pages, size);
        if end > size { self.undo_growth(tail, size, whole) } else { whole }
    }

    /// Gives a file that was made longer its old size back, if what should follow failed: on a
    /// full disk, what could not be written is not there.
    fn undo_growth(&self, tail: &mut Tail, size: u64, followed: Outcome<()>) -> Outcome<()> {
        if followed.is_err() {
            // Best effort by its nature.
            let _ = self.cut(tail, size);
        }
        followed
    }

    /// Writes whole pages; the bytes of the marker after the last are never written.
    fn put(&self, first: u64, pages: &[u8], size: u64) -> Outcome<()> {
        if first > 0 && size == 0 {
            self.install()?;
        }
        self.file.write_at(pages, first * PAGE)?;
        Ok(())
    }

    /// Writes the header of a file that has its first record on disk, but no key yet.
    ///
    /// # Errors
    /// Of the backing file.
    pub fn install(&self) -> Outcome<()> {
        self.file.write_at(&self.cipher()?.header(), 0)?;
        Ok(())
    }

    /// Gives a file that has none the key of this cipher. [`Records::check_blank`] has found
    /// every record of it a hole.
    ///
    /// # Errors
    /// Of the backing file.
    pub fn give_key(&self) -> Outcome<()> {
        if self.size()? == 0 {
            return Ok(()); // The first write brings the header along.
        }
        self.install()?;
        // Zeros that were synced must stay readable beside records that need this header.
        self.file.sync_data()?;
        Ok(())
    }

    /// Seals every record that `data` touches into `pages`, reading the edges back.
    fn seal_spans(&self, size: u64, offset: u64, data: &[u8], pages: &mut Vec<u8>) -> Outcome<()> {
        let cipher = self.cipher()?;
        let count = spans(offset, data.len()).count();
        pages.resize(count * PAGE_LEN, 0);
        let existing = records(size);
        let covered = |span: &Span| {
            span.within == 0
                && (span.len as u64 == capacity(span.record)
                    || span.record >= existing
                    || start_of(span.record) + span.len as u64 >= size)
        };
        let kept = |span: &Span| !covered(span) && span.record < existing;
        self.read_kept(spans(offset, data.len()), kept, pages)?;
        for (i, span) in spans(offset, data.len()).enumerate() {
            let page = &mut pages[i * PAGE_LEN..(i + 1) * PAGE_LEN];
            let from = &data[span.at..span.at + span.len];
            if covered(&span) {
                cipher.seal(span.record, from, page, random_nonce());
                continue;
            }
            let mut plain = [0; PAGE_LEN];
            let plain = &mut plain[..capacity(span.record) as usize];
            if kept(&span) {
                self.open_page(span.record, page, plain)?;
                let inside = size.saturating_sub(start_of(span.record)).min(plain.len() as u64);
                plain[inside as usize..].fill(0);
            }
            plain[span.within..span.within + span.len].copy_from_slice(from);
            cipher.seal(span.record, plain, page, random_nonce());
            wipe(plain);
        }
        Ok(())
    }

    /// Reads the pages of those spans of which something is kept, each to its place in `pages`.
    /// They can only be the first and the last; neighbours are read in one call.
    fn read_kept(
        &self,
        spans: impl Iterator<Item = Span>,
        kept: impl Fn(&Span) -> bool,
        pages: &mut [u8],
    ) -> Outcome<()> {
        let mut run: Option<(std::ops::Range<usize>, u64)> = None;
        for (i, span) in spans.enumerate().filter(|(_, span)| kept(span)) {
            match &mut run {
                Some((at, _)) if at.end == i => at.end = i + 1,
                _ => {
                    if let Some((at, record)) = run.replace((i..i + 1, span.record)) {
                        self.read_pages(
                            record,
                            &mut pages[at.start * PAGE_LEN..at.end * PAGE_LEN],
                        )?;
                    }
                }
            }
        }
        match run {
            Some((at, record)) => {
                self.read_pages(record, &mut pages[at.start * PAGE_LEN..at.end * PAGE_LEN])
            }
            None => Ok(()),
        }
    }

    /// Reads whole pages; what lies beyond the end of the file is zeros.
    pub(super) fn read_pages(&self, first: u64, into: &mut [u8]) -> Outcome<()> {
        let got = self.file.read_at(into, first * PAGE)?;
        into[got..].fill(0);
        Ok(())
    }

    /// Makes sure that the padding of the last record is zero on stable storage.
    pub(super) fn clean_tail(&self, tail: &mut Tail, size: u64) -> Outcome<()> {
        if *tail == Tail::Zero || size == 0 {
            return Ok(());
        }
        let last = records(size) - 1;
        let used = (size - start_of(last)) as usize;
        if used < capacity(last) as usize && self.zero_padding(last, used)? {
            *tail = Tail::Unsynced;
        }
        if *tail == Tail::Unsynced {
            self.file.sync_data()?;
        }
        *tail = Tail::Zero;
        Ok(())
    }

    /// Reseals a record with zeros behind `used` bytes; answers whether they were not zeros.
    fn zero_padding(&self, record: u64, used: usize) -> Outcome<bool> {
        let mut plain = [0; PAGE_LEN];
        let plain = &mut plain[..capacity(record) as usize];
        self.load(record, plain)?;
        let dirty = plain[used..].iter().any(|b| *b != 0);
        let mut page = [0; PAGE_LEN];
        if dirty {
            plain[used..].fill(0);
            self.cipher()?.seal(record, plain, &mut page, random_nonce());
        }
        wipe(plain);
        if dirty {
            self.rewrite(record, &page)?;
        }
        Ok(dirty)
    }

    /// Writes a page in place of one that is there.
    pub(super) fn rewrite(&self, record: u64, page: &[u8]) -> Outcome<()> {
        if self.writeback == Writeback::WaitFirst {
            self.file.wait_writeback(record * PAGE, PAGE)?;
        }
        self.file.write_at(page, record * PAGE)?;
        Ok(())
    }

    fn grow(&self, tail: &mut Tail, size: u64, new: u64) -> Outcome<()> {
        self.clean_tail(tail, size)?;
        if self.writeback == Writeback::WaitFirst && size > 0 {
            self.file.wait_writeback((records(size) - 1) * PAGE, PAGE)?;
        }
        self.file.set_size(disk_size(new))?;
        *tail = Tail::Zero;
        Ok(())
    }

    /// Sets the size; what is added reads as zeros.
    ///
    /// # Errors
    /// EFBIG, EBADMSG; of the backing file.
    pub fn set_size(&self, tail: &mut Tail, new: u64) -> Outcome<()> {
        if new > MAX_SIZE {
            return Err(errno(libc::EFBIG));
        }
        let size = self.size()?;
        if new > size {
            self.grow(tail, size, new)?;
            if size == 0 && self.cipher.is_some() {
                let installed = self.install();
                self.undo_growth(tail, size, installed)?;
            }
        } else if new < size {
            self.cut(tail, new)?;
        }
        Ok(())
    }

    /// Makes the file shorter. Nothing else does.
    ///
    /// # Errors
    /// Of the backing file.
    pub fn cut(&self, tail: &mut Tail, new: u64) -> Outcome<()> {
        tail.forget();
        self.floor.forget();
        Ok(self.file.set_size(disk_size(new))?)
    }
}
