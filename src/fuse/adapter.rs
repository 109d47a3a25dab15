//! From fuser's requests to ours, and from our answers to fuser's replies.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, INodeNo, KernelConfig, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};

use super::content::WriteWords;
use super::convert;
use super::forgets;
use super::handshake::{Offer, negotiate};
use super::job::Start;
use super::replies::{attribute, attributes, create, done, entry, fuse_errno, opened, statfs};
use super::requests::{Asked, Requests, Soon};
use super::shared::Shared;
use super::terms::PageCache;
use crate::disk::Counted;
use crate::fs::{Change, SyncWhat};
use crate::threads;

/// The adapter.
pub struct Adapter {
    requests: Arc<Requests>,
    rings: Offer,
}

/// Replies an outcome through a pair of functions.
macro_rules! reply {
    ($reply:ident, $ok:expr) => {
        move |outcome| match outcome {
            Ok(answer) => $ok($reply, answer),
            Err(e) => $reply.error(fuse_errno(e)),
        }
    };
}

/// Replies are sent over /dev/fuse as they are made; what is left is to leave the gate.
fn end(soon: Soon<'_, ()>) {
    if let Some(answered) = soon {
        answered.finish(|()| ());
    }
}

impl Adapter {
    /// An adapter.
    pub fn new(shared: Arc<Shared>, cache: PageCache, times: Counted) -> Self {
        let over_rings = AtomicBool::new(false);
        let requests = Arc::new(Requests { shared, cache, times, over_rings });
        Self { requests, rings: Offer::Nothing }
    }

    /// Decides what the kernel is told of rings.
    pub(super) fn offer(&mut self, rings: Offer) {
        self.rings = rings;
    }

    pub(super) fn requests(&self) -> Arc<Requests> {
        self.requests.clone()
    }

    fn asked(&self, req: &Request) -> Asked<'_> {
        threads::prepare_for_requests();
        self.requests.asked(convert::who(req), Start::Here, Instant::now())
    }
}

#[allow(clippy::too_many_arguments)] // The trait's own.
impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let agreed = negotiate(config, self.requests.cache, self.rings);
        self.requests.over_rings.store(agreed == Offer::Rings, Ordering::Relaxed);
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        end(self.asked(req).lookup(parent.0, name, reply!(reply, entry)));
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        if self.requests.over_rings.load(Ordering::Relaxed) {
            forgets::gather();
        }
        self.requests.shared.fs.forget(ino.0, nlookup);
    }

    fn getattr(&self, req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        end(self.asked(req).getattr(ino.0, reply!(reply, attributes)));
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let [atime, mtime] = [atime, mtime].map(|t| t.map(convert::set_time));
        let change = Change { mode, uid, gid, size, atime, mtime, by: convert::who(req) };
        end(self.asked(req).setattr(ino.0, change, reply!(reply, attributes)));
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        let target = |reply: ReplyData, target: OsString| reply.data(target.as_bytes());
        end(self.asked(req).readlink(ino.0, reply!(reply, target)));
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let what = (mode, umask, convert::rdev_in(rdev));
        end(self.asked(req).mknod((parent.0, name), what, reply!(reply, entry)));
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        end(self.asked(req).mkdir((parent.0, name), (mode, umask), reply!(reply, entry)));
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        end(self.asked(req).unlink(parent.0, name, reply!(reply, done)));
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        end(self.asked(req).rmdir(parent.0, name, reply!(reply, done)));
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let target = target.as_os_str();
        end(self.asked(req).symlink((parent.0, name), target, reply!(reply, entry)));
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (from, to) = ((parent.0, name), (newparent.0, newname));
        end(self.asked(req).rename(from, to, flags.bits(), reply!(reply, done)));
    }

    fn link(
        &self,
        req: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        end(self.asked(req).link(ino.0, (newparent.0, newname), reply!(reply, entry)));
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        end(self.asked(req).open(ino.0, flags.0, reply!(reply, opened)));
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let how = (mode, umask, flags);
        end(self.asked(req).create((parent.0, name), how, reply!(reply, create)));
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        end(self.asked(req).read(ino.0, offset, size, reply));
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let words = WriteWords { request: write_flags.bits(), open: flags.0 };
        let written = |reply: ReplyWrite, n| reply.written(n);
        end(self.asked(req).write((ino.0, offset), words, data, reply!(reply, written)));
    }

    /// Nothing waits here for a flush; the kernel saves dirty maps itself and then needs no
    /// answer any more.
    fn flush(&self, _r: &Request, _i: INodeNo, _f: FileHandle, _l: LockOwner, reply: ReplyEmpty) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn release(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        end(self.asked(req).release(ino.0, fh.0, reply!(reply, done)));
    }

    fn fsync(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        let what = if datasync { SyncWhat::Data } else { SyncWhat::All };
        end(self.asked(req).fsync(ino.0, what, reply!(reply, done)));
    }

    fn opendir(&self, req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        end(self.asked(req).opendir(ino.0, reply!(reply, opened)));
    }

    fn readdir(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        from: u64,
        reply: ReplyDirectory,
    ) {
        end(self.asked(req).list(fh.0, from, reply));
    }

    fn readdirplus(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        from: u64,
        reply: ReplyDirectoryPlus,
    ) {
        end(self.asked(req).list(fh.0, from, reply));
    }

    fn releasedir(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        end(self.asked(req).releasedir(fh.0, reply!(reply, done)));
    }

    fn fsyncdir(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _data: bool,
        reply: ReplyEmpty,
    ) {
        end(self.asked(req).fsyncdir(ino.0, reply!(reply, done)));
    }

    fn statfs(&self, req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        end(self.asked(req).statfs(reply!(reply, statfs)));
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        end(self.asked(req).setxattr(ino.0, (name, value), flags, reply!(reply, done)));
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        end(self.asked(req).getxattr(ino.0, name, size, reply!(reply, attribute)));
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        end(self.asked(req).listxattr(ino.0, size, reply!(reply, attribute)));
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        end(self.asked(req).removexattr(ino.0, name, reply!(reply, done)));
    }

    fn fallocate(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        end(self.asked(req).fallocate(ino.0, (offset, length, mode), reply!(reply, done)));
    }

    fn lseek(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let at = |reply: ReplyLseek, at| reply.offset(at);
        end(self.asked(req).lseek(ino.0, offset, whence, reply!(reply, at)));
    }

    fn copy_file_range(
        &self,
        req: &Request,
        ino_in: INodeNo,
        _fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        _fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (from, to) = ((ino_in.0, offset_in), (ino_out.0, offset_out));
        let written = |reply: ReplyWrite, n| reply.written(n);
        end(self.asked(req).copy_file_range(from, to, len, reply!(reply, written)));
    }
}
