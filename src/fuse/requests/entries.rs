//! Requests for names, inodes, attributes and folders.

use std::ffi::{OsStr, OsString};

use super::{Asked, Soon};
use crate::disk::{FsStat, XattrHow};
use crate::fs::{Attr, Change, Found, Fs, Made, NamesApart, RenameHow, Search};
use crate::fuse::job::go;
use crate::fuse::listing::{List, Listing};
use crate::fuse::reply::Reply;
use crate::fuse::terms::{Attribute, Opened, attribute};
use crate::keys::audit::Operation;
use crate::metrics::RequestKind;

/// The attribute that an inode's access ACL is (xattr(7)).
const ACCESS_ACL: &str = "system.posix_acl_access";

impl<'a> Asked<'a> {
    pub(in crate::fuse) fn lookup<R: Reply<Found>>(
        self,
        parent: u64,
        name: &OsStr,
        reply: R,
    ) -> Soon<'a, R::Sent> {
        // What the kernel asks for a file handle is about the inode itself, and about its folder.
        if name == "." {
            let mut search = Search::default();
            return self.answer(
                RequestKind::Lookup,
                move |fs| fs.lookup_number(parent, &mut search),
                reply,
            );
        }
        if name == ".." {
            return self.answer(RequestKind::Lookup, move |fs| fs.lookup_parent(parent), reply);
        }
        let watch = self.shared().watch_entry(self.who, Operation::Lookup, (parent, name));
        let name = name.to_owned();
        self.watched(RequestKind::Lookup, watch, move |fs| fs.lookup(parent, &name), reply)
    }

    pub(in crate::fuse) fn getattr<R: Reply<Attr>>(self, ino: u64, reply: R) -> Soon<'a, R::Sent> {
        if ino == crate::fs::ROOT {
            return self.always(RequestKind::Getattr, move |fs| fs.getattr(ino), reply);
        }
        self.answer(RequestKind::Getattr, move |fs| fs.getattr(ino), reply)
    }

    pub(in crate::fuse) fn setattr<R: Reply<Attr>>(
        self,
        ino: u64,
        change: Change,
        reply: R,
    ) -> Soon<'a, R::Sent> {
        let watch =
            change.size.and_then(|_| self.shared().watch(self.who, Operation::Truncate, ino));
        self.watched_change(RequestKind::Setattr, watch, move |fs| fs.setattr(ino, &change), reply)
    }

    pub(in crate::fuse) fn readlink<R: Reply<OsString>>(
        self,
        ino: u64,
        reply: R,
    ) -> Soon<'a, R::Sent> {
        self.answer(RequestKind::Readlink, move |fs| fs.readlink(ino), reply)
    }

    /// `rdev` is a device number as stat(2) gives it.
    pub(in crate::fuse) fn mknod<R: Reply<Found>>(
        self,
        (parent, name): (u64, &OsStr),
        (mode, umask, rdev): (u32, u32, u64),
        reply: R,
    ) -> Soon<'a, R::Sent> {
        let (name, by) = (name.to_owned(), self.who.caller(umask));
        self.answer(
            RequestKind::Mknod,
            move |fs| fs.make(parent, &name, Made::Node(mode, rdev), by),
            reply,
        )
    }

    pub(in crate::fuse) fn mkdir<R: Reply<Found>>(
        self,
        (parent, name): (u64, &OsStr),
        (mode, umask): (u32, u32),
        reply: R,
    ) -> Soon<'a, R::Sent> {
        let (name, by) = (name.to_owned(), self.who.caller(umask));
        self.answer(
            RequestKind::Mkdir,
            move |fs| fs.make(parent, &name, Made::Dir(mode), by),
            reply,
        )
    }

    pub(in crate::fuse) fn symlink<R: Reply<Found>>(
        self,
        (parent, name): (u64, &OsStr),
        target: &OsStr,
        reply: R,
    ) -> Soon<'a, R::Sent> {
        let (name, target, by) = (name.to_owned(), target.to_owned(), self.who.caller(0));
        self.answer(
            RequestKind::Symlink,
            move |fs| fs.make(parent, &name, Made::Symlink(&target), by),
            reply,
        )
    }

    pub(in crate::fuse) fn unlink<R: Reply<()>>(
        self,
        parent: u64,
        name: &OsStr,
        reply: R,
    ) -> Soon<'a, R::Sent> {
        let name = name.to_owned();
        self.change(RequestKind::Unlink, move |fs| fs.unlink(parent, &name), reply)
    }

    pub(in crate::fuse) fn rmdir<R: Reply<()>>(
        self,
        parent: u64,
        name: &OsStr,
        reply: R,
    ) -> Soon<'a, R::Sent> {
        let name = name.to_owned();
        self.change(RequestKind::Rmdir, move |fs| fs.rmdir(parent, &name), reply)
    }

    /// `flags` are those of renameat2(2).
    pub(in crate::fuse) fn rename<R: Reply<()>>(
        self,
        (parent, name): (u64, &OsStr),
        (to_parent, to_name): (u64, &OsStr),
        flags: u32,
        reply: R,
    ) -> Soon<'a, R::Sent> {
        let how = match flags {
            0 => RenameHow::Over,
            libc::RENAME_NOREPLACE => RenameHow::NoReplace,
            libc::RENAME_EXCHANGE => RenameHow::Exchange,
            libc::RENAME_WHITEOUT => RenameHow::Whiteout,
            _ => return self.refuse(RequestKind::Rename, libc::EINVAL, reply),
        };
        let (name, to_name) = (name.to_owned(), to_name.to_owned());
        self.change(
            RequestKind::Rename,
            move |fs| fs.rename((parent, &name), (to_parent, &to_name), how),
            reply,
        )
    }

    pub(in crate::fuse) fn link<R: Reply<Found>>(
        self,
        ino: u64,
        (parent, name): (u64, &OsStr),
        reply: R,
    ) -> Soon<'a, R::Sent> {
        let (name, by) = (name.to_owned(), self.who.caller(0));
        self.answer(RequestKind::Link, move |fs| fs.link(ino, parent, &name, by), reply)
    }

    pub(in crate::fuse) fn opendir<R: Reply<Opened>>(
        self,
        ino: u64,
        reply: R,
    ) -> Soon<'a, R::Sent> {
        let user = self.who.uid;
        let op = move |fs: &Fs| Ok(Opened { handle: fs.open_listing(ino, user)?, flags: 0 });
        self.answer(RequestKind::Opendir, op, reply)
    }

    pub(in crate::fuse) fn list<L: Listing>(
        self,
        handle: u64,
        from: u64,
        listing: L,
    ) -> Soon<'a, L::Sent> {
        go(
            self.shared(),
            List { handle, from, who: self.who, listing },
            self.arrived(RequestKind::Readdir),
            self.start,
        )
    }

    pub(in crate::fuse) fn releasedir<R: Reply<()>>(
        self,
        handle: u64,
        reply: R,
    ) -> Soon<'a, R::Sent> {
        let op = move |fs: &Fs| {
            fs.close_listing(handle);
            Ok(())
        };
        self.always(RequestKind::Releasedir, op, reply)
    }

    pub(in crate::fuse) fn fsyncdir<R: Reply<()>>(self, ino: u64, reply: R) -> Soon<'a, R::Sent> {
        self.always(RequestKind::Fsyncdir, move |fs| fs.sync_dir(ino), reply)
    }

    pub(in crate::fuse) fn statfs<R: Reply<FsStat>>(self, reply: R) -> Soon<'a, R::Sent> {
        self.always(RequestKind::Statfs, Fs::statfs, reply)
    }

    /// `flags` are those of setxattr(2).
    pub(in crate::fuse) fn setxattr<R: Reply<()>>(
        self,
        ino: u64,
        (name, value): (&OsStr, &[u8]),
        flags: i32,
        reply: R,
    ) -> Soon<'a, R::Sent> {
        let how = match flags {
            0 => XattrHow::Any,
            libc::XATTR_CREATE => XattrHow::Create,
            libc::XATTR_REPLACE => XattrHow::Replace,
            _ => return self.refuse(RequestKind::Setxattr, libc::EINVAL, reply),
        };
        let (name, value, who) = (name.to_owned(), value.to_vec(), self.who);
        let op = move |fs: &Fs| {
            fs.setxattr(ino, &name, &value, how)?;
            if name == ACCESS_ACL { fs.drop_set_group_id(ino, who) } else { Ok(()) }
        };
        self.change(RequestKind::Setxattr, op, reply)
    }

    pub(in crate::fuse) fn getxattr<R: Reply<Attribute>>(
        self,
        ino: u64,
        name: &OsStr,
        room: u32,
        reply: R,
    ) -> Soon<'a, R::Sent> {
        let name = name.to_owned();
        self.answer(
            RequestKind::Getxattr,
            move |fs| attribute(fs.getxattr(ino, &name)?, room),
            reply,
        )
    }

    pub(in crate::fuse) fn listxattr<R: Reply<Attribute>>(
        self,
        ino: u64,
        room: u32,
        reply: R,
    ) -> Soon<'a, R::Sent> {
        let mut known = NamesApart::default();
        self.answer(
            RequestKind::Listxattr,
            move |fs| attribute(fs.listxattr(ino, &mut known)?, room),
            reply,
        )
    }

    pub(in crate::fuse) fn removexattr<R: Reply<()>>(
        self,
        ino: u64,
        name: &OsStr,
        reply: R,
    ) -> Soon<'a, R::Sent> {
        let name = name.to_owned();
        self.change(RequestKind::Removexattr, move |fs| fs.removexattr(ino, &name), reply)
    }
}
