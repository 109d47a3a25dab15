//! From a name of the mount to one on disk, and back.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::errno::{Outcome, errno};
use super::node::Node;
use super::{Access, Fs};
use crate::disk::Directory;
use crate::ids::DirId;
use crate::names::{self, DiskName, VolumeKeys};
use crate::store::Names;

/// The symlink that holds a directory's id.
pub const DIR_ID: &str = ".kmsfs.dir";

const NAME_MAX: usize = 255;

impl Fs {
    /// The id of a directory, read once and kept with its node.
    pub(super) fn dir_id(&self, node: &Node) -> Outcome<DirId> {
        let id = match node.dir_id.get() {
            Some(id) => *id,
            None => self.learn_dir_id(node, self.read_dir_id(&*self.dir(node.ino)?)?)?,
        };
        self.own_dir_id(node, id)
    }

    /// The disk name of `name` in the directory `parent`.
    pub(super) fn disk_name(&self, parent: &Node, name: &OsStr) -> Outcome<DiskName> {
        if name.len() > NAME_MAX {
            return Err(errno(libc::ENAMETOOLONG));
        }
        if self.names == Names::Plain {
            return Ok(DiskName::Short(name.to_owned()));
        }
        let keys = self.keyring.names()?;
        Ok(names::encrypt(&keys, self.dir_id(parent)?, name.as_bytes()))
    }

    /// The name that an entry has in the mount; `None` for what is not shown: kmsfs's own
    /// entries, and names that do not decrypt (see [`super::strangers`]).
    pub(super) fn shown_name(
        &self,
        keys: &VolumeKeys,
        parent: &Node,
        dir: &dyn Directory,
        entry: &OsStr,
    ) -> Outcome<Option<OsString>> {
        let bytes = entry.as_bytes();
        if self.names == Names::Plain {
            return Ok(Some(entry.to_owned()));
        }
        if entry == DIR_ID || names::is_record(bytes) {
            return Ok(None);
        }
        let id = self.dir_id(parent)?;
        let clear = if names::is_long_entry(bytes) {
            let record = dir.readlink(&names::record_of(bytes));
            record.ok().and_then(|text| names::decrypt_long(keys, id, bytes, text.as_bytes()).ok())
        } else {
            names::decrypt(keys, id, bytes).ok()
        };
        if clear.is_none() {
            self.strangers.found(|| self.place_in_store(parent, entry), parent);
        }
        Ok(clear.map(OsString::from_vec))
    }

    /// Reads a directory's id; a fresh, empty directory without one gets none: it is damaged only
    /// when it has entries, and shows none either way.
    fn read_dir_id(&self, dir: &dyn Directory) -> Outcome<DirId> {
        let bad = errno(libc::EBADMSG);
        match dir.readlink(OsStr::new(DIR_ID)) {
            Ok(text) => text.to_str().and_then(|t| DirId::parse(t).ok()).ok_or(bad),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                adopt_fresh(dir, self.settings.access)
            }
            Err(e) => Err(e.into()),
        }
    }

    /// The clear name of an entry, for dentries to be invalidated by.
    pub fn clear_name(&self, keys: &VolumeKeys, parent: &Node, entry: &OsStr) -> Option<OsString> {
        let dir = self.dir(parent.ino).ok()?;
        self.shown_name(keys, parent, &*dir, entry).ok().flatten()
    }
}

/// A power cut may leave a folder whose id did not reach the disk: an empty one gets a new id. Where
/// nothing may be written the id is not kept: no name is ever made with it.
fn adopt_fresh(dir: &dyn Directory, access: Access) -> Outcome<DirId> {
    if !crate::disk::names(dir)?.is_empty() {
        return Err(errno(libc::EBADMSG));
    }
    let id = DirId::random();
    if access == Access::ReadOnly {
        return Ok(id);
    }
    match dir.symlink(OsStr::new(DIR_ID), OsStr::new(&id.to_string())) {
        Ok(()) => Ok(id),
        // Another request was first.
        Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {
            let text = dir.readlink(OsStr::new(DIR_ID))?;
            text.to_str().and_then(|t| DirId::parse(t).ok()).ok_or(errno(libc::EBADMSG))
        }
        Err(e) => Err(e.into()),
    }
}

/// The longest name that works, and each shorter one, where entries on disk have at most so many
/// bytes; 0 where that is not known.
pub(super) fn longest(names: Names, entry: u64) -> u64 {
    let Ok(entry @ 1..) = usize::try_from(entry) else { return NAME_MAX as u64 };
    let longest = match names {
        Names::Plain => entry,
        Names::Encrypted => names::longest_within(entry),
    };
    longest.min(NAME_MAX) as u64
}

/// Whether there is no such entry. An entry that cannot be looked at may be there.
pub(super) fn is_absent(dir: &dyn Directory, entry: &OsStr) -> bool {
    dir.stat(entry).is_err_and(|e| e.raw_os_error() == Some(libc::ENOENT))
}

/// The entry of a disk name.
pub(super) fn entry_of(name: &DiskName) -> &OsStr {
    match name {
        DiskName::Short(entry) | DiskName::Long { entry, .. } => entry,
    }
}
