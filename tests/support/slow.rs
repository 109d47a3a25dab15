//! A slow disk: a FUSE filesystem that passes everything on to a folder, and takes its time for
//! each read, write, sync, listing, seek and reservation. Nothing is cached above it. It can be told
//! to lack something that others have.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, SessionACL, TimeOrNow, WriteFlags,
};
use rustix::fs::{self as rfs, AtFlags, CWD, FallocateFlags, Mode, OFlags};

use super::role::{Role, Stamps};

/// The first slot of a file of stamps: microseconds that a call takes.
const DELAY: usize = 0;
/// The next: the longest name in bytes, where not 255.
const LONGEST: usize = 1;
/// And whether there are no symbolic links, and whether upper and lower case are one.
const NO_LINKS: usize = 2;
const FOLDS: usize = 3;
/// How often a file was synced.
const SYNCS: usize = 4;
const TTL: Duration = Duration::ZERO;

type Io<T> = std::io::Result<T>;

struct Slow {
    delay: Stamps,
    nodes: Mutex<HashMap<u64, OwnedFd>>,
    files: Mutex<(HashMap<u64, std::sync::Arc<File>>, u64)>,
}

fn kind_of(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

fn attr(stat: &rfs::Stat, ino: u64) -> FileAttr {
    let time = |s: i64, n| UNIX_EPOCH + Duration::new(s.unsigned_abs(), u32::try_from(n).unwrap());
    FileAttr {
        ino: INodeNo(ino),
        size: stat.st_size.unsigned_abs(),
        blocks: stat.st_blocks.unsigned_abs(),
        atime: time(stat.st_atime, stat.st_atime_nsec),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        crtime: UNIX_EPOCH,
        kind: kind_of(stat.st_mode),
        perm: (stat.st_mode & 0o7777) as u16,
        nlink: u32::try_from(stat.st_nlink).unwrap_or(1),
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: u32::try_from(stat.st_rdev).unwrap_or(0),
        blksize: 4096,
        flags: 0,
    }
}

impl Slow {
    /// A delay that is made shorter meanwhile ends sooner.
    fn wait(&self) {
        let start = Instant::now();
        loop {
            let delay = Duration::from_micros(self.delay.get(DELAY));
            let Some(rest) = delay.checked_sub(start.elapsed()) else { return };
            std::thread::sleep(rest.min(Duration::from_millis(50)));
        }
    }

    /// A path that leads to an inode whatever happens to its names.
    fn path(&self, ino: INodeNo) -> Io<PathBuf> {
        let nodes = self.nodes.lock().expect("no holder panics");
        let fd =
            nodes.get(&ino.0).ok_or_else(|| std::io::Error::from_raw_os_error(libc::ESTALE))?;
        Ok(PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())))
    }

    fn longest(&self) -> usize {
        match self.delay.get(LONGEST) {
            0 => 255,
            longest => usize::try_from(longest).expect("small"),
        }
    }

    fn at(&self, parent: INodeNo, name: &OsStr) -> Io<PathBuf> {
        if name.len() > self.longest() {
            return Err(std::io::Error::from_raw_os_error(libc::ENAMETOOLONG));
        }
        if self.delay.get(FOLDS) != 0 {
            return Ok(self.path(parent)?.join(name.to_ascii_lowercase()));
        }
        Ok(self.path(parent)?.join(name))
    }

    fn enter(&self, parent: INodeNo, name: &OsStr) -> Io<FileAttr> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rfs::open(self.at(parent, name)?, flags, Mode::empty())?;
        let stat = rfs::fstat(&fd)?;
        self.nodes.lock().expect("no holder panics").entry(stat.st_ino).or_insert(fd);
        Ok(attr(&stat, stat.st_ino))
    }

    fn attr(&self, ino: INodeNo) -> Io<FileAttr> {
        let nodes = self.nodes.lock().expect("no holder panics");
        let fd =
            nodes.get(&ino.0).ok_or_else(|| std::io::Error::from_raw_os_error(libc::ESTALE))?;
        Ok(attr(&rfs::fstat(fd.as_fd())?, ino.0))
    }

    fn keep(&self, file: File) -> FileHandle {
        let mut files = self.files.lock().expect("no holder panics");
        files.1 += 1;
        let handle = files.1;
        files.0.insert(handle, std::sync::Arc::new(file));
        FileHandle(handle)
    }

    fn file(&self, handle: FileHandle) -> Io<std::sync::Arc<File>> {
        let files = self.files.lock().expect("no holder panics");
        let found = files.0.get(&handle.0).cloned();
        found.ok_or_else(|| std::io::Error::from_raw_os_error(libc::EBADF))
    }

    fn open_at(&self, path: &Path, flags: i32, mode: u32) -> Io<FileHandle> {
        let wanted = OFlags::from_bits_retain(flags.cast_unsigned()) & !OFlags::NOFOLLOW;
        let fd = rfs::open(path, wanted | OFlags::CLOEXEC, Mode::from_raw_mode(mode))?;
        Ok(self.keep(File::from(fd)))
    }
}

