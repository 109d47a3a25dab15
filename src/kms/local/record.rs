//! `keys/ID.json`: one master key.
//!
//! ```text
//! {"format":1,"id":ID,"state":"Enabled","created":SECONDS,"description":TEXT,
//!  "deletion":null,"versions":[HEX,…]}
//! ```
//! `versions` is the key material, oldest first, each sealed under the keystore's key with the
//! associated data keystore id (16) ‖ key id (16) ‖ version (u32 big-endian, from 1). `deletion`
//! is set exactly in the state PendingDeletion. The state is not authenticated by a key, for
//! disabling must work without the passphrase; whoever can write the file can delete it too.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::id::Id;
use super::json;
use super::seal::Sealed;
use crate::kms::KeyState;
use crate::secret::Key;

const FORMAT: u32 = 1;
/// How often a key can be rotated.
pub(super) const MAX_VERSIONS: usize = 1000;
/// The longest file that is read.
pub(super) const MAX_FILE: u64 = 256 << 10;

/// A master key as it lies on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    format: u32,
    pub(super) id: Id,
    pub(super) state: KeyState,
    pub(super) created: u64,
    pub(super) description: String,
    pub(super) deletion: Option<u64>,
    versions: Vec<Sealed>,
}

impl Record {
    /// A new key with one version of fresh material, sealed under `root`.
    pub(super) fn new(keystore: Id, root: &Key, description: &str, now: u64) -> Self {
        let mut record = Self {
            format: FORMAT,
            id: Id::random(),
            state: KeyState::Enabled,
            created: now,
            description: description.to_owned(),
            deletion: None,
            versions: Vec::new(),
        };
        record.add_version(keystore, root);
        record
    }

    /// Adds fresh material, which wraps from now on.
    pub(super) fn add_version(&mut self, keystore: Id, root: &Key) {
        let version = self.versions() + 1;
        let aad = aad(keystore, self.id, version);
        self.versions.push(Sealed::seal(root, &aad, &Key::random()));
    }

    /// How many versions of key material there are.
    pub(super) fn versions(&self) -> u32 {
        u32::try_from(self.versions.len()).expect("parse allows at most MAX_VERSIONS")
    }

    /// The key material, oldest first; `None` if one version does not open under `root`.
    pub(super) fn open(&self, keystore: Id, root: &Key) -> Option<Vec<Key>> {
        (1..).zip(&self.versions).map(|(n, s)| s.open(root, &aad(keystore, self.id, n))).collect()
    }

    /// Whether the deletion window has ended.
    pub(super) fn is_gone(&self, now: u64) -> bool {
        self.deletion.is_some_and(|at| at <= now)
    }

    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        json::encode(self)
    }

    /// The record in `file`, which must be that of the key `id`.
    pub(super) fn parse(id: Id, file: &[u8]) -> Result<Self, String> {
        let record: Self = json::parse(file)?;
        if record.format != FORMAT {
            return Err(format!("unknown format {}", record.format));
        }
        if record.id != id {
            return Err(format!("it is the file of key {}", record.id));
        }
        if !(1..=MAX_VERSIONS).contains(&record.versions.len()) {
            return Err(format!("{} versions of key material", record.versions.len()));
        }
        if record.deletion.is_some() != (record.state == KeyState::PendingDeletion) {
            return Err("its state and its deletion date contradict each other".to_owned());
        }
        Ok(record)
    }
}

fn aad(keystore: Id, key: Id, version: u32) -> Vec<u8> {
    [&keystore.0[..], &key.0, &version.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_changed_byte_of_the_file_is_damage() {
        let (keystore, root) = (Id::random(), Key::random());
        let mut record = Record::new(keystore, &root, "a \"key\"\n", 17);
        record.add_version(keystore, &root);
        let file = record.encode();
        assert_eq!(Record::parse(record.id, &file), Ok(record.clone()));
        assert!(Record::parse(Id::random(), &file).is_err());
        for at in 0..file.len() {
            for bit in 0..8 {
                let mut bad = file.clone();
                bad[at] ^= 1 << bit;
                assert!(Record::parse(record.id, &bad).is_err(), "byte {at} bit {bit}");
            }
        }
    }

    #[test]
    fn material_belongs_to_its_keystore_key_and_version() {
        let (keystore, root) = (Id::random(), Key::random());
        let mut record = Record::new(keystore, &root, "", 0);
        record.add_version(keystore, &root);
        assert_eq!(record.open(keystore, &root).expect("opens").len(), 2);
        assert!(record.open(Id::random(), &root).is_none());
        assert!(record.open(keystore, &Key::random()).is_none());
        record.versions.swap(0, 1);
        assert!(record.open(keystore, &root).is_none());
    }

    #[test]
    fn contradictions_are_damage() {
        let record = Record::new(Id::random(), &Key::random(), "", 0);
        let pending = Record { deletion: Some(3), ..record.clone() };
        assert!(Record::parse(record.id, &pending.encode()).is_err());
        let none = Record { versions: Vec::new(), ..record.clone() };
        assert!(Record::parse(record.id, &none.encode()).is_err());
        let newer = Record { format: 2, ..record.clone() };
        assert!(Record::parse(record.id, &newer.encode()).is_err());
    }
}
