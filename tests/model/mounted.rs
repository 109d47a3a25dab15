//! Scripts on a real mount.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path as StdPath, PathBuf};

use rustix::fs::{self as rfs, CWD, FallocateFlags, Mode, OFlags, RenameFlags, XattrFlags};

use crate::Target;
use crate::reference::value;
use crate::script::{Handle, Op, Path, Place, Replace, Set, attribute, target};
use crate::support::Mount;
use crate::tree::{Answer, Bytes, Kind, Stat, Tree};

/// A directory of its own in a mount.
pub struct Mounted {
    folder: tempfile::TempDir,
    open: BTreeMap<Handle, File>,
}

fn stat(meta: &fs::Metadata) -> Stat {
    let kind = match meta.file_type() {
        t if t.is_dir() => Kind::Dir,
        t if t.is_symlink() => Kind::Symlink,
        _ => Kind::File,
    };
    let of_dir = kind == Kind::Dir;
    let links = if of_dir { 0 } else { meta.nlink() };
    let size = if of_dir { 0 } else { meta.size() };
    Stat { kind, mode: meta.mode() & 0o7777, links, size }
}

fn names(list: &[u8]) -> Vec<String> {
    let list = String::from_utf8(list.to_vec()).expect("names of scripts");
    let mut names: Vec<String> = list.split_terminator('\0').map(str::to_owned).collect();
    names.sort();
    names
}

/// Room for whatever scripts make.
const ROOM: usize = 4096;

fn open_dir(path: &StdPath) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rfs::open(path, flags, Mode::empty())?.into())
}

fn open_file(path: &StdPath) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

fn get(
    place: Result<PathBuf, &File>,
    of_path: impl Fn(&StdPath, &mut [u8]) -> rustix::io::Result<usize>,
    of_file: impl Fn(&File, &mut [u8]) -> rustix::io::Result<usize>,
) -> io::Result<Vec<u8>> {
    let mut buf = vec![0; ROOM];
    let len = match place {
        Ok(path) => of_path(&path, &mut buf)?,
        Err(file) => of_file(file, &mut buf)?,
    };
    buf.truncate(len);
    Ok(buf)
}

impl Mounted {
    pub fn new(mount: &Mount<'_>) -> Self {
        let folder = tempfile::tempdir_in(mount.root()).expect("a folder");
        Self { folder, open: BTreeMap::new() }
    }

    fn path(&self, path: &Path) -> PathBuf {
        self.folder.path().join(path.to_string())
    }

    fn opened(&self, handle: Handle) -> io::Result<&File> {
        self.open.get(&handle).ok_or(io::Error::from_raw_os_error(libc::EBADF))
    }

    /// A path, or what is open.
    fn at(&self, place: &Place) -> io::Result<Result<PathBuf, &File>> {
        Ok(match place {
            Place::At(path) => Ok(self.path(path)),
            Place::Open(handle) => Err(self.opened(*handle)?),
        })
    }

    fn content<T>(&self, place: &Place, act: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
        match self.at(place)? {
            Ok(path) => act(&open_file(&path)?),
            Err(file) => act(file),
        }
    }

