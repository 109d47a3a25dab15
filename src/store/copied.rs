//! What a store says of itself that is a copy of another: until it is mounted for writing, it is
//! nothing but that, and may be brought up to date.

use std::ffi::OsStr;
use std::io;

use super::layout::{COPY, MODE, Store};
use crate::disk::{self, Dir};
use crate::durable;
use crate::ids::VolumeId;

/// How far a copy has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyState {
    /// Everything is there.
    Whole,
    /// A backup goes on, or was cut short.
    Incomplete,
}

const WHOLE: &str = "whole";
const INCOMPLETE: &str = "incomplete";

impl CopyState {
    fn word(self) -> &'static str {
        match self {
            Self::Whole => WHOLE,
            Self::Incomplete => INCOMPLETE,
        }
    }

    fn parse(text: &str) -> Option<(VolumeId, Self)> {
        let (volume, word) = text.strip_suffix('\n')?.split_once(' ')?;
        let state = [Self::Whole, Self::Incomplete].into_iter().find(|s| s.word() == word)?;
        Some((VolumeId::parse(volume).ok()?, state))
    }

    /// What a folder says of itself; `None` where it is no copy.
    ///
    /// # Errors
    /// Of the filesystem.
    pub fn of(top: &Dir) -> io::Result<Option<(VolumeId, Self)>> {
        match disk::read_all(&**top, OsStr::new(COPY), 256) {
            Ok(bytes) => Ok(std::str::from_utf8(&bytes).ok().and_then(Self::parse)),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Ok(None),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Has a folder say it, durably.
    ///
    /// # Errors
    /// Of the filesystem.
    pub fn say(self, top: &Dir, volume: VolumeId) -> io::Result<()> {
        let text = format!("{volume} {}\n", self.word());
        durable::replace(&**top, OsStr::new(COPY), text.as_bytes(), MODE)
    }
}

impl Store {
    /// What the store is a copy of, if it is one.
    pub fn copy_state(&self) -> Option<(VolumeId, CopyState)> {
        CopyState::of(&self.top).ok().flatten()
    }

    /// The store is one by itself from now on.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn end_copy(&self) -> io::Result<()> {
        match self.top.unlink(OsStr::new(COPY)) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            done => done.and_then(|()| self.top.sync()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::Sim;

    #[test]
    fn a_copy_says_so_until_it_is_a_store_by_itself() {
        let sim = Sim::new();
        let store = Store::init(sim.root()).expect("made");
        let volume = VolumeId([7; 16]);
        assert_eq!(CopyState::of(&sim.root()).expect("read"), None);
        for state in [CopyState::Incomplete, CopyState::Whole] {
            state.say(&sim.root(), volume).expect("said");
            assert_eq!(CopyState::of(&sim.root()).expect("read"), Some((volume, state)));
        }
        assert_eq!(store.copy_state(), Some((volume, CopyState::Whole)));
        for _ in 0..2 {
            store.end_copy().expect("ended");
            assert_eq!(store.copy_state(), None);
        }
        for text in ["", "\n", "whole\n", "07 whole\n", "x"] {
            assert_eq!(CopyState::parse(text), None, "{text}");
        }
        let id = volume.to_string();
        assert_eq!(CopyState::parse(&format!("{id} whole")), None);
        assert_eq!(CopyState::parse(&format!("{id} half\n")), None);
    }
}
