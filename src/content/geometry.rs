//! Where plaintext lies on disk: whole pages, and a size marker of bytes never written.

/// The size of a page: of a record on disk.
pub const PAGE: u64 = 4096;
/// The size of the header that begins the first page.
pub const HEADER: usize = 24;
/// Nonce and tag of a record.
const OVERHEAD: u64 = 28;
/// The longest file: its size on disk still fits a signed 64-bit offset, with room to spare.
pub const MAX_SIZE: u64 = 1 << 62;

/// How many bytes of plaintext a record holds.
pub fn capacity(record: u64) -> u64 {
    if record == 0 { PAGE - OVERHEAD - HEADER as u64 } else { PAGE - OVERHEAD }
}

/// The offset of a record's first byte of plaintext.
pub fn start_of(record: u64) -> u64 {
    if record == 0 { 0 } else { capacity(0) + (record - 1) * capacity(1) }
}

/// The record that holds an offset, and where in it.
pub fn locate(offset: u64) -> (u64, usize) {
    let record = if offset < capacity(0) { 0 } else { 1 + (offset - capacity(0)) / capacity(1) };
    (record, (offset - start_of(record)) as usize)
}

/// How many records a file of this size has.
pub fn records(plain: u64) -> u64 {
    if plain == 0 { 0 } else { locate(plain - 1).0 + 1 }
}

/// The size on disk: whole pages plus as many bytes as the last record holds.
pub fn disk_size(plain: u64) -> u64 {
    let n = records(plain);
    if n == 0 { 0 } else { n * PAGE + (plain - start_of(n - 1)) }
}

/// The plaintext's size from the size on disk: a total function, as any size may be found.
pub fn plain_size(disk: u64) -> u64 {
    let (n, rest) = (disk / PAGE, disk % PAGE);
    if n == 0 { 0 } else { start_of(n - 1) + rest.min(capacity(n - 1)) }
}

/// The part of one record that a range covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The record.
    pub record: u64,
    /// Where in the record.
    pub within: usize,
    /// How many bytes; never 0.
    pub len: usize,
    /// Where in the range.
    pub at: usize,
}

/// The records that `len` bytes at `offset` touch, in order.
pub fn spans(offset: u64, len: usize) -> impl Iterator<Item = Span> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= len {
            return None;
        }
        let (record, within) = locate(offset + at as u64);
        let span =
            Span { record, within, len: (capacity(record) as usize - within).min(len - at), at };
        at += span.len;
        Some(span)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_at_the_edges() {
        assert_eq!(disk_size(0), 0);
        assert_eq!(disk_size(1), 4097);
        assert_eq!(disk_size(4044), 4096 + 4044);
        assert_eq!(disk_size(4045), 2 * 4096 + 1);
        assert_eq!(plain_size(4095), 0);
        assert_eq!(plain_size(4096), 0);
        assert_eq!(plain_size(2 * 4096 - 1), 4044);
        assert_eq!(plain_size(2 * 4096), 4044);
    }

    proptest! {
        #[test]
        fn size_on_disk_and_back(n in 0..MAX_SIZE) {
            prop_assert_eq!(plain_size(disk_size(n)), n);
        }

        #[test]
        fn a_longer_disk_file_is_never_a_shorter_one(d in 0u64..1 << 20) {
            prop_assert!(plain_size(d) <= plain_size(d + 1));
        }

        #[test]
        fn spans_cover_the_range_once(offset in 0u64..20_000, len in 0usize..20_000) {
            let mut at = 0;
            for s in spans(offset, len) {
                prop_assert_eq!(s.at, at);
                prop_assert_eq!(start_of(s.record) + s.within as u64, offset + at as u64);
                prop_assert!(s.len > 0 && (s.within + s.len) as u64 <= capacity(s.record));
                at += s.len;
            }
            prop_assert_eq!(at, len);
        }
    }
}
