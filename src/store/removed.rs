//! The journal of what was removed: lines and bodies that nothing refers to any more, and that are
//! kept for a while, for whoever copies the tree first and the keys then.
//!
//! A period is one file, to which entries are only ever added. Its name is the end of the period
//! on the volume's own clock, which counts the seconds that it is mounted: a machine's clock that
//! is set wrong removes no key.
//!
//! A period begins with what tells its file from all others. In a copy of the store it is another
//! file: what it names may be there in the copy, whose tree was read earlier, and is not removed.

use std::ffi::OsStr;
use std::io;

use data_encoding::HEXLOWER;

use super::layout::{MODE, REMOVED, Store};
use crate::disk::{self, Dir, Open, OpenFile};
use crate::durable;
use crate::ids::{FileId, LinkId};

/// What nothing refers to any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Removed {
    /// A line of a sidecar page: a file's wrapped key.
    Line(FileId),
    /// The body of a long symlink target.
    Body(LinkId),
}

/// The first entry of a period: which file it is.
fn here(identity: [u8; 16]) -> String {
    format!("here {}\n", HEXLOWER.encode(&identity))
}

/// A word, a space, 32 hex digits and a newline.
const ENTRY: usize = 38;
const CLOCK: &str = "clock";
/// What a period holds at most, for a reader: it is closed long before.
const MOST_ENTRIES: usize = 1 << 22;

impl Removed {
    /// Its line in the journal.
    pub fn encode(&self) -> String {
        match self {
            Self::Line(file) => format!("file {file}\n"),
            Self::Body(link) => format!("link {link}\n"),
        }
    }

    fn parse(entry: &[u8]) -> Option<Self> {
        let entry = std::str::from_utf8(entry).ok()?;
        let (word, id) = entry.strip_suffix('\n')?.split_once(' ')?;
        match word {
            "file" => FileId::parse(id).ok().map(Self::Line),
            "link" => LinkId::parse(id).ok().map(Self::Body),
            _ => None,
        }
    }
}

/// Whether a period was begun in this very file.
fn is_own(file: &dyn OpenFile) -> io::Result<bool> {
    let mut first = [0; ENTRY];
    let read = file.read_at(&mut first, 0)?;
    Ok(read == ENTRY && first == *here(file.identity()?).as_bytes())
}

/// A period's name; `None` for what is no period's.
fn period_of(name: &OsStr) -> Option<u64> {
    let text = name.to_str()?;
    let end: u64 = text.parse().ok()?;
    (end.to_string() == text).then_some(end)
}

impl Store {
    fn journal(&self) -> io::Result<Dir> {
        self.keys.open_dir(OsStr::new(REMOVED))
    }

    /// Whether a name belongs in the journal's folder.
    pub fn is_of_journal(name: &OsStr) -> bool {
        name == CLOCK || period_of(name).is_some()
    }

    /// Adds entries to the period that ends at `end`, durably.
    ///
    /// # Errors
    /// Of the backing filesystem; some of them may be there then.
    pub fn add_removed(&self, end: u64, entries: &[Removed]) -> io::Result<()> {
        let (journal, name) = (self.journal()?, end.to_string());
        let name = OsStr::new(&name);
        let own = match journal.open(name, Open::ReadWrite) {
            Ok(file) if is_own(&*file)? => Some(file),
            // A copy's, or one that a power cut left without its first entry.
            Ok(_) => {
                journal.unlink(name)?;
                None
            }
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => None,
            Err(e) => return Err(e),
        };
        let text: String = entries.iter().map(Removed::encode).collect();
        let Some(file) = own else {
            let file = journal.open(name, Open::Create(MODE))?;
            file.write_at((here(file.identity()?) + &text).as_bytes(), 0)?;
            file.sync_all()?;
            return journal.sync();
        };
        // What a power cut left of an entry is written over.
        let at = file.size()? / ENTRY as u64 * ENTRY as u64;
        file.write_at(text.as_bytes(), at)?;
        file.sync_all()
    }

