//! Getting content out without a mount.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::Offline;
use crate::disk::FileKind;
use crate::fs::{Attr, Detail, Errno, Fs, OpenFor, ROOT, Reached, Visit};
use crate::secret::wipe;

const SET_ID: u32 = libc::S_ISUID | libc::S_ISGID;

/// Reads go in pieces of this size.
const PIECE: usize = 1 << 20;

/// Why something could not be got out.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Of the store: what an application on a mount would see.
    #[error("{}: {}", .0.display(), io::Error::from_raw_os_error(.1.0))]
    Store(PathBuf, Errno),
    /// Of the destination.
    #[error("{}: {}", .0.display(), .1)]
    Dest(PathBuf, #[source] io::Error),
}

fn of_store(path: &Path) -> impl Fn(Errno) -> ExportError {
    move |e| ExportError::Store(path.to_owned(), e)
}

fn of_dest(path: &Path) -> impl Fn(io::Error) -> ExportError {
    move |e| ExportError::Dest(path.to_owned(), e)
}

/// Writes the content of the file at `path` in the volume to `out`.
///
/// # Errors
/// [`ExportError`].
pub fn cat(volume: &Offline, path: &Path, out: &mut dyn Write) -> Result<(), ExportError> {
    let mut ino = ROOT;
    for part in path.components() {
        use std::path::Component;
        let name = match part {
            Component::Normal(name) => name,
            Component::RootDir | Component::CurDir => continue,
            _ => return Err(ExportError::Store(path.to_owned(), Errno(libc::EINVAL))),
        };
        ino = volume.run(|fs| fs.lookup(ino, name)).map_err(of_store(path))?.attr.0.ino;
    }
    copy(volume, ino, (path, Path::new("stdout")), out, &mut |_| ())
}

fn copy(
    volume: &Offline,
    ino: u64,
    (from, to): (&Path, &Path),
    out: &mut dyn Write,
    advance: &mut dyn FnMut(u64),
) -> Result<(), ExportError> {
    volume.run(|fs| fs.open(ino, OpenFor::Reading)).map_err(of_store(from))?;
    let copied = pieces(volume, ino, (from, to), out, advance);
    let _ = volume.run(|fs| fs.release(ino, OpenFor::Reading));
    copied
}

fn pieces(
    volume: &Offline,
    ino: u64,
    (from, to): (&Path, &Path),
    out: &mut dyn Write,
    advance: &mut dyn FnMut(u64),
) -> Result<(), ExportError> {
    let buf = std::cell::RefCell::new(vec![0; PIECE]);
    let mut at = 0;
    loop {
        let n = volume.run(|fs| fs.read(ino, at, &mut buf.borrow_mut())).map_err(of_store(from))?;
        let mut buf = buf.borrow_mut();
        let written = out.write_all(&buf[..n]);
        wipe(&mut buf[..n]);
        written.map_err(of_dest(to))?;
        advance(n as u64);
        if n == 0 {
            return Ok(());
        }
        at += n as u64;
    }
}

/// What becomes of set-user-ID and set-group-ID bits and of device files. Whoever can write the
/// store chooses them, so they are not to be believed unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privileged {
    /// The bits are cleared, and device files are left out.
    LeftBehind,
    /// They are made as the store has them.
    Kept,
}

/// What an export did not copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftBehind {
    /// Files and folders whose set-id bits were cleared.
    pub set_id: u64,
    /// Device files.
    pub devices: u64,
}

/// What is told while an export goes on.
pub trait ExportWatcher {
    /// So many more bytes of content were copied.
    fn advance(&mut self, bytes: u64);
    /// A file or a folder cannot be read.
    fn failed(&mut self, why: &ExportError);
}

/// Copies the whole tree to `dest`, which is absent or empty: files, folders, links (hard ones
/// too), pipes and sockets, with modes, times and, for root, owners. Extended attributes stay
/// behind, file capabilities among them. Nobody but the caller can enter `dest` before all of it
/// is there. A file that cannot be read is told to `watcher`, and the rest goes on.
///
/// # Errors
/// Of the destination, and of the volume's folders.
pub fn export(
    volume: &Offline,
    dest: &Path,
    privileged: Privileged,
    watcher: &mut dyn ExportWatcher,
) -> Result<LeftBehind, ExportError> {
    fs::create_dir_all(dest).map_err(of_dest(dest))?;
    fs::set_permissions(dest, fs::Permissions::from_mode(0o700)).map_err(of_dest(dest))?;
    let left = LeftBehind::default();
    let mut job = Job { volume, privileged, left, links: HashMap::new(), watcher };
    job.folder(ROOT, Path::new("/"), dest)?;
    let root = volume.run(|fs| fs.getattr(ROOT)).map_err(of_store(Path::new("/")))?;
    job.attributes(&root, dest)?;
    Ok(job.left)
}

