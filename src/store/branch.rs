//! Branch keys as they lie in the store: wrapped by the KMS, sealed to the recipients of the
//! recovery, or both; one JSON line.

use std::ffi::OsStr;
use std::io;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::layout::{BRANCH, MODE, Store, lock_folder};
use super::sealed;
use super::volume_file::parse_wrapped;
use crate::disk::{self, Dir};
use crate::durable;
use crate::ids::BranchId;
use crate::kms::{KeyArn, Wrapped};
use crate::recovery::Sealed;

/// The longest wrapped key, with room for an ARN.
const MAX_FILE: usize = 64 << 10;

/// A branch key, wrapped in one way or two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchFile {
    /// As the KMS wrapped it. `None` for one that only second wraps are under: the KMS knows
    /// nothing of it.
    pub by_kms: Option<ByKms>,
    /// As it is sealed to the recipients of the recovery, where the volume has any.
    pub recovery: Option<Sealed>,
}

/// A branch key that the KMS wrapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByKms {
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
    #[serde(skip_serializing_if = "Option::is_none")]
    master: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery_mac: Option<String>,
}

impl BranchFile {
    /// One that the KMS wrapped, and nobody else.
    pub fn by_kms(master: KeyArn, key: Wrapped) -> Self {
        Self { by_kms: Some(ByKms { master, key }), recovery: None }
    }

    /// The master key that wrapped it, if the KMS did.
    pub fn master(&self) -> Option<&KeyArn> {
        self.by_kms.as_ref().map(|by| &by.master)
    }

    /// The file's one spelling: a line and its newline.
    pub fn encode(&self) -> Vec<u8> {
        let by_kms = self.by_kms.as_ref();
        let (recovery, recovery_mac) = sealed::encode(self.recovery.as_ref());
        let text = Text {
            master: by_kms.map(|by| by.master.0.clone()),
            key: by_kms.map(|by| BASE64.encode(&by.key.0)),
            recovery,
            recovery_mac,
        };
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
        let by_kms = match (text.master, text.key) {
            (Some(master), Some(key)) => Some(ByKms {
                master: KeyArn::parse(master).map_err(DamagedBranch)?,
                key: parse_wrapped(&key).map_err(DamagedBranch)?,
            }),
            // One of the two is not written again, which is found out below.
            _ => None,
        };
        let recovery = sealed::parse(text.recovery, text.recovery_mac).map_err(DamagedBranch)?;
        let file = Self { by_kms, recovery };
        if file.by_kms.is_none() && file.recovery.is_none() {
            return Err(DamagedBranch("wrapped by nobody".to_owned()));
        }
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
        BranchFile::by_kms(KeyArn("arn:k".to_owned()), Wrapped(vec![7; 100]))
    }

    fn sealed() -> Option<Sealed> {
        Some(Sealed { age: vec![5; 200], mac: [6; 32] })
    }

    #[test]
    fn parse_accepts_exactly_what_encode_makes() {
        let both = BranchFile { recovery: sealed(), ..sample() };
        let only_sealed = BranchFile { by_kms: None, recovery: sealed() };
        for file in [sample(), both, only_sealed] {
            let bytes = file.encode();
            assert_eq!(BranchFile::parse(&bytes), Ok(file.clone()));
            for i in 0..bytes.len() {
                for bit in 0..8 {
                    let mut flipped = bytes.clone();
                    flipped[i] ^= 1 << bit;
                    assert_ne!(BranchFile::parse(&flipped), Ok(file.clone()), "{i} bit {bit}");
                }
                assert!(BranchFile::parse(&bytes[..i]).is_err(), "{i} bytes");
            }
            let twice = [&bytes[..], &bytes[..]].concat();
            assert!(BranchFile::parse(&twice).is_err());
        }
    }

    #[test]
    fn half_a_wrap_is_none() {
        let both = BranchFile { recovery: sealed(), ..sample() }.encode();
        let text: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&both).expect("JSON");
        for member in text.keys() {
            let mut less = text.clone();
            less.remove(member);
            let mut line = serde_json::to_vec(&less).expect("JSON");
            line.push(b'\n');
            assert!(BranchFile::parse(&line).is_err(), "without {member}");
        }
        assert!(BranchFile::parse(b"{}\n").is_err());
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
        let new = BranchFile::by_kms(KeyArn("arn:new".to_owned()), Wrapped(vec![7; 100]));
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