    /// The ends of the periods that are there, in no order.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn removed_periods(&self) -> io::Result<Vec<u64>> {
        Ok(disk::names(&*self.journal()?)?.iter().filter_map(|name| period_of(name)).collect())
    }

    /// The entries of a period. What is none, where a power cut tore it, is left out, and of a
    /// period that was copied with its store all are.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn removed_in(&self, end: u64) -> io::Result<Vec<Removed>> {
        let name = end.to_string();
        let most = MOST_ENTRIES * ENTRY;
        let file = self.journal()?.open(OsStr::new(&name), Open::Read)?;
        if !is_own(&*file)? {
            return Ok(Vec::new());
        }
        let bytes = disk::read_opened(&*file, most)?;
        Ok(bytes.chunks(ENTRY).filter_map(Removed::parse).collect())
    }

    /// Forgets a period: what it names is gone, or is to stay.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn forget_removed(&self, end: u64) -> io::Result<()> {
        let journal = self.journal()?;
        journal.unlink(OsStr::new(&end.to_string()))?;
        journal.sync()
    }

    /// How many seconds the volume has been mounted, as far as was written down. Where that is
    /// missing or damaged, as many as make every period begin its grace again.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn mounted_seconds(&self) -> io::Result<u64> {
        let text = match disk::read_all(&*self.journal()?, OsStr::new(CLOCK), 64) {
            Ok(bytes) => String::from_utf8(bytes).unwrap_or_default(),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => String::new(),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => String::new(),
            Err(e) => return Err(e),
        };
        let known = text.strip_suffix('\n').and_then(|digits| digits.parse().ok());
        match known {
            Some(seconds) => Ok(seconds),
            None => Ok(self.removed_periods()?.into_iter().max().unwrap_or_default()),
        }
    }

    /// Writes down how many seconds the volume has been mounted.
    ///
    /// # Errors
    /// Of the backing filesystem; the old count is then still there.
    pub fn write_mounted_seconds(&self, seconds: u64) -> io::Result<()> {
        let text = format!("{seconds}\n");
        durable::replace(&*self.journal()?, OsStr::new(CLOCK), text.as_bytes(), MODE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::Sim;
    use crate::ids::PageId;

    fn entry(n: u8) -> Removed {
        Removed::Line(FileId::new(PageId([n; 14]), n.into()))
    }

    #[test]
    fn entries_are_read_as_they_were_added_and_torn_ones_left_out() {
        let sim = Sim::new();
        let store = Store::init(sim.root()).expect("made");
        let body = Removed::Body(LinkId([9; 16]));
        assert_eq!((entry(1).encode().len(), body.encode().len()), (ENTRY, ENTRY));
        store.add_removed(77, &[entry(1), body]).expect("added");
        store.add_removed(77, &[entry(2)]).expect("added");
        store.add_removed(8, &[entry(3)]).expect("added");
        assert_eq!(store.removed_in(77).expect("read"), [entry(1), body, entry(2)]);
        let mut periods = store.removed_periods().expect("listed");
        periods.sort_unstable();
        assert_eq!(periods, [8, 77]);
        let file = store.journal().expect("there").open(OsStr::new("8"), Open::ReadWrite);
        file.expect("there").write_at(b"file 0a", 2 * ENTRY as u64).expect("torn");
        assert_eq!(store.removed_in(8).expect("read"), [entry(3)]);
        store.add_removed(8, &[entry(4)]).expect("added");
        assert_eq!(store.removed_in(8).expect("read"), [entry(3), entry(4)]);
        store.forget_removed(8).expect("gone");
        assert_eq!(store.removed_periods().expect("listed"), [77]);
    }

    /// A copy's tree was read before its journal: it has files whose keys the journal calls
    /// removed. A mount of such a copy lost their keys a day later.
    #[test]
    fn a_period_that_was_copied_names_nothing() {
        let store = Store::init(Sim::new().root()).expect("made");
        store.add_removed(7, &[entry(1)]).expect("added");
        let journal = store.journal().expect("there");
        let bytes = disk::read_all(&*journal, OsStr::new("7"), 99).expect("read");
        assert_eq!(bytes.len(), 2 * ENTRY);
        let copied = journal.open(OsStr::new("8"), Open::Create(MODE)).expect("made");
        copied.write_at(&bytes, 0).expect("copied");
        journal.open(OsStr::new("9"), Open::Create(MODE)).expect("made by a power cut");
        assert_eq!(store.removed_in(7).expect("read"), [entry(1)]);
        assert_eq!(
            (store.removed_in(8).expect("read"), store.removed_in(9).expect("read")),
            (vec![], vec![])
        );
        for end in [8, 9] {
            store.add_removed(end, &[entry(2)]).expect("begun anew");
            assert_eq!(store.removed_in(end).expect("read"), [entry(2)]);
        }
    }

    #[test]
    fn a_clock_that_is_lost_makes_no_grace_shorter() {
        let store = Store::init(Sim::new().root()).expect("made");
        assert_eq!(store.mounted_seconds().expect("read"), 0);
        store.add_removed(500, &[entry(1)]).expect("added");
        assert_eq!(store.mounted_seconds().expect("read"), 500);
        store.write_mounted_seconds(123).expect("written");
        assert_eq!(store.mounted_seconds().expect("read"), 123);
        let journal = store.journal().expect("there");
        let clock = journal.open(OsStr::new(CLOCK), Open::ReadWrite).expect("there");
        clock.write_at(b"-", 0).expect("damaged");
        assert_eq!(store.mounted_seconds().expect("read"), 500);
    }

    /// What was added durably is there after a power cut, and nothing that was never added.
    #[test]
    fn a_power_cut_tears_no_entry_into_another() {
        let sim = Sim::new();
        let store = Store::init(sim.root()).expect("made");
        store.add_removed(7, &[entry(1)]).expect("added");
        sim.moments();
        store.add_removed(7, &[entry(2), entry(3)]).expect("added");
        for moment in sim.moments().iter().chain([&sim]) {
            for state in moment.crash().states(64, 0) {
                let found = Store::open(state.root()).expect("opened").removed_in(7).expect("read");
                assert!(found.starts_with(&[entry(1)]), "{found:?}");
                assert!(found.iter().all(|e| (1..=3).any(|n| *e == entry(n))), "{found:?}");
            }
        }
        for state in sim.crash().states(64, 0) {
            let found = Store::open(state.root()).expect("opened").removed_in(7).expect("read");
            assert_eq!(found.len(), 3);
        }
    }
}
