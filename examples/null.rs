//! A filesystem that does nothing, on fuser, for `scripts/race`: files at its root take what is
//! written, give zeros, and two of them are always there. Its times are what the kernel, FUSE and fuser cost by themselves,
//! under the same settings as kmsfs over /dev/fuse.
//!
//! usage: null MOUNTPOINT (as root); it ends when it is unmounted.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, SessionACL,
    TimeOrNow, WriteFlags,
};

const TTL: Duration = Duration::from_secs(60);
const MAX_WRITE: usize = 1 << 20;

/// Names and sizes: the file at place `n` is inode `n + 2`.
#[derive(Default)]
struct Files {
    names: BTreeMap<OsString, usize>,
    sizes: Vec<u64>,
}

struct Null {
    files: Mutex<Files>,
    zeros: Vec<u8>,
}

fn attr(ino: u64, size: u64) -> FileAttr {
    let is_root = ino == 1;
    FileAttr {
        ino: INodeNo(ino),
        size,
        blocks: size.div_ceil(512),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if is_root { FileType::Directory } else { FileType::RegularFile },
        perm: if is_root { 0o777 } else { 0o666 },
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Null {
    /// Runs on the size of an inode; `None` where there is no such inode.
    fn with<T>(&self, ino: INodeNo, act: impl FnOnce(&mut u64) -> T) -> Option<T> {
        if ino.0 == 1 {
            return Some(act(&mut 0));
        }
        let at = usize::try_from(ino.0).ok()?.checked_sub(2)?;
        self.files.lock().ok()?.sizes.get_mut(at).map(act)
    }
}

#[allow(clippy::too_many_arguments)] // The trait's own.
impl Filesystem for Null {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let _ = config.add_capabilities(
            InitFlags::FUSE_HANDLE_KILLPRIV_V2
                | InitFlags::FUSE_BIG_WRITES
                | InitFlags::FUSE_ASYNC_READ
                | InitFlags::FUSE_MAX_PAGES,
        );
        let _ = config.set_max_write(1 << 20);
        let _ = config.set_max_background(64);
        Ok(())
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let files = self.files.lock().expect("no holder panics");
        match files.names.get(name) {
            Some(at) => reply.entry(&TTL, &attr(*at as u64 + 2, files.sizes[*at]), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.with(ino, |size| *size) {
            Some(size) => reply.attr(&TTL, &attr(ino.0, size)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let cut = |old: &mut u64| {
            *old = size.unwrap_or(*old);
            *old
        };
        match self.with(ino, cut) {
            Some(size) => reply.attr(&TTL, &attr(ino.0, size)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn create(
        &self,
        _: &Request,
        _: INodeNo,
        name: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let mut files = self.files.lock().expect("no holder panics");
        let at = files.sizes.len();
        files.sizes.push(0);
        files.names.insert(name.to_owned(), at);
        let (attr, flags) = (attr(at as u64 + 2, 0), FopenFlags::FOPEN_KEEP_CACHE);
        reply.created(&TTL, &attr, Generation(0), FileHandle(0), flags);
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let left = self.with(ino, |size| size.saturating_sub(offset)).unwrap_or(0);
        let len = (size as usize).min(self.zeros.len());
        reply.data(&self.zeros[..usize::try_from(left).unwrap_or(len).min(len)]);
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let end = offset + data.len() as u64;
        match self.with(ino, |size| *size = end.max(*size)) {
            Some(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }
}

fn main() -> io::Result<()> {
    let at =
        std::env::args_os().nth(1).ok_or_else(|| io::Error::other("usage: null MOUNTPOINT"))?;
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("null".to_owned())];
    config.acl = SessionACL::All;
    config.n_threads = Some(4);
    config.clone_fd = true;
    // The race mounts anew before it reads.
    let names = [("big", 1 << 30), ("small", 32 << 20)];
    let mut files = Files::default();
    for (at, (name, size)) in names.into_iter().enumerate() {
        files.names.insert(name.into(), at);
        files.sizes.push(size);
    }
    let null = Null { files: Mutex::new(files), zeros: vec![0; MAX_WRITE] };
    fuser::mount(null, at, &config)
}