fn outcome<T>(act: impl FnOnce() -> Io<T>) -> Io<T> {
    act()
}

/// Replies with an outcome.
macro_rules! reply {
    ($reply:ident, $outcome:expr, $ok:expr) => {
        match outcome(|| $outcome) {
            Ok(done) => $ok($reply, done),
            Err(e) => $reply.error(Errno::from(e)),
        }
    };
}

fn empty(reply: ReplyEmpty, (): ()) {
    reply.ok();
}

fn entry(reply: ReplyEntry, attr: FileAttr) {
    reply.entry(&TTL, &attr, Generation(0));
}

fn xattr(reply: ReplyXattr, (value, room): (Vec<u8>, u32)) {
    match (u32::try_from(value.len()).expect("small"), room) {
        (len, 0) => reply.size(len),
        (len, room) if len > room => reply.error(Errno::ERANGE),
        _ => reply.data(&value),
    }
}

#[allow(clippy::too_many_arguments)] // The trait's own.
impl Filesystem for Slow {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        reply!(reply, self.enter(parent, name), entry);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply!(reply, self.attr(ino), |r: ReplyAttr, a| r.attr(&TTL, &a));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
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
        let set = || {
            let path = self.path(ino)?;
            if let Some(size) = size {
                self.wait();
                File::options().write(true).open(&path)?.set_len(size)?;
            }
            if uid.is_some() || gid.is_some() {
                std::os::unix::fs::chown(&path, uid, gid)?;
            }
            if let Some(mode) = mode {
                rfs::chmod(&path, Mode::from_raw_mode(mode))?;
            }
            self.attr(ino)
        };
        reply!(reply, set(), |r: ReplyAttr, a| r.attr(&TTL, &a));
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        let read = || {
            let nodes = self.nodes.lock().expect("no holder panics");
            let fd = nodes.get(&ino.0).ok_or(rustix::io::Errno::STALE)?;
            Ok(rfs::readlinkat(fd, "", Vec::new())?.into_bytes())
        };
        reply!(reply, read(), |r: ReplyData, bytes: Vec<u8>| r.data(&bytes));
    }

    fn mknod(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let make = || {
            let kind = rfs::FileType::from_raw_mode(mode);
            let mode = Mode::from_raw_mode(mode & !umask & 0o7777);
            rfs::mknodat(CWD, self.at(parent, name)?, kind, mode, rdev.into())?;
            self.enter(parent, name)
        };
        reply!(reply, make(), entry);
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let make = || {
            rfs::mkdir(self.at(parent, name)?, Mode::from_raw_mode(mode & !umask))?;
            self.enter(parent, name)
        };
        reply!(reply, make(), entry);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply!(reply, fs::remove_file(self.at(parent, name)?), empty);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply!(reply, fs::remove_dir(self.at(parent, name)?), empty);
    }

    fn symlink(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let make = || {
            if self.delay.get(NO_LINKS) != 0 {
                return Err(std::io::Error::from_raw_os_error(libc::EPERM));
            }
            std::os::unix::fs::symlink(target, self.at(parent, name)?)?;
            self.enter(parent, name)
        };
        reply!(reply, make(), entry);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        new: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let rename = || {
            let flags = rfs::RenameFlags::from_bits_retain(flags.bits());
            Ok(rfs::renameat_with(CWD, self.at(parent, name)?, CWD, self.at(to, new)?, flags)?)
        };
        reply!(reply, rename(), empty);
    }

    fn link(&self, _: &Request, ino: INodeNo, to: INodeNo, new: &OsStr, reply: ReplyEntry) {
        let link = || {
            let flags = AtFlags::SYMLINK_FOLLOW;
            rfs::linkat(CWD, self.path(ino)?, CWD, self.at(to, new)?, flags)?;
            self.enter(to, new)
        };
        reply!(reply, link(), entry);
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let open = || self.open_at(&self.path(ino)?, flags.0 & !libc::O_DIRECT, 0);
        let opened = |r: ReplyOpen, handle| r.opened(handle, FopenFlags::FOPEN_DIRECT_IO);
        reply!(reply, open(), opened);
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let create = || {
            let flags = (flags & !libc::O_DIRECT) | libc::O_CREAT;
            let handle = self.open_at(&self.at(parent, name)?, flags, mode & !umask & 0o7777)?;
            Ok((self.enter(parent, name)?, handle))
        };
        let created = |r: ReplyCreate, (attr, handle): (FileAttr, FileHandle)| {
            r.created(&TTL, &attr, Generation(0), handle, FopenFlags::FOPEN_DIRECT_IO);
        };
        reply!(reply, create(), created);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = || {
            self.wait();
            let mut bytes = vec![0; size as usize];
            let n = self.file(handle)?.read_at(&mut bytes, offset)?;
            bytes.truncate(n);
            Ok(bytes)
        };
        reply!(reply, read(), |r: ReplyData, bytes: Vec<u8>| r.data(&bytes));
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let write = || {
            self.wait();
            self.file(handle)?.write_at(data, offset)
        };
        let written = |r: ReplyWrite, n: usize| r.written(u32::try_from(n).expect("a request's"));
        reply!(reply, write(), written);
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.files.lock().expect("no holder panics").0.remove(&handle.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        self.wait();
        {
            // Several threads serve.
            let _one = self.files.lock().expect("no holder panics");
            self.delay.set(SYNCS, self.delay.get(SYNCS) + 1);
        }
        reply!(reply, self.file(handle)?.sync_all(), empty);
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.wait();
        reply.ok();
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.wait();
        // The positions of the filesystem beneath: a removal meanwhile moves none.
        let mut list = || {
            let dir = rfs::open(self.path(ino)?, OFlags::DIRECTORY, Mode::empty())?;
            rfs::seek(&dir, rfs::SeekFrom::Start(offset))?;
            let mut buf = Vec::with_capacity(32 << 10);
            let mut raw = rfs::RawDir::new(&dir, buf.spare_capacity_mut());
            while let Some(entry) = raw.next() {
                let entry = entry?;
                let name = OsString::from_vec(entry.file_name().to_bytes().to_vec());
                let kind = kind_of(entry.file_type().as_raw_mode());
                if reply.add(INodeNo(entry.ino()), entry.next_entry_cookie(), kind, name) {
                    break;
                }
            }
            Ok(())
        };
        let listed: Io<()> = list();
        match listed {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(Errno::from(e)),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let longest = u32::try_from(self.longest()).expect("small");
        reply.statfs(1 << 20, 1 << 19, 1 << 19, 1 << 20, 1 << 19, 4096, longest, 4096);
    }

    fn setxattr(
        &self,
        _: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        self.wait();
        let flags = rfs::XattrFlags::from_bits_retain(flags.cast_unsigned());
        reply!(reply, Ok(rfs::setxattr(self.path(ino)?, name, value, flags)?), empty);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, room: u32, reply: ReplyXattr) {
        let get = || {
            let mut value = vec![0u8; 65_536];
            let n = rfs::getxattr(self.path(ino)?, name, &mut value[..])?;
            value.truncate(n);
            Ok((value, room))
        };
        reply!(reply, get(), xattr);
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, room: u32, reply: ReplyXattr) {
        let list = || {
            let mut names = vec![0u8; 65_536];
            let n = rfs::listxattr(self.path(ino)?, &mut names[..])?;
            names.truncate(n);
            Ok((names, room))
        };
        reply!(reply, list(), xattr);
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.wait();
        reply!(reply, Ok(rfs::removexattr(self.path(ino)?, name)?), empty);
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.wait();
        let flags = FallocateFlags::from_bits_retain(mode.cast_unsigned());
        reply!(reply, Ok(rfs::fallocate(&*self.file(handle)?, flags, offset, length)?), empty);
    }

    fn lseek(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.wait();
        let seek = || {
            let from = match whence {
                libc::SEEK_HOLE => rfs::SeekFrom::Hole(offset.unsigned_abs()),
                _ => rfs::SeekFrom::Data(offset.unsigned_abs()),
            };
            Ok(rfs::seek(&*self.file(handle)?, from)?)
        };
        reply!(reply, seek(), |r: ReplyLseek, at: u64| r.offset(at.cast_signed()));
    }
}

/// The role of the process that serves a slow disk over `folder`, mounted on `<folder>.slow`.
pub fn serve(folder: &Path, stamps: &Path) {
    let root = rfs::open(folder, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).expect("there");
    let slow = Slow {
        delay: Stamps::open(stamps),
        nodes: Mutex::new(HashMap::from([(1, root)])),
        files: Mutex::default(),
    };
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("slow".to_owned())];
    config.acl = SessionACL::All;
    // It is slow, not narrow: many calls may wait side by side.
    config.n_threads = Some(32);
    config.clone_fd = true;
    fuser::mount(slow, mounted_at(folder), &config).expect("served");
}

