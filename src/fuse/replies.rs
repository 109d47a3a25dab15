//! Answers in the form of fuser's replies.

use std::cell::RefCell;

use fuser::{
    FileHandle, FopenFlags, Generation, INodeNo, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyXattr,
};

use super::content::Sink;
use super::convert;
use super::listing::Listing;
use super::terms::{Attribute, Opened, TTL};
use crate::disk::FsStat;
use crate::fs::{Attr, Detail, Errno, Fail, Found, Listed, Outcome};
use crate::secret::wipe;

pub(super) fn fuse_errno(e: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(e.0)
}

pub(super) fn attributes(reply: ReplyAttr, attr: Attr) {
    reply.attr(&TTL, &convert::attr(&attr));
}

pub(super) fn done(reply: ReplyEmpty, (): ()) {
    reply.ok();
}

pub(super) fn entry(reply: ReplyEntry, found: Found) {
    reply.entry(&TTL, &convert::attr(&found.attr), generation(&found));
}

fn generation(found: &Found) -> Generation {
    Generation(found.generation.into())
}

pub(super) fn opened(reply: ReplyOpen, opened: Opened) {
    reply.opened(FileHandle(opened.handle), FopenFlags::from_bits_retain(opened.flags));
}

pub(super) fn create(reply: ReplyCreate, (found, opened): (Found, Opened)) {
    let flags = FopenFlags::from_bits_retain(opened.flags);
    let handle = FileHandle(opened.handle);
    reply.created(&TTL, &convert::attr(&found.attr), generation(&found), handle, flags);
}

pub(super) fn attribute(reply: ReplyXattr, answer: Attribute) {
    match answer {
        Attribute::Size(n) => reply.size(n),
        Attribute::Bytes(bytes) => reply.data(&bytes),
    }
}

pub(super) fn statfs(reply: ReplyStatfs, s: FsStat) {
    let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    let (bsize, namemax, frsize) = (small(s.bsize), small(s.namemax), small(s.frsize));
    reply.statfs(s.blocks, s.bfree, s.bavail, s.files, s.ffree, bsize, namemax, frsize);
}

thread_local! {
    /// Plaintext on its way to the kernel; wiped after each reply.
    static OUT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Sink for ReplyData {
    type Sent = ();

    fn fill(
        self,
        size: usize,
        read: impl FnOnce(&mut [u8]) -> Outcome<usize>,
    ) -> Result<(), (Fail, Self)> {
        OUT.with_borrow_mut(|out| {
            if out.len() < size {
                out.resize(size, 0);
            }
            let out = &mut out[..size];
            match read(out) {
                Ok(n) => {
                    self.data(&out[..n]);
                    wipe(&mut out[..n]);
                    Ok(())
                }
                Err(fail) => {
                    if matches!(fail, Fail::Errno(_)) {
                        wipe(out);
                    }
                    Err((fail, self))
                }
            }
        })
    }

    fn fail(self, errno: Errno) {
        self.error(fuse_errno(errno));
    }
}

impl Listing for ReplyDirectory {
    type Sent = ();

    fn detail(&self) -> Detail {
        Detail::Names
    }

    fn add(&mut self, e: &Listed) -> bool {
        !self.add(INodeNo(e.ino), e.next, convert::kind(e.kind), &e.name)
    }

    fn send(self) {
        self.ok();
    }

    fn fail(self, errno: Errno) {
        self.error(fuse_errno(errno));
    }
}

impl Listing for ReplyDirectoryPlus {
    type Sent = ();

    fn detail(&self) -> Detail {
        Detail::Attributes
    }

    fn add(&mut self, e: &Listed) -> bool {
        let Some(found) = &e.found else { return true };
        let attr = convert::attr(&found.attr);
        !self.add(INodeNo(e.ino), e.next, &e.name, &TTL, &attr, generation(found))
    }

    fn send(self) {
        self.ok();
    }

    fn fail(self, errno: Errno) {
        self.error(fuse_errno(errno));
    }
}
