//! Each kernel request in a few lines: an operation of [`Fs`], and how its outcome is replied.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::convert;
use super::job::{Kill, Read, Shared, Simple, Write, go, write};
use super::listing::{ListAttributes, ListNames};
use super::watch::Watch;
use crate::disk::XattrHow;
use crate::fs::{
    Attr, Caller, Change, Errno, Fail, Fs, Made, OpenFor, Outcome, Reach, RenameHow, Sought,
    SyncWhat, errno,
};
use crate::keys::Purpose;
use crate::keys::audit::Operation;

/// Only the mount changes the store, so what the kernel knows stays true.
pub(super) const TTL: Duration = Duration::from_secs(60);
/// The kernel's and our limit for one write, and so for one read.
const MAX_WRITE: u32 = 1 << 20;
const BACKGROUND: u16 = 64;

/// How file content passes through the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageCache {
    /// Cached, writes go through at once.
    WriteThrough,
    /// Cached, writes wait in the kernel (`--writeback`).
    WriteBack,
    /// Not cached (`--direct-io`).
    Direct,
}

/// The adapter.
pub struct Adapter {
    shared: Arc<Shared>,
    cache: PageCache,
}

pub(super) fn fuse_errno(e: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(e.0)
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

fn entry(reply: ReplyEntry, attr: Attr) {
    reply.entry(&TTL, &convert::attr(&attr), Generation(0));
}

fn attributes(reply: ReplyAttr, attr: Attr) {
    reply.attr(&TTL, &convert::attr(&attr));
}

fn done(reply: ReplyEmpty, (): ()) {
    reply.ok();
}

fn xattr_reply(reply: ReplyXattr, (bytes, size): (Vec<u8>, u32)) {
    if size == 0 {
        reply.size(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    } else if bytes.len() > size as usize {
        reply.error(fuser::Errno::from_i32(libc::ERANGE));
    } else {
        reply.data(&bytes);
    }
}

fn open_for(flags: OpenFlags) -> OpenFor {
    if flags.acc_mode() == OpenAccMode::O_RDONLY { OpenFor::Reading } else { OpenFor::Writing }
}

const READING: FileHandle = FileHandle(0);
const WRITING: FileHandle = FileHandle(1);

fn handle(how: OpenFor) -> FileHandle {
    if how == OpenFor::Writing { WRITING } else { READING }
}

fn opened_for(fh: FileHandle) -> OpenFor {
    if fh == WRITING { OpenFor::Writing } else { OpenFor::Reading }
}

impl Adapter {
    /// An adapter.
    pub fn new(shared: Arc<Shared>, cache: PageCache) -> Self {
        Self { shared, cache }
    }

    fn answer<A: 'static>(
        &self,
        op: impl Fn(&Fs) -> Outcome<A> + Send + 'static,
        reply: impl FnOnce(Result<A, Errno>) + Send + 'static,
    ) {
        go(&self.shared, Simple { op, reply, purpose: Purpose::Use });
    }

    /// As `answer`, and the audit log is told.
    fn watched<A: 'static>(
        &self,
        watch: Option<Watch>,
        op: impl Fn(&Fs) -> Outcome<A> + Send + 'static,
        reply: impl FnOnce(Result<A, Errno>) + Send + 'static,
    ) {
        let Some(watch) = watch else { return self.answer(op, reply) };
        self.answer(op, move |outcome| {
            watch.tell(outcome.as_ref().map(drop).map_err(|e| *e));
            reply(outcome);
        });
    }

    /// For what is served in every state: it touches no plaintext and no name.
    fn always<A>(&self, op: impl FnOnce(&Fs) -> Outcome<A>, reply: impl FnOnce(Result<A, Errno>)) {
        reply(op(&self.shared.fs).map_err(|fail| match fail {
            Fail::Errno(e) => e,
            Fail::Park(_) => Errno(libc::EIO),
        }));
    }

    fn open_flags(&self, how: OpenFor) -> FopenFlags {
        let mut flags = match self.cache {
            PageCache::Direct => FopenFlags::FOPEN_DIRECT_IO,
            _ => FopenFlags::FOPEN_KEEP_CACHE,
        };
        if how == OpenFor::Reading {
            flags |= FopenFlags::FOPEN_NOFLUSH;
        }
        flags
    }
}

fn caller(req: &Request, umask: u32) -> Caller {
    Caller { uid: req.uid(), gid: req.gid(), umask }
}

