//! Holes: making them, and making sure of them. Where they are is told in `seek`.

use super::errno::{Outcome, errno};
use super::piece::Piece;
use super::records::{PAGE_LEN, Records, Tail};
use crate::content::{HEADER, PAGE, capacity, is_hole, locate, records, start_of};
use crate::disk::Range;
use crate::secret::wipe;

/// Records punched in one call of the store: 256 MiB of them.
const STEP: u64 = 1 << 16;

/// Records read at once where the store calls data what should be a hole.
const READ_AHEAD: u64 = 64;

impl Records<'_> {
    /// Makes the bytes from `at` to `end` read as zeros, whole records of them holes. The size
    /// stays. `at` advances with what is done.
    ///
    /// # Errors
    /// `Unfinished` between two steps; EBADMSG; of the backing file.
    pub fn punch(&self, tail: &mut Tail, at: &mut u64, end: u64, piece: &Piece) -> Outcome<()> {
        let size = self.size()?;
        let end = end.min(size);
        if *at < end {
            self.clean_tail(tail, size)?;
        }
        while *at < end {
            let (record, within) = locate(*at);
            let next = start_of(record + 1);
            if within > 0 || (next > end && end < size) {
                let to = next.min(end);
                self.zero_within(record, within, to)?;
                *at = to;
            } else {
                let whole_to = if end == size { records(size) } else { locate(end).0 };
                let reached = self.punch_records(record, whole_to.min(record + STEP), piece)?;
                *at = start_of(reached).min(end);
            }
            if *at < end {
                piece.go_on()?;
            }
        }
        Ok(())
    }

    /// Zeros a record's bytes from `within` to the file's offset `to`.
    fn zero_within(&self, record: u64, within: usize, to: u64) -> Outcome<()> {
        let mut page = [0; PAGE_LEN];
        self.file.read_at(&mut page, record * PAGE)?;
        if is_hole(&page) {
            return Ok(());
        }
        let mut plain = [0; PAGE_LEN];
        let plain = &mut plain[..capacity(record) as usize];
        self.open_page(record, &page, plain)?;
        plain[within..(to - start_of(record)) as usize].fill(0);
        let nonce = crate::secret::random_bytes();
        self.cipher()?.seal(record, plain, &mut page, nonce);
        wipe(plain);
        self.rewrite(record, &page)
    }

    /// Makes holes of the records from `from` on; answers the first that is left to do.
    fn punch_records(&self, from: u64, to: u64, piece: &Piece) -> Outcome<u64> {
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
            return Ok(at);
        }
        // The bytes of the size marker stay: only the pages of records are punched.
        match self.file.range(Range::Punch, at * PAGE, (to - at) * PAGE) {
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                while at < to {
                    self.rewrite(at, &[0; PAGE_LEN])?;
                    at += 1;
                    if piece.is_over() {
                        break;
                    }
                }
                Ok(at)
            }
            other => {
                other?;
                Ok(to)
            }
        }
    }

    /// Makes sure that every record of a file without a key is a hole, from the record `*from`
    /// on: anything else is damage, which a new key would make final. The store's holes are
    /// believed; what it calls data is read. `from` advances where a piece ends.
    ///
    /// # Errors
    /// `Unfinished`; EBADMSG where one is not a hole; of the backing file.
    pub fn check_blank(&self, from: &mut u64, piece: &Piece) -> Outcome<()> {
        let count = records(self.size()?);
        let mut pages = Vec::new();
        while *from < count {
            match self.file.seek_data(*from * PAGE)? {
                Some(at) if at / PAGE < count => *from = (*from).max(at / PAGE),
                _ => {
                    *from = count;
                    return Ok(());
                }
            }
            let some = READ_AHEAD.min(count - *from);
            pages.resize(some as usize * PAGE_LEN, 0);
            self.read_pages(*from, &mut pages)?;
            if !pages.chunks(PAGE_LEN).all(is_hole) {
                return Err(errno(libc::EBADMSG));
            }
            *from += some;
            if *from < count {
                piece.go_on()?;
            }
        }
        Ok(())
    }
}
