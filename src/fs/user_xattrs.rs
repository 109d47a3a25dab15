//! The `user.*` attributes of one inode: in its block where they fit, else apart.
//!
//! What the block says comes first. Each step changes one attribute on disk, which is atomic, and
//! what a program sees changes in one of them:
//!
//! - Into the block: the block; then what lay apart under the name goes, seen by nobody any more.
//! - Apart: the block says that there is more; the attribute; the block without the name.
//! - Removal: what lies apart; the block without the name. Then, where nothing lies apart any more,
//!   the block says so.
//!
//! So what was cut short leaves the old value or the new, and what may lie hidden apart is removed
//! or replaced before the block shows it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::errno::{Errno, Fail, Outcome, errno};
use super::piece::Piece;
use crate::disk::{OpenFile, XattrHow};
use crate::names::{self, Apart, VolumeKeys, XattrBlock};

const USER: &[u8] = b"user.";

/// Whether a name is of an attribute that is sealed.
pub(super) fn is_user(name: &OsStr) -> bool {
    name.as_bytes().starts_with(USER)
}

/// What an attribute of a user is called without `user.`.
///
/// # Errors
/// EINVAL where that is nothing (`xattr_resolve_name` in the kernel).
pub(super) fn own_part(name: &OsStr) -> Outcome<&[u8]> {
    let own = name.as_bytes().strip_prefix(USER).unwrap_or_default();
    if own.is_empty() { Err(errno(libc::EINVAL)) } else { Ok(own) }
}

/// The name on disk of the block.
pub(super) fn block_name() -> &'static OsStr {
    OsStr::new(names::XATTR_BLOCK)
}

/// What the bytes of a block say.
///
/// # Errors
/// EBADMSG.
pub(super) fn open_block(keys: &VolumeKeys, bytes: &[u8]) -> Outcome<XattrBlock> {
    XattrBlock::open(keys, bytes).map_err(|_| errno(libc::EBADMSG))
}