#[allow(clippy::too_many_arguments)] // The trait's own.
impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let mut wanted = vec![
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
        ];
        // The two belong together: with DONT_MASK alone, default ACLs would be applied twice.
        wanted.push(InitFlags::FUSE_POSIX_ACL | InitFlags::FUSE_DONT_MASK);
        if self.cache == PageCache::WriteBack {
            wanted.push(InitFlags::FUSE_WRITEBACK_CACHE);
        }
        for capability in wanted {
            if let Err(missing) = config.add_capabilities(capability) {
                log::warn!("this kernel's FUSE lacks {missing:?}");
            }
        }
        // Each returns the nearest possible value where the kernel allows less.
        let _ = config.set_max_write(MAX_WRITE);
        let _ = config.set_max_readahead(MAX_WRITE);
        let _ = config.set_max_background(BACKGROUND);
        let _ = config.set_congestion_threshold(BACKGROUND);
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let watch = self.shared.watch_entry(req, Operation::Lookup, (parent.0, name));
        let name = name.to_owned();
        self.watched(watch, move |fs| fs.lookup(parent.0, &name), reply!(reply, entry));
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.shared.fs.forget(ino.0, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        if ino == INodeNo::ROOT {
            return self.always(|fs| fs.getattr(ino.0), reply!(reply, attributes));
        }
        self.answer(move |fs| fs.getattr(ino.0), reply!(reply, attributes));
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
        let change = Change {
            mode,
            uid,
            gid,
            size,
            atime: atime.map(convert::set_time),
            mtime: mtime.map(convert::set_time),
            by: req.uid(),
        };
        let watch = size.and_then(|_| self.shared.watch(req, Operation::Truncate, ino.0));
        self.watched(watch, move |fs| fs.setattr(ino.0, &change), reply!(reply, attributes));
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        self.answer(
            move |fs| fs.readlink(ino.0),
            reply!(reply, |reply: ReplyData, target: std::ffi::OsString| {
                reply.data(target.as_bytes());
            }),
        );
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
        let (name, who) = (name.to_owned(), caller(req, umask));
        let rdev = convert::rdev_in(rdev);
        self.answer(
            move |fs| fs.make(parent.0, &name, Made::Node(mode, rdev), who),
            reply!(reply, entry),
        );
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
        let (name, who) = (name.to_owned(), caller(req, umask));
        self.answer(move |fs| fs.make(parent.0, &name, Made::Dir(mode), who), reply!(reply, entry));
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.answer(move |fs| fs.unlink(parent.0, &name), reply!(reply, done));
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.answer(move |fs| fs.rmdir(parent.0, &name), reply!(reply, done));
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (name, target, who) = (name.to_owned(), target.to_owned(), caller(req, 0));
        self.answer(
            move |fs| fs.make(parent.0, &name, Made::Symlink(target.as_os_str()), who),
            reply!(reply, entry),
        );
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let how = if flags.is_empty() {
            RenameHow::Over
        } else if flags == RenameFlags::RENAME_NOREPLACE {
            RenameHow::NoReplace
        } else if flags == RenameFlags::RENAME_EXCHANGE {
            RenameHow::Exchange
        } else {
            return reply.error(fuser::Errno::EINVAL);
        };
        let (name, newname) = (name.to_owned(), newname.to_owned());
        self.answer(
            move |fs| fs.rename((parent.0, &name), (newparent.0, &newname), how),
            reply!(reply, done),
        );
    }

    fn link(
        &self,
        req: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let (name, who) = (newname.to_owned(), caller(req, 0));
        self.answer(move |fs| fs.link(ino.0, newparent.0, &name, who), reply!(reply, entry));
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let how = open_for(flags);
        let open_flags = self.open_flags(how);
        let op = move |fs: &Fs| {
            fs.open(ino.0, how)?;
            fs.table().mark_paged(&*fs.node(ino.0)?);
            Ok(())
        };
        self.watched(
            self.shared.watch(req, Operation::Open, ino.0),
            op,
            reply!(reply, move |reply: ReplyOpen, ()| reply.opened(handle(how), open_flags)),
        );
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
        let watch = self.shared.watch_entry(req, Operation::Create, (parent.0, name));
        let (name, who) = (name.to_owned(), caller(req, umask));
        let open_flags = self.open_flags(OpenFor::Writing);
        let op = move |fs: &Fs| {
            let made = fs.create(parent.0, &name, mode, who);
            let attr = match made {
                // Made by somebody else since the kernel looked.
                Err(e) if e == errno(libc::EEXIST) && flags & libc::O_EXCL == 0 => {
                    let attr = fs.lookup(parent.0, &name)?;
                    if let Err(e) = fs.open(attr.0.ino, OpenFor::Writing) {
                        fs.forget(attr.0.ino, 1);
                        return Err(e);
                    }
                    attr
                }
                other => other?,
            };
            fs.table().mark_paged(&*fs.node(attr.0.ino)?);
            Ok(attr)
        };
        self.watched(
            watch,
            op,
            reply!(reply, move |reply: ReplyCreate, attr: Attr| {
                reply.created(&TTL, &convert::attr(&attr), Generation(0), WRITING, open_flags);
            }),
        );
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        go(&self.shared, Read { ino: ino.0, offset, size: size as usize, reply });
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let saving = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let purpose = if saving { Purpose::Save } else { Purpose::Use };
        let kill = if write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
            Kill::Privileges
        } else {
            Kill::Nothing
        };
        let watch = self.shared.watch_write(req, ino.0);
        let job = Write { ino: ino.0, offset, data: Vec::new(), purpose, kill, watch, reply };
        write(&self.shared, job, data);
    }

    /// Nothing waits here for a flush; the kernel saves dirty maps itself and then needs no
    /// answer any more.
    fn flush(&self, _r: &Request, _i: INodeNo, _f: FileHandle, _l: LockOwner, reply: ReplyEmpty) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.always(|fs| fs.release(ino.0, opened_for(fh)), reply!(reply, done));
    }

    fn fsync(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        let what = if datasync { SyncWhat::Data } else { SyncWhat::All };
        self.always(|fs| fs.fsync(ino.0, what), reply!(reply, done));
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.answer(
            move |fs| fs.open_listing(ino.0),
            reply!(reply, |reply: ReplyOpen, h| reply.opened(FileHandle(h), FopenFlags::empty())),
        );
    }

    fn readdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        from: u64,
        reply: ReplyDirectory,
    ) {
        go(&self.shared, ListNames { handle: fh.0, from, reply });
    }

    fn readdirplus(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        from: u64,
        reply: ReplyDirectoryPlus,
    ) {
        go(&self.shared, ListAttributes { handle: fh.0, from, reply });
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.shared.fs.close_listing(fh.0);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _data: bool,
        reply: ReplyEmpty,
    ) {
        self.always(|fs| fs.sync_dir(ino.0), reply!(reply, done));
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.always(
            Fs::statfs,
            reply!(reply, |reply: ReplyStatfs, s: crate::disk::FsStat| {
                let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
                reply.statfs(
                    s.blocks,
                    s.bfree,
                    s.bavail,
                    s.files,
                    s.ffree,
                    small(s.bsize),
                    small(s.namemax),
                    small(s.frsize),
                );
            }),
        );
    }

    fn setxattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let how = match flags {
            0 => XattrHow::Any,
            libc::XATTR_CREATE => XattrHow::Create,
            libc::XATTR_REPLACE => XattrHow::Replace,
            _ => return reply.error(fuser::Errno::EINVAL),
        };
        let (name, value) = (name.to_owned(), value.to_vec());
        self.answer(move |fs| fs.setxattr(ino.0, &name, &value, how), reply!(reply, done));
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.to_owned();
        self.answer(move |fs| Ok((fs.getxattr(ino.0, &name)?, size)), reply!(reply, xattr_reply));
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.answer(move |fs| Ok((fs.listxattr(ino.0)?, size)), reply!(reply, xattr_reply));
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.answer(move |fs| fs.removexattr(ino.0, &name), reply!(reply, done));
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
        const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
        const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
        const ZERO_KEEP: i32 = ZERO | KEEP;
        let op = move |fs: &Fs| match mode {
            0 => fs.allocate(ino.0, offset, length, Reach::Extend),
            KEEP => fs.allocate(ino.0, offset, length, Reach::KeepSize),
            PUNCH | ZERO_KEEP => fs.zero(ino.0, offset, length, Reach::KeepSize),
            ZERO => fs.zero(ino.0, offset, length, Reach::Extend),
            _ => Err(errno(libc::EOPNOTSUPP)),
        };
        self.watched(self.shared.watch_write(req, ino.0), op, reply!(reply, done));
    }

    fn lseek(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let to = match whence {
            libc::SEEK_DATA => Sought::Data,
            libc::SEEK_HOLE => Sought::Hole,
            _ => return reply.error(fuser::Errno::EINVAL),
        };
        let op = move |fs: &Fs| {
            let from = u64::try_from(offset).map_err(|_| errno(libc::ENXIO))?;
            let at = fs.seek(ino.0, from, to)?;
            i64::try_from(at).map_err(|_| errno(libc::EOVERFLOW))
        };
        self.answer(op, reply!(reply, |reply: ReplyLseek, at| reply.offset(at)));
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
        // The reply is 32 bits wide; callers go on from a short copy.
        let len = len.min(1 << 30);
        let op = move |fs: &Fs| {
            let n = fs.copy((ino_in.0, offset_in), (ino_out.0, offset_out), len)?;
            u32::try_from(n).map_err(|_| errno(libc::EOVERFLOW))
        };
        let watch = self.shared.watch_write(req, ino_out.0);
        self.watched(watch, op, reply!(reply, |reply: ReplyWrite, n| reply.written(n)));
    }
}
