//! Requests for what files hold.

use std::ffi::OsStr;

use super::{Asked, Soon};
use crate::fs::{Found, Fs, OpenFor, Reach, Sought, SyncWhat, errno};
use crate::fuse::content::{Copied, Read, Sink, Source, Write, WriteWords, write};
use crate::fuse::job::go;
use crate::fuse::reply::Reply;
use crate::fuse::terms::{Opened, opened_for, user_of};
use crate::keys::audit::Operation;
use crate::metrics::RequestKind;

impl<'a> Asked<'a> {
    /// `flags` are those of open(2).
    pub(in crate::fuse) fn open<R: Reply<Opened>>(
        self,
        ino: u64,
        flags: i32,
        reply: R,
    ) -> Soon<'a, R::Sent> {
        let reading = flags & libc::O_ACCMODE == libc::O_RDONLY;
        let how = if reading { OpenFor::Reading } else { OpenFor::Writing };
        let user = self.who.uid;
        let opened = self.opened(how);
        let op = move |fs: &Fs| {
            fs.room().take(user)?;
            fs.open(ino, how).inspect_err(|_| fs.room().give_back(user))?;
            fs.table().mark_paged(&*fs.node(ino)?);
            Ok(opened)
        };
        self.watched(
            RequestKind::Open,
            self.shared().watch(self.who, Operation::Open, ino),
            op,
            reply,
        )
    }

    /// `flags` are those of open(2).
    pub(in crate::fuse) fn create<R: Reply<(Found, Opened)>>(
        self,
        (parent, name): (u64, &OsStr),
        (mode, umask, flags): (u32, u32, i32),
        reply: R,
    ) -> Soon<'a, R::Sent> {
        let watch = self.shared().watch_entry(self.who, Operation::Create, (parent, name));
        let (name, by) = (name.to_owned(), self.who.caller(umask));
        let opened = self.opened(OpenFor::Writing);
        let make = move |fs: &Fs| {
            let made = fs.create(parent, &name, mode, by);
            let found = match made {
                // Made by somebody else since the kernel looked.
                Err(e) if e == errno(libc::EEXIST) && flags & libc::O_EXCL == 0 => {
                    let found = fs.lookup(parent, &name)?;
                    if let Err(e) = fs.open(found.attr.0.ino, OpenFor::Writing) {
                        fs.forget(found.attr.0.ino, 1);
                        return Err(e);
                    }
                    found
                }
                other => other?,
            };
            fs.table().mark_paged(&*fs.node(found.attr.0.ino)?);
            Ok((found, opened))
        };
        let op = move |fs: &Fs| {
            fs.room().take(by.uid)?;
            make(fs).inspect_err(|_| fs.room().give_back(by.uid))
        };
        self.watched(RequestKind::Create, watch, op, reply)
    }

    /// A file without a name, in the filesystem of a directory.
    pub(in crate::fuse) fn tmpfile<R: Reply<(Found, Opened)>>(
        self,
        parent: u64,
        (mode, umask): (u32, u32),
        reply: R,
    ) -> Soon<'a, R::Sent> {
        let (by, opened) = (self.who.caller(umask), self.opened(OpenFor::Writing));
        let op = move |fs: &Fs| {
            fs.room().take(by.uid)?;
            let made = fs.create_nameless(parent, mode, by);
            let found = made.inspect_err(|_| fs.room().give_back(by.uid))?;
            fs.table().mark_paged(&*fs.node(found.attr.0.ino)?);
            Ok((found, opened))
        };
        self.answer(RequestKind::Tmpfile, op, reply)
    }

    pub(in crate::fuse) fn read<S: Sink>(
        self,
        ino: u64,
        offset: u64,
        size: u32,
        sink: S,
    ) -> Soon<'a, S::Sent> {
        let (size, who) = (size as usize, self.who);
        go(
            self.shared(),
            Read { ino, offset, size, who, sink },
            self.arrived(RequestKind::Read),
            self.start,
        )
    }

    /// `data` is copied only where the write has to wait.
    pub(in crate::fuse) fn write<R: Reply<u32>>(
        self,
        at: (u64, u64),
        words: WriteWords,
        data: &[u8],
        reply: R,
    ) -> Soon<'a, R::Sent> {
        let source = Copied { data: Vec::new(), reply };
        write(
            self.shared(),
            self.write_job(at, words, source),
            data,
            self.arrived(RequestKind::Write),
        )
    }

    /// A write whose content its source keeps until the reply.
    pub(in crate::fuse) fn write_from<S: Source>(
        self,
        at: (u64, u64),
        words: WriteWords,
        source: S,
    ) -> Soon<'a, S::Sent> {
        go(
            self.shared(),
            self.write_job(at, words, source),
            self.arrived(RequestKind::Write),
            self.start,
        )
    }

    fn write_job<S>(self, (ino, offset): (u64, u64), words: WriteWords, source: S) -> Write<S> {
        let watch = self.shared().watch_write(self.who, ino);
        let (stage, kill) = words.meaning(self.requests.cache);
        Write { ino, offset, who: self.who, kill, stage, watch, source }
    }

    pub(in crate::fuse) fn release<R: Reply<()>>(
        self,
        ino: u64,
        handle: u64,
        reply: R,
    ) -> Soon<'a, R::Sent> {
        let op = move |fs: &Fs| {
            fs.room().give_back(user_of(handle));
            fs.release(ino, opened_for(handle))
        };
        self.always(RequestKind::Release, op, reply)
    }

    pub(in crate::fuse) fn fsync<R: Reply<()>>(
        self,
        ino: u64,
        what: SyncWhat,
        reply: R,
    ) -> Soon<'a, R::Sent> {
        self.always(RequestKind::Fsync, move |fs| fs.fsync(ino, what), reply)
    }

    /// `mode` is that of fallocate(2).
    pub(in crate::fuse) fn fallocate<R: Reply<()>>(
        self,
        ino: u64,
        (offset, length, mode): (u64, u64, i32),
        reply: R,
    ) -> Soon<'a, R::Sent> {
        const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
        const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
        const ZERO_KEEP: i32 = ZERO | KEEP;
        let (mut at, who) = (offset, self.who);
        let op = move |fs: &Fs| {
            let end = offset.checked_add(length).ok_or(errno(libc::EFBIG))?;
            fs.drop_set_ids_unless_privileged(ino, who)?;
            match mode {
                0 => fs.allocate(ino, &mut at, end, Reach::Extend),
                KEEP => fs.allocate(ino, &mut at, end, Reach::KeepSize),
                PUNCH | ZERO_KEEP => fs.zero(ino, &mut at, end, Reach::KeepSize),
                ZERO => fs.zero(ino, &mut at, end, Reach::Extend),
                _ => Err(errno(libc::EOPNOTSUPP)),
            }
        };
        self.watched_change(
            RequestKind::Fallocate,
            self.shared().watch_write(self.who, ino),
            op,
            reply,
        )
    }

    /// `whence` is that of lseek(2).
    pub(in crate::fuse) fn lseek<R: Reply<i64>>(
        self,
        ino: u64,
        offset: i64,
        whence: i32,
        reply: R,
    ) -> Soon<'a, R::Sent> {
        let to = match whence {
            libc::SEEK_DATA => Sought::Data,
            libc::SEEK_HOLE => Sought::Hole,
            _ => return self.refuse(RequestKind::Lseek, libc::EINVAL, reply),
        };
        let mut from = u64::try_from(offset);
        let op = move |fs: &Fs| {
            let from = from.as_mut().map_err(|_| errno(libc::ENXIO))?;
            let at = fs.seek(ino, from, to)?;
            i64::try_from(at).map_err(|_| errno(libc::EOVERFLOW))
        };
        self.answer(RequestKind::Lseek, op, reply)
    }

    pub(in crate::fuse) fn copy_file_range<R: Reply<u32>>(
        self,
        from: (u64, u64),
        to: (u64, u64),
        len: u64,
        reply: R,
    ) -> Soon<'a, R::Sent> {
        // The reply is 32 bits wide; callers go on from a short copy.
        let (len, who) = (len.min(1 << 30), self.who);
        let op = move |fs: &Fs| {
            fs.drop_set_ids_unless_privileged(to.0, who)?;
            let n = fs.copy(from, to, len)?;
            u32::try_from(n).map_err(|_| errno(libc::EOVERFLOW))
        };
        self.watched_change(
            RequestKind::CopyFileRange,
            self.shared().watch_write(self.who, to.0),
            op,
            reply,
        )
    }
}
