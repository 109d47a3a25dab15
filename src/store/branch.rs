//! Branch keys as they lie in the store: a wrapped key and what wrapped it, one JSON line.

use std::ffi::OsStr;
use std::io;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::layout::{BRANCH, MODE, Store, lock_folder};
use super::volume_file::parse_wrapped;
use crate::disk::{self, Dir};
use crate::durable;
use crate::ids::BranchId;
use crate::kms::{KeyArn, Wrapped};

/// The longest wrapped key, with room for an ARN.
const MAX_FILE: usize = 64 << 10;

/// A wrapped branch key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchFile {
    /// The master key that wrapped it. A hint: what opens under it proves itself at each line.
    pub master: KeyArn,
    /// The branch key.
    pub key: Wrapped,
}

/// A branch file that is not what `encode` makes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("damaged branch file: {0}")]
pub struct DamagedBranch(String);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    master: String,
    key: String,
}

impl BranchFile {
    /// The file's one spelling: a line and its newline.
    pub fn encode(&self) -> Vec<u8> {
        let text = Text { master: self.master.0.clone(), key: BASE64.encode(&self.key.0) };
        let mut line = serde_json::to_vec(&text).expect("strings have a JSON form");
        line.push(b'\n');
        line
    }

    /// Reads exactly what [`BranchFile::encode`] writes.
    ///
    /// # Errors
    /// [`DamagedBranch`].
    pub fn parse(bytes: &[u8]) -> Result<Self, DamagedBranch> {
        let text: Text = serde_json::from_slice(bytes).map_err(|e| DamagedBranch(e.to_string()))?;
        let key = parse_wrapped(&text.key).map_err(DamagedBranch)?;
        let file = Self { master: KeyArn::parse(text.master).map_err(DamagedBranch)?, key };
        if file.encode() != bytes {
            return Err(DamagedBranch("not in its one spelling".to_owned()));
        }
        Ok(file)
    }
}

impl Store {
    fn branch_folder(&self) -> io::Result<Dir> {
        self.keys.open_dir(OsStr::new(BRANCH))
    }

    /// The branch keys that are there, in no order. Names that are no ids are passed over.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn branches(&self) -> io::Result<Vec<BranchId>> {
        let names = disk::names(&*self.branch_folder()?)?;
        Ok(names.iter().filter_map(|n| BranchId::parse(n.to_str()?).ok()).collect())
    }

    /// Reads a branch key's file.
    ///
    /// # Errors
    /// `NotFound` where there is none, `InvalidData` where it is damaged, or of the backing
    /// filesystem.
    pub fn read_branch(&self, id: BranchId) -> io::Result<BranchFile> {
        let name = id.to_string();
        let bytes = disk::read_all(&*self.branch_folder()?, OsStr::new(&name), MAX_FILE)?;
        BranchFile::parse(&bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }

    /// Writes a branch key's file, or replaces it, durably: only then may the key be used.
    ///
    /// # Errors
    /// Of the backing filesystem; the file is then as it was.
    pub fn write_branch(&self, id: BranchId, file: &BranchFile) -> io::Result<()> {
        let folder = self.branch_folder()?;
        let _held = lock_folder(&folder)?;
        durable::replace(&*folder, OsStr::new(&id.to_string()), &file.encode(), MODE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::Sim;

    fn sample() -> BranchFile {
        BranchFile { master: KeyArn("arn:k".to_owned()), key: Wrapped(vec![7; 100]) }
    }

    #[test]
    fn parse_accepts_exactly_what_encode_makes() {
        let bytes = sample().encode();
        assert_eq!(BranchFile::parse(&bytes), Ok(sample()));
        for i in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[i] ^= 1 << bit;
                assert_ne!(BranchFile::parse(&flipped), Ok(sample()), "byte {i} bit {bit}");
            }
            assert!(BranchFile::parse(&bytes[..i]).is_err(), "{i} bytes");
        }
        let twice = [&bytes[..], &bytes[..]].concat();
        assert!(BranchFile::parse(&twice).is_err());
    }

    /// After a power cut at any time a branch file is the old one or the new one, and one that was
    /// written is there.
    #[test]
    fn a_branch_file_is_durable_and_replaced_whole() {
        let sim = Sim::new();
        let store = Store::init(sim.root()).expect("made");
        let id = BranchId::random();
        assert_eq!(store.branches().expect("listed"), []);
        let missing = store.read_branch(id).expect_err("there is none");
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        store.write_branch(id, &sample()).expect("written");
        let new = BranchFile { master: KeyArn("arn:new".to_owned()), ..sample() };
        sim.moments();
        store.write_branch(id, &new).expect("replaced");
        for moment in sim.moments() {
            for state in moment.crash().states(64, 0) {
                let store = Store::open(state.root()).expect("opened");
                let read = store.read_branch(id).expect("whole");
                assert!(read == sample() || read == new);
                assert_eq!(store.branches().expect("listed"), [id], "leftovers are no branches");
            }
        }
        for state in sim.crash().states(64, 0) {
            let store = Store::open(state.root()).expect("opened");
            assert_eq!(store.read_branch(id).expect("whole"), new);
        }
    }
}