fn mounted_at(folder: &Path) -> PathBuf {
    let mut name = folder.as_os_str().to_owned();
    name.push(".slow");
    PathBuf::from(name)
}

/// A slow disk; unmounted when dropped.
pub struct SlowDisk {
    folder: tempfile::TempDir,
    delay: Stamps,
    _server: Role,
}

impl SlowDisk {
    /// One that is quick until it is told otherwise; `entry` is the ignored test of this binary
    /// that calls [`serve`] in the role `slow`.
    pub fn new(entry: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("kmsfs-slow-").tempdir().expect("a folder");
        let (beneath, stamps) = (folder.path().join("disk"), folder.path().join("delay"));
        fs::create_dir(&beneath).expect("made");
        fs::create_dir(mounted_at(&beneath)).expect("made");
        let device = |path: &Path| rfs::stat(path).map(|s| s.st_dev);
        let before = device(folder.path()).expect("there");
        let server = Role::start(entry, "slow", &beneath, &stamps);
        let disk = Self { delay: Stamps::open(&stamps), folder, _server: server };
        super::wait_for("the slow disk", super::PATIENCE, || {
            device(&disk.path()).is_ok_and(|device| device != before)
        });
        disk
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        mounted_at(&self.folder.path().join("disk"))
    }

    /// Names have at most so many bytes from now on.
    pub fn shorten_names(&self, longest: u64) {
        self.delay.set(LONGEST, longest);
    }

    /// Symbolic links are refused from now on.
    pub fn refuse_links(&self) {
        self.delay.set(NO_LINKS, 1);
    }

    /// Upper and lower case are one from now on.
    pub fn fold_case(&self) {
        self.delay.set(FOLDS, 1);
    }

    /// How often any file in it has been synced.
    pub fn syncs(&self) -> u64 {
        self.delay.get(SYNCS)
    }

    /// How long each call takes from now on.
    pub fn set_delay(&self, delay: Duration) {
        self.delay.set(DELAY, u64::try_from(delay.as_micros()).expect("short"));
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        self.set_delay(Duration::ZERO);
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).output();
    }
}
