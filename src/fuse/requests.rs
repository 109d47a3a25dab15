//! Each kernel request in a few lines: an operation of [`Fs`], and what is replied. It knows no
//! transport: who calls it has taken the request apart, and says how an answer is sent.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::job::{Copied, Kill, Read, Shared, Simple, Sink, Source, Write, go, write};
use super::listing::{List, Listing};
use super::terms::{
    Attribute, Opened, PageCache, Reply, WRITING, Who, attribute, handle, opened_for,
};
use super::watch::Watch;
use crate::disk::{FsStat, XattrHow};
use crate::fs::{
    Attr, Change, Errno, Fail, Fs, Made, OpenFor, Outcome, Reach, RenameHow, Sought, SyncWhat,
    errno,
};
use crate::keys::Purpose;
use crate::keys::audit::Operation;

/// The requests of one mount.
pub(super) struct Requests {
    pub(super) shared: Arc<Shared>,
    pub(super) cache: PageCache,
    /// The kernel has been told of rings, and waits for them.
    pub(super) over_rings: AtomicBool,
}

impl Requests {
    fn answer<A: 'static>(
        &self,
        op: impl Fn(&Fs) -> Outcome<A> + Send + 'static,
        reply: impl Reply<A>,
    ) {
        go(&self.shared, Simple { op, reply, purpose: Purpose::Use });
    }

    /// As `answer`, and the audit log is told.
    fn watched<A: 'static>(
        &self,
        watch: Option<Watch>,
        op: impl Fn(&Fs) -> Outcome<A> + Send + 'static,
        reply: impl Reply<A>,
    ) {
        let Some(watch) = watch else { return self.answer(op, reply) };
        self.answer(op, move |outcome: Result<A, Errno>| {
            watch.tell(outcome.as_ref().map(drop).map_err(|e| *e));
            reply(outcome);
        });
    }

    /// For what is served in every state: it touches no plaintext and no name.
    fn always<A>(&self, op: impl FnOnce(&Fs) -> Outcome<A>, reply: impl Reply<A>) {
        reply(op(&self.shared.fs).map_err(|fail| match fail {
            Fail::Errno(e) => e,
            Fail::Park(_) => Errno(libc::EIO),
        }));
    }

    pub(super) fn lookup(&self, who: Who, parent: u64, name: &OsStr, reply: impl Reply<Attr>) {
        let watch = self.shared.watch_entry(who, Operation::Lookup, (parent, name));
        let name = name.to_owned();
        self.watched(watch, move |fs| fs.lookup(parent, &name), reply);
    }

    pub(super) fn getattr(&self, ino: u64, reply: impl Reply<Attr>) {
        if ino == crate::fs::ROOT {
            return self.always(|fs| fs.getattr(ino), reply);
        }
        self.answer(move |fs| fs.getattr(ino), reply);
    }

    pub(super) fn setattr(&self, who: Who, ino: u64, change: Change, reply: impl Reply<Attr>) {
        let watch = change.size.and_then(|_| self.shared.watch(who, Operation::Truncate, ino));
        self.watched(watch, move |fs| fs.setattr(ino, &change), reply);
    }

    pub(super) fn readlink(&self, ino: u64, reply: impl Reply<OsString>) {
        self.answer(move |fs| fs.readlink(ino), reply);
    }

    /// `rdev` is a device number as stat(2) gives it.
    pub(super) fn mknod(
        &self,
        who: Who,
        (parent, name): (u64, &OsStr),
        (mode, umask, rdev): (u32, u32, u64),
        reply: impl Reply<Attr>,
    ) {
        let (name, by) = (name.to_owned(), who.caller(umask));
        self.answer(move |fs| fs.make(parent, &name, Made::Node(mode, rdev), by), reply);
    }

    pub(super) fn mkdir(
        &self,
        who: Who,
        (parent, name): (u64, &OsStr),
        (mode, umask): (u32, u32),
        reply: impl Reply<Attr>,
    ) {
        let (name, by) = (name.to_owned(), who.caller(umask));
        self.answer(move |fs| fs.make(parent, &name, Made::Dir(mode), by), reply);
    }

    pub(super) fn symlink(
        &self,
        who: Who,
        (parent, name): (u64, &OsStr),
        target: &OsStr,
        reply: impl Reply<Attr>,
    ) {
        let (name, target, by) = (name.to_owned(), target.to_owned(), who.caller(0));
        self.answer(move |fs| fs.make(parent, &name, Made::Symlink(&target), by), reply);
    }

    pub(super) fn unlink(&self, parent: u64, name: &OsStr, reply: impl Reply<()>) {
        let name = name.to_owned();
        self.answer(move |fs| fs.unlink(parent, &name), reply);
    }

    pub(super) fn rmdir(&self, parent: u64, name: &OsStr, reply: impl Reply<()>) {
        let name = name.to_owned();
        self.answer(move |fs| fs.rmdir(parent, &name), reply);
    }

    /// `flags` are those of renameat2(2).
    pub(super) fn rename(
        &self,
        (parent, name): (u64, &OsStr),
        (to_parent, to_name): (u64, &OsStr),
        flags: u32,
        reply: impl Reply<()>,
    ) {
        let how = match flags {
            0 => RenameHow::Over,
            libc::RENAME_NOREPLACE => RenameHow::NoReplace,
            libc::RENAME_EXCHANGE => RenameHow::Exchange,
            _ => return reply(Err(Errno(libc::EINVAL))),
        };
        let (name, to_name) = (name.to_owned(), to_name.to_owned());
        self.answer(move |fs| fs.rename((parent, &name), (to_parent, &to_name), how), reply);
    }

    pub(super) fn link(
        &self,
        who: Who,
        ino: u64,
        (parent, name): (u64, &OsStr),
        reply: impl Reply<Attr>,
    ) {
        let (name, by) = (name.to_owned(), who.caller(0));
        self.answer(move |fs| fs.link(ino, parent, &name, by), reply);
    }

    /// `flags` are those of open(2).
    pub(super) fn open(&self, who: Who, ino: u64, flags: i32, reply: impl Reply<Opened>) {
        let reading = flags & libc::O_ACCMODE == libc::O_RDONLY;
        let how = if reading { OpenFor::Reading } else { OpenFor::Writing };
        let opened = Opened { handle: handle(how), flags: self.cache.open_flags(how) };
        let op = move |fs: &Fs| {
            fs.open(ino, how)?;
            fs.table().mark_paged(&*fs.node(ino)?);
            Ok(opened)
        };
        self.watched(self.shared.watch(who, Operation::Open, ino), op, reply);
    }

    /// `flags` are those of open(2).
    pub(super) fn create(
        &self,
        who: Who,
        (parent, name): (u64, &OsStr),
        (mode, umask, flags): (u32, u32, i32),
        reply: impl Reply<(Attr, Opened)>,
    ) {
        let watch = self.shared.watch_entry(who, Operation::Create, (parent, name));
        let (name, by) = (name.to_owned(), who.caller(umask));
        let opened = Opened { handle: WRITING, flags: self.cache.open_flags(OpenFor::Writing) };
        let op = move |fs: &Fs| {
            let made = fs.create(parent, &name, mode, by);
            let attr = match made {
                // Made by somebody else since the kernel looked.
                Err(e) if e == errno(libc::EEXIST) && flags & libc::O_EXCL == 0 => {
                    let attr = fs.lookup(parent, &name)?;
                    if let Err(e) = fs.open(attr.0.ino, OpenFor::Writing) {
                        fs.forget(attr.0.ino, 1);
                        return Err(e);
                    }
                    attr
                }
                other => other?,
            };
            fs.table().mark_paged(&*fs.node(attr.0.ino)?);
            Ok((attr, opened))
        };
        self.watched(watch, op, reply);
    }

    pub(super) fn read(&self, ino: u64, offset: u64, size: u32, sink: impl Sink) {
        go(&self.shared, Read { ino, offset, size: size as usize, sink });
    }

    /// `data` is copied only where the write has to wait.
    pub(super) fn write(
        &self,
        who: Who,
        (ino, offset): (u64, u64),
        how: (Purpose, Kill),
        data: &[u8],
        reply: impl Reply<u32>,
    ) {
        let source = Copied { data: Vec::new(), reply };
        write(&self.shared, self.write_job(who, (ino, offset), how, source), data);
    }

    /// A write whose content its source keeps until the reply.
    pub(super) fn write_from(
        &self,
        who: Who,
        at: (u64, u64),
        how: (Purpose, Kill),
        source: impl Source,
    ) {
        go(&self.shared, self.write_job(who, at, how, source));
    }

    fn write_job<S>(
        &self,
        who: Who,
        (ino, offset): (u64, u64),
        (purpose, kill): (Purpose, Kill),
        source: S,
    ) -> Write<S> {
        let watch = self.shared.watch_write(who, ino);
        Write { ino, offset, purpose, kill, watch, source }
    }

    pub(super) fn release(&self, ino: u64, handle: u64, reply: impl Reply<()>) {
        self.always(|fs| fs.release(ino, opened_for(handle)), reply);
    }

    pub(super) fn fsync(&self, ino: u64, what: SyncWhat, reply: impl Reply<()>) {
        self.always(|fs| fs.fsync(ino, what), reply);
    }

    pub(super) fn opendir(&self, ino: u64, reply: impl Reply<Opened>) {
        let op = move |fs: &Fs| Ok(Opened { handle: fs.open_listing(ino)?, flags: 0 });
        self.answer(op, reply);
    }

    pub(super) fn list(&self, handle: u64, from: u64, listing: impl Listing) {
        go(&self.shared, List { handle, from, listing });
    }

    pub(super) fn releasedir(&self, handle: u64, reply: impl Reply<()>) {
        self.shared.fs.close_listing(handle);
        reply(Ok(()));
    }

    pub(super) fn fsyncdir(&self, ino: u64, reply: impl Reply<()>) {
        self.always(|fs| fs.sync_dir(ino), reply);
    }

    pub(super) fn statfs(&self, reply: impl Reply<FsStat>) {
        self.always(Fs::statfs, reply);
    }

    /// `flags` are those of setxattr(2).
    pub(super) fn setxattr(
        &self,
        ino: u64,
        (name, value): (&OsStr, &[u8]),
        flags: i32,
        reply: impl Reply<()>,
    ) {
        let how = match flags {
            0 => XattrHow::Any,
            libc::XATTR_CREATE => XattrHow::Create,
            libc::XATTR_REPLACE => XattrHow::Replace,
            _ => return reply(Err(Errno(libc::EINVAL))),
        };
        let (name, value) = (name.to_owned(), value.to_vec());
        self.answer(move |fs| fs.setxattr(ino, &name, &value, how), reply);
    }

    pub(super) fn getxattr(&self, ino: u64, name: &OsStr, room: u32, reply: impl Reply<Attribute>) {
        let name = name.to_owned();
        self.answer(move |fs| attribute(fs.getxattr(ino, &name)?, room), reply);
    }

    pub(super) fn listxattr(&self, ino: u64, room: u32, reply: impl Reply<Attribute>) {
        self.answer(move |fs| attribute(fs.listxattr(ino)?, room), reply);
    }

    pub(super) fn removexattr(&self, ino: u64, name: &OsStr, reply: impl Reply<()>) {
        let name = name.to_owned();
        self.answer(move |fs| fs.removexattr(ino, &name), reply);
    }

    /// `mode` is that of fallocate(2).
    pub(super) fn fallocate(
        &self,
        who: Who,
        ino: u64,
        (offset, length, mode): (u64, u64, i32),
        reply: impl Reply<()>,
    ) {
        const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
        const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
        const ZERO_KEEP: i32 = ZERO | KEEP;
        let op = move |fs: &Fs| match mode {
            0 => fs.allocate(ino, offset, length, Reach::Extend),
            KEEP => fs.allocate(ino, offset, length, Reach::KeepSize),
            PUNCH | ZERO_KEEP => fs.zero(ino, offset, length, Reach::KeepSize),
            ZERO => fs.zero(ino, offset, length, Reach::Extend),
            _ => Err(errno(libc::EOPNOTSUPP)),
        };
        self.watched(self.shared.watch_write(who, ino), op, reply);
    }

    /// `whence` is that of lseek(2).
    pub(super) fn lseek(&self, ino: u64, offset: i64, whence: i32, reply: impl Reply<i64>) {
        let to = match whence {
            libc::SEEK_DATA => Sought::Data,
            libc::SEEK_HOLE => Sought::Hole,
            _ => return reply(Err(Errno(libc::EINVAL))),
        };
        let op = move |fs: &Fs| {
            let from = u64::try_from(offset).map_err(|_| errno(libc::ENXIO))?;
            let at = fs.seek(ino, from, to)?;
            i64::try_from(at).map_err(|_| errno(libc::EOVERFLOW))
        };
        self.answer(op, reply);
    }

    pub(super) fn copy_file_range(
        &self,
        who: Who,
        from: (u64, u64),
        to: (u64, u64),
        len: u64,
        reply: impl Reply<u32>,
    ) {
        // The reply is 32 bits wide; callers go on from a short copy.
        let len = len.min(1 << 30);
        let op = move |fs: &Fs| {
            let n = fs.copy(from, to, len)?;
            u32::try_from(n).map_err(|_| errno(libc::EOVERFLOW))
        };
        self.watched(self.shared.watch_write(who, to.0), op, reply);
    }
}
