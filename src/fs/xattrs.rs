//! Extended attributes: `user.*` sealed, the others passed through.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::atomic::Ordering;

use super::Fs;
use super::dirs::Seen;
use super::errno::{Fail, Outcome, errno};
use super::node::Node;
use crate::disk::{Directory, FileKind, OpenFile, XattrHow};
use crate::names;

/// What setxattr does about an attribute that is there already.
pub type XattrSet = XattrHow;

const USER: &[u8] = b"user.";

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

    fn on_disk(&self, name: &OsStr) -> Outcome<OsString> {
        if !name.as_bytes().starts_with(USER) {
            return Ok(name.to_owned());
        }
        Ok(names::xattr_disk_name(&*self.keyring.names()?, name.as_bytes()))
    }

    /// getxattr(2).
    ///
    /// # Errors
    /// ENODATA, EBADMSG; of the backing filesystem.
    pub fn getxattr(&self, ino: u64, name: &OsStr) -> Outcome<Vec<u8>> {
        let node = self.node(ino)?;
        let on_disk = self.on_disk(name)?;
        let bytes = self
            .look_at_xattrs(&node, |f| f.xattr(&on_disk), |d, n| d.xattr(n, &on_disk))
            .map_err(|e| absent(name, e))?;
        if !name.as_bytes().starts_with(USER) {
            return Ok(bytes);
        }
        let keys = self.keyring.names()?;
        let opened = names::open_xattr(&keys, &on_disk, &bytes);
        opened.map(|(_, value)| value).map_err(|_| errno(libc::EBADMSG))
    }

    /// setxattr(2).
    ///
    /// # Errors
    /// EEXIST, ENODATA; of the backing filesystem.
    pub fn setxattr(&self, ino: u64, name: &OsStr, value: &[u8], how: XattrSet) -> Outcome<()> {
        self.writable()?;
        let node = self.node(ino)?;
        let on_disk = self.on_disk(name)?;
        let sealed = if name.as_bytes().starts_with(USER) {
            // The kernel's rule for user attributes: files and directories alone have them.
            if !matches!(node.kind, FileKind::File | FileKind::Dir) {
                return Err(errno(libc::EPERM));
            }
            names::seal_xattr(&*self.keyring.names()?, name.as_bytes(), value)
        } else {
            value.to_vec()
        };
        self.hold(&node)?.set_xattr(&on_disk, &sealed, how)?;
        self.acl_changed(&node);
        Ok(())
    }

    /// removexattr(2).
    ///
    /// # Errors
    /// ENODATA; of the backing filesystem.
    pub fn removexattr(&self, ino: u64, name: &OsStr) -> Outcome<()> {
        self.writable()?;
        let node = self.node(ino)?;
        let on_disk = self.on_disk(name)?;
        self.hold(&node)?.remove_xattr(&on_disk)?;
        self.acl_changed(&node);
        Ok(())
    }

    fn acl_changed(&self, node: &Node) {
        node.default_acl.store(0, Ordering::Relaxed);
        node.no_capability.store(false, Ordering::Relaxed);
    }

    /// listxattr(2): the names, each with its NUL.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn listxattr(&self, ino: u64) -> Outcome<Vec<u8>> {
        let node = self.node(ino)?;
        let keys = self.keyring.names()?;
        let all = self.look_at_xattrs(&node, |f| f.xattrs(), |d, n| d.xattrs(n))?;
        let mut list = Vec::new();
        for name in all {
            if names::is_sealed_xattr(&name) {
                let bytes =
                    self.look_at_xattrs(&node, |f| f.xattr(&name), |d, n| d.xattr(n, &name));
                let opened = bytes.ok().and_then(|b| names::open_xattr(&keys, &name, &b).ok());
                let Some((clear, _)) = opened else { continue };
                list.extend(clear);
            } else if name.as_bytes().starts_with(USER) {
                continue; // Not of this volume.
            } else {
                list.extend(name.into_vec());
            }
            list.push(0);
        }
        Ok(list)
    }
}