    fn try_run(&mut self, op: &Op) -> io::Result<Answer> {
        match op {
            Op::Mkdir(p, mode) => fs::DirBuilder::new().mode(*mode).create(self.path(p))?,
            Op::Create(p, mode) => {
                let mut how = OpenOptions::new();
                how.read(true).write(true).create_new(true).mode(*mode).open(self.path(p))?;
            }
            Op::Symlink(p, len) => std::os::unix::fs::symlink(target(*len), self.path(p))?,
            Op::Readlink(p) => {
                let target = fs::read_link(self.path(p))?.into_os_string();
                return Ok(Answer::Bytes(Bytes(target.into_vec())));
            }
            Op::Link(a, b) => fs::hard_link(self.path(a), self.path(b))?,
            Op::Unlink(p) => fs::remove_file(self.path(p))?,
            Op::Rmdir(p) => fs::remove_dir(self.path(p))?,
            Op::Rename(a, b, how) => {
                let flags = match how {
                    Replace::Over => RenameFlags::empty(),
                    Replace::Never => RenameFlags::NOREPLACE,
                    Replace::Exchange => RenameFlags::EXCHANGE,
                };
                rfs::renameat_with(CWD, self.path(a), CWD, self.path(b), flags)?;
            }
            Op::Open(handle, p) => {
                let file = match handle {
                    Handle::File(_) => open_file(&self.path(p))?,
                    Handle::Dir => open_dir(&self.path(p))?,
                };
                self.open.insert(*handle, file);
            }
            Op::Close(handle) => {
                self.opened(*handle)?;
                self.open.remove(handle);
            }
            Op::Write(p, at, len, value) => {
                self.content(p, |file| file.write_all_at(&vec![*value; *len], *at))?;
            }
            Op::Read(p, at, len) => {
                let read = self.content(p, |file| read(file, *at, *len))?;
                return Ok(Answer::Bytes(Bytes(read)));
            }
            Op::Truncate(p, size) => self.content(p, |file| file.set_len(*size))?,
            Op::Punch(p, at, len) => {
                let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                self.content(p, |file| Ok(rfs::fallocate(file, how, *at, *len)?))?;
            }
            Op::Sync(p) => self.content(p, File::sync_all)?,
            Op::SyncDir(p) => open_dir(&self.path(p))?.sync_all()?,
            Op::Chmod(p, mode) => match self.at(p)? {
                Ok(path) => rfs::chmod(path, Mode::from_raw_mode(*mode))?,
                Err(file) => rfs::fchmod(file, Mode::from_raw_mode(*mode))?,
            },
            Op::SetXattr(p, n, len, how) => {
                let how = match how {
                    Set::Any => XattrFlags::empty(),
                    Set::Create => XattrFlags::CREATE,
                    Set::Replace => XattrFlags::REPLACE,
                };
                match self.at(p)? {
                    Ok(path) => rfs::lsetxattr(path, attribute(*n), &value(*len), how)?,
                    Err(file) => rfs::fsetxattr(file, attribute(*n), &value(*len), how)?,
                }
            }
            Op::GetXattr(p, n) => {
                let name = attribute(*n);
                let value = get(
                    self.at(p)?,
                    |path, buf| rfs::lgetxattr(path, name, buf),
                    |file, buf| rfs::fgetxattr(file, name, buf),
                )?;
                return Ok(Answer::Bytes(Bytes(value)));
            }
            Op::RemoveXattr(p, n) => match self.at(p)? {
                Ok(path) => rfs::lremovexattr(path, attribute(*n))?,
                Err(file) => rfs::fremovexattr(file, attribute(*n))?,
            },
            Op::ListXattr(p) => {
                let list = get(
                    self.at(p)?,
                    |path, buf| rfs::llistxattr(path, buf),
                    |file, buf| rfs::flistxattr(file, buf),
                )?;
                return Ok(Answer::Names(names(&list)));
            }
            Op::Stat(p) => {
                let meta = match self.at(p)? {
                    Ok(path) => fs::symlink_metadata(path)?,
                    Err(file) => file.metadata()?,
                };
                return Ok(Answer::Stat(stat(&meta)));
            }
            // The kernel does as it likes.
            Op::Forget => {}
        }
        Ok(Answer::Done)
    }

    fn walk(&self, dir: &StdPath, at: &str, tree: &mut Tree) -> io::Result<()> {
        let mut entries = fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (path, name) = (entry.path(), entry.file_name());
            let shown = format!("{at}/{}", name.to_string_lossy());
            let meta = fs::symlink_metadata(&path)?;
            let list = get(Ok(path.clone()), |p, buf| rfs::llistxattr(p, buf), |_, _| Ok(0))?;
            let mut xattrs = BTreeMap::new();
            for name in names(&list) {
                let value =
                    get(Ok(path.clone()), |p, buf| rfs::lgetxattr(p, &*name, buf), |_, _| Ok(0))?;
                xattrs.insert(name, Bytes(value));
            }
            let content = match stat(&meta).kind {
                Kind::Dir => Vec::new(),
                Kind::Symlink => fs::read_link(&path)?.into_os_string().into_vec(),
                Kind::File => fs::read(&path)?,
            };
            tree.add(&shown, meta.ino(), stat(&meta), xattrs, content);
            if meta.is_dir() {
                self.walk(&path, &shown, tree)?;
            }
        }
        Ok(())
    }
}

fn read(file: &File, at: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut buf = vec![0; len];
    let mut got = 0;
    while got < len {
        match file.read_at(&mut buf[got..], at + got as u64)? {
            0 => break,
            more => got += more,
        }
    }
    buf.truncate(got);
    Ok(buf)
}

/// Drops the pages of every file, so that content comes from the store.
fn drop_pages(dir: &StdPath) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            drop_pages(&entry.path())?;
        } else if kind.is_file() {
            let file = open_file(&entry.path())?;
            file.sync_all()?;
            rfs::fadvise(&file, 0, None, rfs::Advice::DontNeed)?;
        }
    }
    Ok(())
}

fn errno(e: io::Error) -> i32 {
    e.raw_os_error().unwrap_or(-1)
}

impl Target for Mounted {
    fn apply(&mut self, op: &Op) -> Result<Answer, i32> {
        self.try_run(op).map_err(errno)
    }

    fn tree(&self) -> Result<Tree, i32> {
        let mut tree = Tree::default();
        self.walk(self.folder.path(), "", &mut tree).map_err(errno)?;
        Ok(tree)
    }

    fn restart(&mut self) {
        self.open.clear();
        drop_pages(self.folder.path()).expect("dropped");
    }
}
