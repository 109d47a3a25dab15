//! Where an inode is found, from the mount's root, as far as it can be told without waiting.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::Fs;
use super::node::Node;
use super::table::ROOT;
use crate::ids::FileId;
use crate::keys::Purpose;
use crate::names::{self, VolumeKeys};
use crate::store::Names;

/// Deeper trees are not told of; no path of a program's is that long.
const DEEPEST: usize = 2048;

/// What may be read to find something out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// What lies in memory and is not held by an operation that goes on: it never waits.
    Memory,
    /// The store too.
    Store,
}

impl Fs {
    /// The file id of an inode, where it has been read already.
    pub fn known_file(&self, ino: u64, reading: Reading) -> Option<FileId> {
        let node = self.table.get(ino)?;
        match reading {
            Reading::Memory => node.content.try_read()?.id,
            Reading::Store => node.content.read().id,
        }
    }

    /// A path that leads to an inode: one of them, where it has several names. `None` for what
    /// has no name any more, and where names are encrypted and their keys gone, or a name is not in
    /// memory.
    pub fn path(&self, ino: u64, reading: Reading) -> Option<Vec<u8>> {
        // Nobody holds the keys of names beyond a lock: it waits for those inside.
        let pass = self.enter(Purpose::Save);
        let keys = pass.as_ref().ok().and_then(|_| self.keyring.names().ok());
        let mut names = Vec::new();
        let mut at = ino;
        while at != ROOT {
            if names.len() == DEEPEST {
                return None;
            }
            let (parent, entry) = self.table.get(at)?.place()?;
            names.push(self.told_name(
                keys.as_deref(),
                &*self.table.get(parent)?,
                &entry,
                reading,
            )?);
            at = parent;
        }
        let mut path = Vec::new();
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name.as_bytes());
        }
        Some(path)
    }

    /// The path of a name in a directory; whether there is such an entry does not matter.
    pub fn path_in(&self, parent: u64, name: &OsStr, reading: Reading) -> Option<Vec<u8>> {
        let mut path = self.path(parent, reading)?;
        path.push(b'/');
        path.extend_from_slice(name.as_bytes());
        Some(path)
    }

    fn told_name(
        &self,
        keys: Option<&VolumeKeys>,
        parent: &Node,
        entry: &OsStr,
        reading: Reading,
    ) -> Option<OsString> {
        if self.names == Names::Plain {
            return Some(entry.to_owned());
        }
        let (keys, bytes) = (keys?, entry.as_bytes());
        let id = match reading {
            // The text of a long name lies in the store.
            Reading::Memory if names::is_long_entry(bytes) => return None,
            Reading::Memory => *parent.dir_id.get()?,
            Reading::Store if names::is_long_entry(bytes) => {
                return self.clear_name(keys, parent, entry);
            }
            Reading::Store => self.dir_id(parent).ok()?,
        };
        names::decrypt(keys, id, bytes).ok().map(OsString::from_vec)
    }
}
