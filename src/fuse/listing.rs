//! Listings: readdir and readdirplus.

use fuser::{Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus};

use super::adapter::{TTL, fuse_errno};
use super::convert;
use super::job::Job;
use crate::fs::{Detail, Errno, Fail, Fs};
use crate::keys::Purpose;

/// readdir.
pub(super) struct ListNames {
    pub(super) handle: u64,
    pub(super) from: u64,
    pub(super) reply: ReplyDirectory,
}

impl Job for ListNames {
    fn purpose(&self) -> Purpose {
        Purpose::Use
    }

    fn run(mut self, fs: &Fs) -> Option<(crate::keys::Want, Self)> {
        let reply = &mut self.reply;
        let listed = fs.list(self.handle, self.from, Detail::Names, &mut |e| {
            !reply.add(INodeNo(e.ino), e.next, convert::kind(e.kind), &e.name)
        });
        match listed {
            Ok(()) => self.reply.ok(),
            Err(Fail::Errno(e)) => self.fail(e),
            Err(Fail::Park(want)) => return Some((want, self)),
        }
        None
    }

    fn fail(self, e: Errno) {
        self.reply.error(fuse_errno(e));
    }
}

/// readdirplus.
pub(super) struct ListAttributes {
    pub(super) handle: u64,
    pub(super) from: u64,
    pub(super) reply: ReplyDirectoryPlus,
}

impl Job for ListAttributes {
    fn purpose(&self) -> Purpose {
        Purpose::Use
    }

    fn run(mut self, fs: &Fs) -> Option<(crate::keys::Want, Self)> {
        let reply = &mut self.reply;
        let listed = fs.list(self.handle, self.from, Detail::Attributes, &mut |e| {
            // Without attributes the kernel would take zeros for them: such an entry (a
            // damaged symlink) is looked up on its own, and answers its errno then.
            let (attr, ttl, ino) = match &e.attr {
                Some(attr) => (convert::attr(attr), TTL, INodeNo(e.ino)),
                None => return true,
            };
            let full = reply.add(ino, e.next, &e.name, &ttl, &attr, Generation(0));
            !full
        });
        match listed {
            Ok(()) => self.reply.ok(),
            Err(Fail::Errno(e)) => self.fail(e),
            Err(Fail::Park(want)) => return Some((want, self)),
        }
        None
    }

    fn fail(self, e: Errno) {
        self.reply.error(fuse_errno(e));
    }
}