struct Job<'a> {
    volume: &'a Offline,
    privileged: Privileged,
    left: LeftBehind,
    links: HashMap<u64, PathBuf>,
    watcher: &'a mut dyn ExportWatcher,
}

impl Job<'_> {
    fn folder(&mut self, ino: u64, from: &Path, to: &Path) -> Result<(), ExportError> {
        for name in self.names(ino).map_err(of_store(from))? {
            let (from, to) = (from.join(&name), to.join(&name));
            let found = self.volume.run(|fs| fs.lookup(ino, &name)).map_err(of_store(&from));
            if let Err(e) = found.and_then(|found| self.entry(&found.attr, &from, &to)) {
                match e {
                    ExportError::Store(..) => self.watcher.failed(&e),
                    ExportError::Dest(..) => return Err(e),
                }
            }
        }
        Ok(())
    }

    fn names(&self, ino: u64) -> Result<Vec<OsString>, Errno> {
        let handle = self.volume.run(|fs| fs.open_listing(ino, 0))?;
        let (mut names, mut from) = (Vec::new(), 0);
        let listed = loop {
            let reached = self.volume.run(|fs: &Fs| {
                fs.list(handle, &mut from, Detail::Names, &mut |e| {
                    if e.name != "." && e.name != ".." {
                        names.push(e.name.clone());
                    }
                    Visit::Taken
                })
            });
            match reached {
                Ok(Reached::More) => {}
                Ok(Reached::End) => break Ok(names),
                Err(e) => break Err(e),
            }
        };
        self.volume.fs().close_listing(handle);
        listed
    }

    fn entry(&mut self, attr: &Attr, from: &Path, to: &Path) -> Result<(), ExportError> {
        let stat = &attr.0;
        if stat.nlink > 1 && stat.kind() != FileKind::Dir {
            if let Some(first) = self.links.get(&stat.ino) {
                return fs::hard_link(first, to).map_err(of_dest(to));
            }
            self.links.insert(stat.ino, to.to_owned());
        }
        match stat.kind() {
            FileKind::Dir => {
                DirBuilder::new().mode(0o700).create(to).map_err(of_dest(to))?;
                self.folder(stat.ino, from, to)?;
            }
            FileKind::File => {
                let private = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
                let mut file = private.map_err(of_dest(to))?;
                let advance = &mut |bytes| self.watcher.advance(bytes);
                copy(self.volume, stat.ino, (from, to), &mut file, advance)?;
            }
            FileKind::Symlink => {
                let target = self.volume.run(|fs| fs.readlink(stat.ino)).map_err(of_store(from))?;
                symlink(target, to).map_err(of_dest(to))?;
            }
            FileKind::Char | FileKind::Block if self.privileged == Privileged::LeftBehind => {
                self.left.devices += 1;
                return Ok(());
            }
            _ => special(stat.mode, stat.rdev, to).map_err(of_dest(to))?,
        }
        self.attributes(attr, to)
    }

    fn attributes(&mut self, attr: &Attr, to: &Path) -> Result<(), ExportError> {
        let stat = &attr.0;
        let link = stat.kind() == FileKind::Symlink;
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::lchown(to, Some(stat.uid), Some(stat.gid)).map_err(of_dest(to))?;
        }
        if !link {
            let mut mode = stat.mode & 0o7777;
            if self.privileged == Privileged::LeftBehind && mode & SET_ID != 0 {
                self.left.set_id += 1;
                mode &= !SET_ID;
            }
            fs::set_permissions(to, fs::Permissions::from_mode(mode)).map_err(of_dest(to))?;
        }
        let time = |t: crate::disk::Time| rustix::fs::Timespec {
            tv_sec: t.secs,
            tv_nsec: i64::from(t.nanos),
        };
        let times = rustix::fs::Timestamps {
            last_access: time(stat.atime),
            last_modification: time(stat.mtime),
        };
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(rustix::fs::CWD, to, &times, flags)
            .map_err(|e| ExportError::Dest(to.to_owned(), e.into()))?;

        Ok(())
    }
}

fn special(mode: u32, rdev: u64, to: &Path) -> io::Result<()> {
    let kind = rustix::fs::FileType::from_raw_mode(mode);
    let private = rustix::fs::Mode::from_raw_mode(0o600);
    Ok(rustix::fs::mknodat(rustix::fs::CWD, to.as_os_str() as &OsStr, kind, private, rdev)?)
}
