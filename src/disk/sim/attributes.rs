//! Modes, owners, times and extended attributes of simulated inodes.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;

use super::world::{World, error};
use crate::disk::{FileKind, TimeChange, XattrHow};

impl World {
    pub(super) fn set_mode(&mut self, ino: u64, mode: u32) -> io::Result<()> {
        if self.kind(ino) == FileKind::Symlink {
            return Err(error(libc::EOPNOTSUPP));
        }
        let now = self.now();
        let inode = self.inode(ino);
        inode.mode = (inode.mode & libc::S_IFMT) | (mode & 0o7777);
        inode.times[2] = now;
        Ok(())
    }

    pub(super) fn set_owner(&mut self, ino: u64, uid: Option<u32>, gid: Option<u32>) {
        let now = self.now();
        let inode = self.inode(ino);
        inode.uid = uid.unwrap_or(inode.uid);
        inode.gid = gid.unwrap_or(inode.gid);
        inode.times[2] = now;
    }

    pub(super) fn set_times(&mut self, ino: u64, atime: TimeChange, mtime: TimeChange) {
        let now = self.now();
        let times = &mut self.inode(ino).times;
        for (time, change) in times.iter_mut().zip([atime, mtime]) {
            match change {
                TimeChange::Keep => {}
                TimeChange::Now => *time = now,
                TimeChange::To(to) => *time = to,
            }
        }
        times[2] = now;
    }

    pub(super) fn xattr(&mut self, ino: u64, name: &OsStr) -> io::Result<Vec<u8>> {
        self.inode(ino).xattrs.get(name).cloned().ok_or(error(libc::ENODATA))
    }

    /// Files and directories alone have attributes of users (xattr(7)).
    fn expect_xattrs(&mut self, ino: u64, name: &OsStr) -> io::Result<()> {
        let may = matches!(self.kind(ino), FileKind::File | FileKind::Dir);
        let of_user = name.as_bytes().starts_with(b"user.");
        if of_user && !may { Err(error(libc::EPERM)) } else { Ok(()) }
    }

    pub(super) fn set_xattr(
        &mut self,
        ino: u64,
        name: &OsStr,
        value: &[u8],
        how: XattrHow,
    ) -> io::Result<()> {
        self.expect_xattrs(ino, name)?;
        let room = self.attribute_room.unwrap_or(usize::MAX);
        let xattrs = &mut self.inode(ino).xattrs;
        match (how, xattrs.contains_key(name)) {
            (XattrHow::Create, true) => return Err(error(libc::EEXIST)),
            (XattrHow::Replace, false) => return Err(error(libc::ENODATA)),
            _ => {}
        }
        let size = |name: &OsStr, value: &[u8]| 16 + name.len() + value.len();
        let others = xattrs.iter().filter(|(other, _)| *other != name);
        let taken: usize = others.map(|(name, value)| size(name, value)).sum();
        if taken + size(name, value) > room {
            return Err(error(libc::ENOSPC));
        }
        xattrs.insert(name.to_owned(), value.to_vec());
        Ok(())
    }

    pub(super) fn xattrs(&mut self, ino: u64) -> Vec<OsString> {
        self.inode(ino).xattrs.keys().cloned().collect()
    }

    pub(super) fn remove_xattr(&mut self, ino: u64, name: &OsStr) -> io::Result<()> {
        self.expect_xattrs(ino, name)?;
        self.inode(ino).xattrs.remove(name).map(|_| ()).ok_or(error(libc::ENODATA))
    }
}
