//! Extended attributes: `user.*` sealed, the others passed through.

use std::ffi::OsStr;
use std::io;
use std::sync::atomic::Ordering;

use super::Fs;
use super::dirs::Seen;
use super::errno::{Fail, Outcome, errno};
use super::node::{Capability, Node};
use super::piece::Piece;
use super::user_xattrs::{
    NamesApart, UserXattrs, add_names, block_name, is_user, open_block, others, own_part,
};
use crate::disk::{Directory, FileKind, OpenFile, XattrHow};
use crate::names::Apart;

/// What setxattr does about an attribute that is there already.
pub type XattrSet = XattrHow;

/// What a file has whose programs get capabilities (capabilities(7)).
pub(super) const CAPABILITY: &str = "security.capability";

/// Where SELinux is on, the kernel answers for labels itself and asks no FUSE daemon; where it
/// is off, "there are none here" lets `ls -l` stop asking after the first file, and "this file
/// has none" would have it ask for each.
const LABEL: &str = "security.selinux";

fn absent(name: &OsStr, e: Fail) -> Fail {
    if name == LABEL && e == errno(libc::ENODATA) { errno(libc::EOPNOTSUPP) } else { e }
}

impl Fs {
    /// Looks with one of two twins: at the inode where it is held, or at its place, which takes
    /// fewer calls than holding it.
    fn look_at_xattrs<T>(
        &self,
        node: &Node,
        held: impl Fn(&dyn OpenFile) -> io::Result<T>,
        placed: impl Fn(&dyn Directory, &OsStr) -> io::Result<T>,
    ) -> Outcome<T> {
        let file = node.content.read().file.clone();
        if let Some(file) = file {
            return Ok(held(&*file)?);
        }
        self.at_place(node, |dir, name| {
            // Both before the number is asked for: an error is the inode's own too.
            let what = placed(&**dir, name);
            Ok(Seen { ino: dir.stat(name)?.ino, what })
        })?
        .map_err(Fail::from)
    }

    /// getxattr(2).
    ///
    /// # Errors
    /// ENODATA, EBADMSG; of the backing filesystem.
    pub fn getxattr(&self, ino: u64, name: &OsStr) -> Outcome<Vec<u8>> {
        let node = self.node(ino)?;
        if name == CAPABILITY && node.capability() == Capability::Absent {
            return Err(errno(libc::ENODATA));
        }
        if !is_user(name) {
            let found = self.look_at_xattrs(&node, |f| f.xattr(name), |d, n| d.xattr(n, name));
            return found.map_err(|e| absent(name, e));
        }
        let (own, keys, block) = (own_part(name)?, self.keyring.names()?, block_name());
        let bytes = self.look_at_xattrs(&node, |f| f.xattr(block), |d, n| d.xattr(n, block))?;
        let block = open_block(&keys, &bytes)?;
        match block.get(own) {
            Some(value) => Ok(value.to_vec()),
            None if block.apart == Apart::None => Err(errno(libc::ENODATA)),
            // It may be on its way into the block: both are looked at again, with nobody at them.
            None => self.with_user_xattrs(&node, |all| all.get(name)),
        }
    }

    /// setxattr(2).
    ///
    /// # Errors
    /// EEXIST, ENODATA, EBADMSG; of the backing filesystem.
    pub fn setxattr(&self, ino: u64, name: &OsStr, value: &[u8], how: XattrSet) -> Outcome<()> {
        self.writable()?;
        let node = self.node(ino)?;
        if is_user(name) {
            own_part(name)?;
            expect_user_xattrs(&node)?;
            return self.with_user_xattrs(&node, |all| all.set(name, value, how));
        }
        self.hold(&node)?.set_xattr(name, value, how)?;
        acl_changed(&node);
        Ok(())
    }

    /// removexattr(2).
    ///
    /// # Errors
    /// ENODATA, EBADMSG; of the backing filesystem.
    pub fn removexattr(&self, ino: u64, name: &OsStr) -> Outcome<()> {
        self.writable()?;
        let node = self.node(ino)?;
        if is_user(name) {
            own_part(name)?;
            expect_user_xattrs(&node)?;
            return self.with_user_xattrs(&node, |all| all.remove(name));
        }
        self.hold(&node)?.remove_xattr(name)?;
        acl_changed(&node);
        Ok(())
    }

    /// listxattr(2): the names, each with its NUL. `known` is what it goes on from.
    ///
    /// # Errors
    /// `Unfinished`; of the backing filesystem.
    pub fn listxattr(&self, ino: u64, known: &mut NamesApart) -> Outcome<Vec<u8>> {
        let piece = Piece::begin();
        let node = self.node(ino)?;
        let keys = self.keyring.names()?;
        let all = self.look_at_xattrs(&node, |f| f.xattrs(), |d, n| d.xattrs(n))?;
        let block = block_name();
        if !all.iter().any(|name| name == block) {
            return Ok(others(&all));
        }
        let bytes = self.look_at_xattrs(&node, |f| f.xattr(block), |d, n| d.xattr(n, block));
        match bytes.and_then(|bytes| open_block(&keys, &bytes)) {
            Ok(block) if block.apart == Apart::None => {
                let mut list = others(&all);
                add_names(&mut list, &block);
                Ok(list)
            }
            _ => self.with_user_xattrs(&node, |all| all.list(known, &piece)),
        }
    }

    /// Works on an inode's `user.*` attributes while nobody else does.
    fn with_user_xattrs<T>(
        &self,
        node: &Node,
        work: impl FnOnce(&UserXattrs<'_>) -> Outcome<T>,
    ) -> Outcome<T> {
        let keys = self.keyring.names()?;
        let _alone = node.user_xattrs.lock();
        let held = self.hold(node)?;
        work(&UserXattrs { file: &*held, keys: &keys })
    }
}

/// The kernel's rule: files and directories alone have attributes of users.
fn expect_user_xattrs(node: &Node) -> Outcome<()> {
    match node.kind {
        FileKind::File | FileKind::Dir => Ok(()),
        _ => Err(errno(libc::EPERM)),
    }
}

fn acl_changed(node: &Node) {
    node.default_acl.store(0, Ordering::Relaxed);
    node.set_capability(Capability::Unknown);
}
