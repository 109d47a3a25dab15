//! Holes: making them, and finding data between them.

use super::errno::{Outcome, errno};
use super::records::{PAGE_LEN, Records, Tail};
use crate::content::{HEADER, PAGE, capacity, is_hole, locate, records, spans, start_of};
use crate::disk::Range;
use crate::secret::wipe;

/// What [`Records::seek`] looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sought {
    /// Data.
    Data,
    /// A hole.
    Hole,
}

impl Records<'_> {
    /// Makes a range read as zeros, its whole records holes. The size stays.
    ///
    /// # Errors
    /// EBADMSG; of the backing file.
    pub fn punch(&self, tail: &mut Tail, offset: u64, len: u64) -> Outcome<()> {
        let size = self.size()?;
        let end = offset.saturating_add(len).min(size);
        if offset >= end {
            return Ok(());
        }
        self.clean_tail(tail, size)?;
        let (first, within) = locate(offset);
        let (last, last_within) = locate(end - 1);
        let ends_whole = end == size || last_within as u64 + 1 == capacity(last);
        let whole_from = if within == 0 { first } else { first + 1 };
        let whole_to = if ends_whole { last + 1 } else { last };
        if whole_from >= whole_to {
            return self.zero_edges(&[(offset, end)]);
        }
        let edges = [(offset, start_of(whole_from)), (start_of(whole_to).min(end), end)];
        self.zero_edges(&edges)?;
        self.punch_records(whole_from, whole_to, records(size))
    }

    fn zero_edges(&self, edges: &[(u64, u64)]) -> Outcome<()> {
        for (from, to) in edges.iter().filter(|(from, to)| from < to) {
            for span in spans(*from, (to - from) as usize) {
                let mut page = [0; PAGE_LEN];
                self.file.read_at(&mut page, span.record * PAGE)?;
                if is_hole(&page) {
                    continue;
                }
                let mut plain = [0; PAGE_LEN];
                let plain = &mut plain[..capacity(span.record) as usize];
                self.open_page(span.record, &page, plain)?;
                plain[span.within..span.within + span.len].fill(0);
                let nonce = crate::secret::random_bytes();
                self.cipher()?.seal(span.record, plain, &mut page, nonce);
                wipe(plain);
                self.rewrite(span.record, &page)?;
            }
        }
        Ok(())
    }

    fn punch_records(&self, from: u64, to: u64, count: u64) -> Outcome<()> {
        let mut at = from;
        if at == 0 {
            let mut page = [0; PAGE_LEN];
            if let Some(cipher) = self.cipher {
                page[..HEADER].copy_from_slice(&cipher.header());
            }
            self.rewrite(0, &page)?;
            at = 1;
        }
        if at >= to {
            return Ok(());
        }
        // The bytes of the size marker stay: only the pages of records are punched.
        debug_assert!(to <= count);
        match self.file.range(Range::Punch, at * PAGE, (to - at) * PAGE) {
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                (at..to).try_for_each(|record| self.rewrite(record, &[0; PAGE_LEN]))
            }
            other => Ok(other?),
        }
    }

    /// The first offset ≥ `offset` that lies in data, or in a hole (the end of the file counts
    /// as one); lseek(2).
    ///
    /// # Errors
    /// ENXIO; of the backing file.
    pub fn seek(&self, offset: u64, sought: Sought) -> Outcome<u64> {
        let size = self.size()?;
        if offset >= size {
            return Err(errno(libc::ENXIO));
        }
        let (mut record, _) = locate(offset);
        let count = records(size);
        while record < count {
            if sought == Sought::Data {
                match self.file.seek_data(record * PAGE)? {
                    Some(at) => record = record.max(at / PAGE),
                    None => return Err(errno(libc::ENXIO)),
                }
                if record >= count {
                    return Err(errno(libc::ENXIO));
                }
            }
            let mut page = [0; PAGE_LEN];
            self.file.read_at(&mut page, record * PAGE)?;
            if is_hole(&page) == (sought == Sought::Hole) {
                return Ok(start_of(record).max(offset));
            }
            record += 1;
        }
        if sought == Sought::Hole { Ok(size) } else { Err(errno(libc::ENXIO)) }
    }
}