/// `None` for ENODATA.
fn if_there<T>(outcome: std::io::Result<T>) -> Outcome<Option<T>> {
    match outcome {
        Ok(what) => Ok(Some(what)),
        Err(e) if e.raw_os_error() == Some(libc::ENODATA) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Names that were read of attributes that lie apart: the progress of a listing.
#[derive(Debug, Default)]
pub struct NamesApart(BTreeMap<OsString, Option<Vec<u8>>>);

/// The attributes of an inode that is open, or held. Who changes them, or looks apart, has the
/// inode's lock of attributes.
pub(super) struct UserXattrs<'a> {
    pub(super) file: &'a dyn OpenFile,
    pub(super) keys: &'a VolumeKeys,
}

impl UserXattrs<'_> {
    /// getxattr(2).
    ///
    /// # Errors
    /// ENODATA, EBADMSG; of the backing filesystem.
    pub(super) fn get(&self, name: &OsStr) -> Outcome<Vec<u8>> {
        let bytes = self.file.xattr(block_name())?;
        let block = open_block(self.keys, &bytes)?;
        if let Some(value) = block.get(own_part(name)?) {
            return Ok(value.to_vec());
        }
        if block.apart == Apart::None {
            return Err(errno(libc::ENODATA));
        }
        let on_disk = self.apart(name);
        let bytes = self.file.xattr(&on_disk)?;
        let opened = names::open_xattr(self.keys, &on_disk, &bytes);
        opened.map(|(_, value)| value).map_err(|_| errno(libc::EBADMSG))
    }

    /// setxattr(2).
    ///
    /// # Errors
    /// EEXIST, ENODATA, EBADMSG; of the backing filesystem.
    pub(super) fn set(&self, name: &OsStr, value: &[u8], how: XattrHow) -> Outcome<()> {
        let before = if_there(self.file.xattr(block_name()))?;
        let block = self.opened(before.as_deref())?;
        let own = own_part(name)?;
        if how != XattrHow::Any {
            let is_there = block.get(own).is_some() || self.lies_apart(&block, name)?;
            match how {
                XattrHow::Create if is_there => return Err(errno(libc::EEXIST)),
                XattrHow::Replace if !is_there => return Err(errno(libc::ENODATA)),
                _ => {}
            }
        }
        if let Some(with) = block.with(own, value) {
            match self.put(&with) {
                Ok(()) => {
                    if block.apart == Apart::Some {
                        // Hidden already. What stays is removed with the attribute.
                        let _ = self.file.remove_xattr(&self.apart(name));
                    }
                    return Ok(());
                }
                // Apart there may be room yet: ext4 has some in the inode, btrfs in other leaves.
                Err(e) if is_no_room(e) => {}
                Err(e) => return Err(e),
            }
        }
        self.set_apart((name, value), before.as_deref(), &block)
    }

    fn set_apart(
        &self,
        (name, value): (&OsStr, &[u8]),
        before: Option<&[u8]>,
        block: &XattrBlock,
    ) -> Outcome<()> {
        let own = own_part(name)?;
        let more = block.with_apart();
        if block.apart == Apart::None {
            self.put(&more)?;
        }
        let sealed = names::seal_xattr(self.keys, name.as_bytes(), value);
        let on_disk = self.apart(name);
        if let Err(e) = self.file.set_xattr(&on_disk, &sealed, XattrHow::Any) {
            self.put_back(before, block);
            return Err(e.into());
        }
        if block.get(own).is_some()
            && let Err(e) = self.put(&more.without(own))
        {
            let _ = self.file.remove_xattr(&on_disk);
            self.put_back(before, block);
            return Err(e);
        }
        Ok(())
    }

    /// removexattr(2).
    ///
    /// # Errors
    /// ENODATA, EBADMSG; of the backing filesystem.
    pub(super) fn remove(&self, name: &OsStr) -> Outcome<()> {
        let before = if_there(self.file.xattr(block_name()))?;
        let block = self.opened(before.as_deref())?;
        let own = own_part(name)?;
        let is_within = block.get(own).is_some();
        let was_apart = block.apart == Apart::Some
            && if_there(self.file.remove_xattr(&self.apart(name)))?.is_some();
        if !is_within && !was_apart {
            return Err(errno(libc::ENODATA));
        }
        let mut after = block.without(own);
        if after.apart == Apart::Some && !self.has_any_apart() {
            after.apart = Apart::None;
        }
        if after == block {
            return Ok(());
        }
        match self.put(&after) {
            // It is gone; only where to look for others is not known as exactly as it could be.
            Err(_) if !is_within => Ok(()),
            done => done,
        }
    }

    /// The names of all, each with its NUL, and those of other kinds as they are.
    ///
    /// # Errors
    /// `Unfinished`; of the backing filesystem.
    pub(super) fn list(&self, known: &mut NamesApart, piece: &Piece) -> Outcome<Vec<u8>> {
        let all = self.file.xattrs()?;
        let mut list = others(&all);
        let block = if_there(self.file.xattr(block_name()))?;
        // What a damaged block says is not known, but that of other kinds there are these.
        let Some(block) = block.and_then(|bytes| open_block(self.keys, &bytes).ok()) else {
            return Ok(list);
        };
        add_names(&mut list, &block);
        if block.apart == Apart::None {
            return Ok(list);
        }
        for on_disk in all.iter().filter(|name| names::is_sealed_xattr(name)) {
            if !known.0.contains_key(on_disk) {
                piece.go_on()?;
                let bytes = self.file.xattr(on_disk).ok();
                let opened = bytes.and_then(|b| names::open_xattr(self.keys, on_disk, &b).ok());
                known.0.insert(on_disk.clone(), opened.map(|(name, _)| name));
            }
            let name = known.0.get(on_disk).and_then(Option::as_ref);
            let shown = |name: &&Vec<u8>| {
                name.strip_prefix(USER).is_some_and(|own| block.get(own).is_none())
            };
            if let Some(name) = name.filter(shown) {
                list.extend(name);
                list.push(0);
            }
        }
        Ok(list)
    }

    fn opened(&self, bytes: Option<&[u8]>) -> Outcome<XattrBlock> {
        bytes.map_or(Ok(XattrBlock::default()), |bytes| open_block(self.keys, bytes))
    }

    /// The name on disk of what lies apart.
    fn apart(&self, name: &OsStr) -> OsString {
        names::xattr_disk_name(self.keys, name.as_bytes())
    }

    fn lies_apart(&self, block: &XattrBlock, name: &OsStr) -> Outcome<bool> {
        if block.apart == Apart::None {
            return Ok(false);
        }
        Ok(if_there(self.file.xattr(&self.apart(name)))?.is_some())
    }

    /// Also where that cannot be found out: then it is looked for.
    fn has_any_apart(&self) -> bool {
        let all = self.file.xattrs();
        all.map_or(true, |all| all.iter().any(|name| names::is_sealed_xattr(name)))
    }

    fn put(&self, block: &XattrBlock) -> Outcome<()> {
        if block.says_nothing() {
            if_there(self.file.remove_xattr(block_name()))?;
            return Ok(());
        }
        Ok(self.file.set_xattr(block_name(), &block.seal(self.keys), XattrHow::Any)?)
    }

    /// Undoes what an operation did to the block that then failed. Where this fails as well, what
    /// the block says is the same: it only has others looked for apart.
    fn put_back(&self, before: Option<&[u8]>, block: &XattrBlock) {
        if block.apart == Apart::None {
            let _ = match before {
                Some(bytes) => self.file.set_xattr(block_name(), bytes, XattrHow::Any),
                None => self.file.remove_xattr(block_name()),
            };
        }
    }
}

fn is_no_room(e: Fail) -> bool {
    matches!(e, Fail::Errno(Errno(libc::ENOSPC | libc::E2BIG)))
}

/// The names that are no user's, each with its NUL.
pub(super) fn others(all: &[OsString]) -> Vec<u8> {
    let mut list = Vec::new();
    for name in all.iter().filter(|name| !is_user(name)) {
        list.extend(name.as_bytes());
        list.push(0);
    }
    list
}

/// Adds the names that a block says.
pub(super) fn add_names(list: &mut Vec<u8>, block: &XattrBlock) {
    for name in block.names() {
        list.extend(USER);
        list.extend(name);
        list.push(0);
    }
}
