//! Positions in a listing, as a program of 32 bits can hold them.
//!
//! ext4 lists a folder in the order of its entries' hashes and says the hash as position: 31 bits
//! of it, and behind them 32 bits more that tell entries of one hash apart (`hash2pos` in the
//! kernel's fs/ext4/dir.c). Whoever has `off_t` of 32 bits gets EOVERFLOW for such a position
//! (getdents(2)). To such a program ext4 itself says the 31 bits alone; a daemon is never taken for
//! one. So the mount says the 31 bits to everybody, and keeps what they stood for.

use std::collections::VecDeque;

/// ext2, ext3 and ext4, by their number in linux/magic.h.
const EXT4: u64 = 0xef53;

/// So many positions are known exactly: more than any one reply has.
const KNOWN: usize = 2048;

/// The largest that a program of 32 bits takes.
const LARGEST: u64 = i32::MAX as u64;

/// What a filesystem's positions are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Numbers to be handed back as they are.
    Opaque,
    /// ext4's: a hash, and what follows it.
    Hashes,
}

impl Kind {
    /// Of the filesystem with this `f_type` (statfs(2)).
    pub(super) fn of(filesystem: u64) -> Self {
        if filesystem == EXT4 { Self::Hashes } else { Self::Opaque }
    }
}

/// The positions of an open listing.
#[derive(Debug)]
pub(super) struct Positions {
    kind: Kind,
    /// What was shown of late, and what it stands for; the latest last.
    known: VecDeque<(u64, u64)>,
}

impl Positions {
    pub(super) fn new(kind: Kind) -> Self {
        Self { kind, known: VecDeque::new() }
    }

    /// What a position is shown as.
    pub(super) fn shown(&mut self, real: u64) -> u64 {
        if self.kind == Kind::Opaque || real <= LARGEST {
            return real;
        }
        let mut shown = real >> 32;
        // Two entries of one hash, one after the other: the next number is free, or nearly always.
        if let Some((last, before)) = self.known.back().filter(|(_, before)| *before < real)
            && (*before >> 32 == shown || *last >= shown)
        {
            shown = (last + 1).min(LARGEST);
        }
        if self.known.len() == KNOWN {
            self.known.pop_front();
        }
        self.known.push_back((shown, real));
        shown
    }

    /// What a position that was shown stands for. Of one that was shown long ago, or by another
    /// listing, the hash is known: an entry may then be seen twice, as on ext4.
    pub(super) fn real(&self, shown: u64) -> u64 {
        if self.kind == Kind::Opaque || shown > LARGEST {
            return shown;
        }
        let known = self.known.iter().rev().find(|(s, _)| *s == shown);
        known.map_or(shown << 32, |(_, real)| *real)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(hash: u64, minor: u64) -> u64 {
        hash << 32 | minor
    }

    #[test]
    fn what_is_shown_fits_and_leads_back() {
        let mut positions = Positions::new(Kind::Hashes);
        let real = [
            position(1, 0),
            position(77, 0),
            position(0x1234_5678, 9),
            position(0x1234_5678, 10),
            position(0x1234_5678, 0xffff_ffff),
            position(0x1234_5679, 0),
            position(0x7fff_fffe, 1),
            i64::MAX as u64,
        ];
        let shown = real.map(|real| positions.shown(real));
        assert!(shown.iter().all(|shown| *shown <= LARGEST), "{shown:?}");
        assert!(shown.is_sorted() && shown.windows(2).all(|two| two[0] != two[1]), "{shown:?}");
        assert_eq!(shown.map(|shown| positions.real(shown)), real);
        assert_eq!(positions.real(0), 0);
        // Another listing of the same folder knows the hash.
        let other = Positions::new(Kind::Hashes);
        assert_eq!(other.real(shown[1]), real[1]);
        assert_eq!(other.real(shown[2]), position(0x1234_5678, 0));
    }

    #[test]
    fn a_listing_that_goes_back_is_told_the_same_again() {
        let mut positions = Positions::new(Kind::Hashes);
        let first = positions.shown(position(5, 1));
        positions.shown(position(900, 0));
        assert_eq!(positions.shown(position(5, 1)), first);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut positions = Positions::new(Kind::Hashes);
        for hash in 1..100_000 {
            positions.shown(position(hash, 3));
        }
        assert_eq!(positions.known.len(), KNOWN);
        assert_eq!(positions.real(99_999), position(99_999, 3));
        assert_eq!(positions.real(5), position(5, 0));
    }

    #[test]
    fn positions_of_other_filesystems_stay_as_they_are() {
        let mut positions = Positions::new(Kind::of(0x9123_683e));
        for real in [0, 7, u64::from(u32::MAX), i64::MAX as u64] {
            assert_eq!(positions.shown(real), real);
            assert_eq!(positions.real(real), real);
        }
        assert_eq!(Kind::of(0xef53), Kind::Hashes);
    }
}
