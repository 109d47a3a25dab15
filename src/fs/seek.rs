//! Finding holes, and data between them (lseek(2)).
//!
//! Records and the blocks that programs work with begin in different places, and a program that
//! writes a block writes two records that reach beyond it. So the answers are in blocks, and of the
//! records beside a hole of the store the zeros that reach to it count as part of it. Other content
//! is not looked at, but for the block from which on data is sought.

use super::errno::{Outcome, errno};
use super::piece::Piece;
use super::records::{PAGE_LEN, Records};
use crate::content::{PAGE, capacity, is_hole, locate, records, spans, start_of};
use crate::secret::wipe;

/// The unit of the answers, in bytes.
const BLOCK: u64 = 4096;

/// What [`Records::seek`] looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sought {
    /// Data.
    Data,
    /// A hole.
    Hole,
}

/// The part of a record that counts as data, as offsets in the file.
struct Used {
    from: u64,
    to: u64,
}

impl Records<'_> {
    /// The first offset ≥ `*offset` in a block that holds data, or in one that holds none; the end
    /// of the file counts as a hole. `offset` advances where a piece ends.
    ///
    /// # Errors
    /// `Unfinished`; ENXIO; EBADMSG; of the backing file.
    pub fn seek(&self, offset: &mut u64, sought: Sought, piece: &Piece) -> Outcome<u64> {
        let size = self.size()?;
        if *offset >= size {
            return Err(errno(libc::ENXIO));
        }
        match sought {
            Sought::Data => self.seek_data(offset, size, piece),
            Sought::Hole => self.seek_hole(offset, size, piece),
        }
    }

    fn seek_data(&self, offset: &mut u64, size: u64, piece: &Piece) -> Outcome<u64> {
        let count = records(size);
        let mut from = block_of(*offset);
        // One block may be a hole and no record of it: then the store has none.
        if self.is_zero(from, (from + BLOCK).min(size))? {
            from += BLOCK;
            if from >= size {
                return Err(errno(libc::ENXIO));
            }
            *offset = from;
        }
        while let Some(record) = self.next_on_disk(locate(from).0, count)? {
            if let Some(used) = self.used(record, count)?
                && from < used.to
                && used.from < size
            {
                return Ok(block_of(used.from.max(from)).max(*offset));
            }
            from = start_of(record + 1);
            *offset = block_of(from).clamp(*offset, size - 1);
            piece.go_on()?;
        }
        Err(errno(libc::ENXIO))
    }

    /// Whether the bytes from `from` to `to`, of some records, read as zeros.
    fn is_zero(&self, from: u64, to: u64) -> Outcome<bool> {
        let mut plain = [0; PAGE_LEN];
        let mut is_zero = true;
        for span in spans(from, (to - from) as usize) {
            let plain = &mut plain[..capacity(span.record) as usize];
            if is_zero && self.is_on_disk(span.record)? {
                self.load(span.record, plain)?;
                is_zero = plain[span.within..span.within + span.len].iter().all(|b| *b == 0);
            }
        }
        wipe(&mut plain);
        Ok(is_zero)
    }

    fn seek_hole(&self, offset: &mut u64, size: u64, piece: &Piece) -> Outcome<u64> {
        while let Some(data) = self.data_within(block_of(*offset), size)? {
            let hole = self.end_of_data(data, records(size))?.next_multiple_of(BLOCK);
            if hole >= size {
                return Ok(size);
            }
            *offset = hole.max(*offset);
            piece.go_on()?;
        }
        Ok(*offset)
    }

    /// The record of the first byte of data in the block at `block`.
    fn data_within(&self, block: u64, size: u64) -> Outcome<Option<u64>> {
        let (end, count) = ((block + BLOCK).min(size), records(size));
        let (first, _) = locate(block);
        let (last, _) = locate(end - 1);
        for record in first..=last {
            if self.is_on_disk(record)?
                && let Some(used) = self.used(record, count)?
                && used.from < end
                && block < used.to
            {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    /// Where the data that begins in a record, or before it, ends: at the next hole of the store,
    /// or at the zeros in front of that.
    fn end_of_data(&self, record: u64, count: u64) -> Outcome<u64> {
        let hole = match record + 1 {
            next if next >= count => count,
            next => self.file.seek_hole(next * PAGE)?.div_ceil(PAGE).min(count),
        };
        if hole < count && self.is_on_disk(hole)? {
            // A store with blocks smaller than a page may have a hole that ends within it.
            return Ok(start_of(hole + 1));
        }
        Ok(self.used(hole - 1, count)?.map_or(start_of(hole - 1), |used| used.to))
    }

    /// The first record ≥ `record` that is on disk.
    fn next_on_disk(&self, record: u64, count: u64) -> Outcome<Option<u64>> {
        if record == 0 && self.is_on_disk(0)? {
            return Ok(Some(0));
        }
        let record = record.max(1);
        if record >= count {
            return Ok(None);
        }
        let at = self.file.seek_data(record * PAGE)?;
        Ok(at.map(|at| at / PAGE).filter(|found| *found < count))
    }

    /// Whether the store calls any byte of a record's page data. The first page is there for its
    /// header, too, so that one is read.
    fn is_on_disk(&self, record: u64) -> Outcome<bool> {
        if record == 0 {
            let mut page = [0; PAGE_LEN];
            self.file.read_at(&mut page, 0)?;
            return Ok(!is_hole(&page));
        }
        let data = self.file.seek_data(record * PAGE)?;
        Ok(data.is_some_and(|at| at < (record + 1) * PAGE))
    }

    /// What counts as data of a record that is on disk: all of it, but where a neighbour is not
    /// there, the zeros that reach to the neighbour do not. `None` where nothing is left.
    fn used(&self, record: u64, count: u64) -> Outcome<Option<Used>> {
        let (from, to) = (start_of(record), start_of(record + 1));
        let is_first = record == 0 || !self.is_on_disk(record - 1)?;
        let is_last = record + 1 >= count || !self.is_on_disk(record + 1)?;
        if !is_first && !is_last {
            return Ok(Some(Used { from, to }));
        }
        let mut plain = [0; PAGE_LEN];
        let plain = &mut plain[..capacity(record) as usize];
        self.load(record, plain)?;
        let first = plain.iter().position(|b| *b != 0);
        let last = plain.iter().rposition(|b| *b != 0);
        wipe(plain);
        let used = first.zip(last).map(|(first, last)| Used {
            from: if is_first { from + first as u64 } else { from },
            to: if is_last { from + last as u64 + 1 } else { to },
        });
        Ok(used)
    }
}

fn block_of(offset: u64) -> u64 {
    offset - offset % BLOCK
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::content::ContentCipher;
    use crate::disk::device::Writeback;
    use crate::disk::sim::Sim;
    use crate::disk::{File, Open};
    use crate::fs::records::Tail;
    use crate::fs::size_floor::SizeFloor;
    use crate::ids::{FileId, VolumeId};
    use crate::secret::Key;

    /// What is done to a file.
    #[derive(Clone, Debug)]
    enum Change {
        Write(u64, usize),
        Resize(u64),
        Punch(u64, u64),
    }

    const MOST: u64 = 60_000;

    fn change() -> impl Strategy<Value = Change> {
        // At blocks' edges and anywhere.
        let place = prop_oneof![(0..12u64).prop_map(|n| n * BLOCK), 0..MOST];
        let len = prop_oneof![Just(1), Just(4096), Just(8192), 1..20_000usize];
        prop_oneof![
            (place.clone(), len).prop_map(|(at, len)| Change::Write(at, len)),
            place.clone().prop_map(Change::Resize),
            (place.clone(), place).prop_map(|(at, len)| Change::Punch(at, len)),
        ]
    }

    /// A file, and what it holds.
    struct Both {
        file: File,
        cipher: ContentCipher,
        tail: Tail,
        floor: SizeFloor,
        bytes: Vec<u8>,
    }

    impl Both {
        fn new() -> Self {
            let file = Sim::new().root().open(OsStr::new("f"), Open::Create(0o600));
            let key = Key::build(|key| key.fill(7));
            let cipher = ContentCipher::new(&key, VolumeId([1; 16]), FileId([2; 16]));
            let file = file.expect("made");
            Self {
                file,
                cipher,
                tail: Tail::default(),
                floor: SizeFloor::default(),
                bytes: Vec::new(),
            }
        }

        fn records(&self) -> Records<'_> {
            let (file, cipher) = (&*self.file, Some(&self.cipher));
            Records { file, cipher, writeback: Writeback::WaitFirst, floor: &self.floor }
        }

        fn change(&mut self, change: &Change) {
            let mut tail = std::mem::take(&mut self.tail);
            match *change {
                Change::Write(at, len) => {
                    let (data, end) = (vec![7; len], at as usize + len);
                    let written = self.records().write(&mut tail, at, &data, &mut Vec::new());
                    written.expect("written");
                    self.bytes.resize(self.bytes.len().max(end), 0);
                    self.bytes[at as usize..end].copy_from_slice(&data);
                }
                Change::Resize(size) => {
                    self.records().set_size(&mut tail, size).expect("set");
                    self.bytes.resize(size as usize, 0);
                }
                Change::Punch(at, len) => {
                    let punched =
                        self.records().punch(&mut tail, &mut { at }, at + len, &Piece::all());
                    punched.expect("punched");
                    let end = self.bytes.len().min((at + len) as usize);
                    if (at as usize) < end {
                        self.bytes[at as usize..end].fill(0);
                    }
                }
            }
            self.tail = tail;
        }

        fn seek(&self, at: u64, sought: Sought) -> Option<u64> {
            match self.records().seek(&mut { at }, sought, &Piece::all()) {
                Ok(found) => Some(found),
                Err(e) => {
                    assert_eq!(e, errno(libc::ENXIO));
                    None
                }
            }
        }

        fn is_zero(&self, from: u64, to: u64) -> bool {
            let to = self.bytes.len().min(to as usize);
            self.bytes[(from as usize).min(to)..to].iter().all(|b| *b == 0)
        }
    }

    proptest! {
        #[test]
        fn no_byte_of_data_is_passed_over_and_every_hole_is_one(
            changes in vec(change(), 1..10),
            at in 0..MOST,
        ) {
            let mut both = Both::new();
            changes.iter().for_each(|change| both.change(change));
            let size = both.bytes.len() as u64;
            let (data, hole) = (both.seek(at, Sought::Data), both.seek(at, Sought::Hole));
            prop_assert_eq!(hole.is_none(), at >= size);
            prop_assert!(both.is_zero(at, data.unwrap_or(size)), "data {data:?}");
            if let Some(data) = data {
                prop_assert!(data >= at && data < size && (data == at || data % BLOCK == 0));
                let end = both.seek(data, Sought::Hole);
                prop_assert!(end.is_some_and(|end| end > data), "data at {data} to {end:?}");
            }
            if let Some(hole) = hole {
                prop_assert!(hole >= at && (hole == at || hole == size || hole % BLOCK == 0));
                if hole < size {
                    let block = block_of(hole);
                    prop_assert!(both.is_zero(block, block + BLOCK), "hole {hole}");
                    let next = both.seek(hole, Sought::Data);
                    prop_assert!(next.is_none_or(|next| next > hole), "hole {hole}, data {next:?}");
                }
            }
        }
    }

    /// The records that a block lies in reach beyond it: they were told before, so that data began
    /// 28 bytes and more before the block.
    #[test]
    fn a_block_between_holes_is_told_to_the_byte() {
        for block in 0..40 {
            let mut both = Both::new();
            both.change(&Change::Write(block * BLOCK, 4096));
            both.change(&Change::Resize(1 << 20));
            assert_eq!(both.seek(0, Sought::Data), Some(block * BLOCK), "block {block}");
            let end = (block + 1) * BLOCK;
            assert_eq!(both.seek(block * BLOCK, Sought::Hole), Some(end), "block {block}");
            assert_eq!(both.seek(end, Sought::Data), None, "block {block}");
        }
    }

    #[test]
    fn no_data_is_found_in_a_hole_of_one_block() {
        let mut both = Both::new();
        both.change(&Change::Write(0, 10 * BLOCK as usize));
        for block in [1, 4, 9] {
            both.change(&Change::Punch(block * BLOCK, BLOCK));
            let next = Some((block + 1) * BLOCK).filter(|next| *next < 10 * BLOCK);
            assert_eq!(both.seek(block * BLOCK, Sought::Data), next, "block {block}");
            assert_eq!(both.seek(block * BLOCK + 7, Sought::Data), next, "block {block}");
        }
    }

    #[test]
    fn a_hole_of_some_blocks_between_data_is_told_to_the_byte() {
        let mut both = Both::new();
        both.change(&Change::Write(0, 1 << 18));
        for (from, to) in [(4, 8), (10, 13), (20, 40)] {
            both.change(&Change::Punch(from * BLOCK, (to - from) * BLOCK));
            assert_eq!(both.seek((from - 1) * BLOCK, Sought::Hole), Some(from * BLOCK));
            assert_eq!(both.seek(from * BLOCK, Sought::Data), Some(to * BLOCK));
        }
    }
}
