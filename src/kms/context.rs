//! Encryption contexts: what a wrapped key is bound to.

use std::collections::BTreeMap;

use crate::ids::{BranchId, FileId, VolumeId};

/// A KMS encryption context: exact, case-sensitive, order-free, and in clear in audit logs, so
/// it holds random ids and no names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Context(BTreeMap<String, String>);

impl Context {
    /// Of a file's data key.
    pub fn file(volume: VolumeId, file: FileId) -> Self {
        Self::of(volume, [("kmsfs:file", file.to_string())])
    }

    /// Of the volume key.
    pub fn volume(volume: VolumeId) -> Self {
        Self::of(volume, [("kmsfs:use", "volume".to_owned())])
    }

    /// Of the canary that each heartbeat decrypts.
    pub fn canary(volume: VolumeId) -> Self {
        Self::of(volume, [("kmsfs:use", "canary".to_owned())])
    }

    /// Of a branch key.
    pub fn branch(volume: VolumeId, branch: BranchId) -> Self {
        Self::of(volume, [("kmsfs:use", "branch".to_owned()), ("kmsfs:branch", branch.to_string())])
    }

    fn of<const N: usize>(volume: VolumeId, more: [(&str, String); N]) -> Self {
        let mut map: BTreeMap<_, _> = more.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        map.insert("kmsfs:volume".to_owned(), volume.to_string());
        Self(map)
    }

    /// The pairs, sorted by name.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// As associated data, in its one spelling: the number of pairs, then length and bytes of each
    /// name and value, sorted by name. Numbers are u32, big-endian.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = length(self.0.len()).to_vec();
        for (name, value) in self.pairs() {
            for text in [name, value] {
                bytes.extend(length(text.len()));
                bytes.extend(text.as_bytes());
            }
        }
        bytes
    }
}

fn length(n: usize) -> [u8; 4] {
    u32::try_from(n).expect("a context is a few short strings").to_be_bytes()
}
