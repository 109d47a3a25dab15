//! Directories of the simulation.

use std::any::Any;
use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::file::SimFile;
use super::pages::Content;
use super::world::{Body, SimFolder, World, error};
use crate::disk::{Dir, Directory, Entry, File, FileKind, FsStat, Open, Replace, Stat};

#[derive(Debug)]
pub(super) struct SimDir {
    world: Arc<Mutex<World>>,
    ino: u64,
}

impl SimDir {
    pub(super) fn new(world: Arc<Mutex<World>>, ino: u64) -> Self {
        Self { world, ino }
    }

    fn with<T>(&self, act: impl FnOnce(&mut World) -> io::Result<T>) -> io::Result<T> {
        let mut world = self.world.lock();
        world.begin()?;
        act(&mut world)
    }

    /// Runs `act` on the inode of an entry.
    fn at<T>(
        &self,
        name: &OsStr,
        act: impl FnOnce(&mut World, u64) -> io::Result<T>,
    ) -> io::Result<T> {
        self.with(|w| {
            let ino = w.find(self.ino, name)?;
            act(w, ino)
        })
    }

    fn make(&self, name: &OsStr, body: Body, mode: u32, rdev: u64) -> io::Result<()> {
        self.with(|w| w.make((self.ino, name), body, mode, rdev).map(drop))
    }

    /// The inode of another directory of this same filesystem.
    fn other(&self, dir: &dyn Directory) -> io::Result<u64> {
        in_world(&self.world, dir)
    }
}

/// The number of a directory of this world.
pub(super) fn in_world(world: &Arc<Mutex<World>>, dir: &dyn Directory) -> io::Result<u64> {
    let dir = dir.as_any().downcast_ref::<SimDir>();
    dir.filter(|dir| Arc::ptr_eq(&dir.world, world)).map(|dir| dir.ino).ok_or(error(libc::EXDEV))
}

/// Whether `below` is `dir` or lies in it.
fn contains(world: &mut World, dir: u64, below: u64) -> bool {
    if dir == below {
        return true;
    }
    let children: Vec<u64> = match world.folder(dir) {
        Ok(folder) => folder.entries.values().map(|(ino, _)| *ino).collect(),
        Err(_) => return false,
    };
    children.into_iter().any(|child| contains(world, child, below))
}

fn expect_empty(world: &mut World, dir: u64) -> io::Result<()> {
    if world.folder(dir)?.entries.is_empty() { Ok(()) } else { Err(error(libc::ENOTEMPTY)) }
}

/// What rename(2) checks of an entry that it replaces.
fn expect_replaceable(world: &mut World, source: u64, target: u64) -> io::Result<()> {
    let dir = |w: &mut World, ino| w.kind(ino) == FileKind::Dir;
    match (dir(world, source), dir(world, target)) {
        (true, true) => expect_empty(world, target),
        (true, false) => Err(error(libc::ENOTDIR)),
        (false, true) => Err(error(libc::EISDIR)),
        (false, false) => Ok(()),
    }
}

impl Drop for SimDir {
    fn drop(&mut self) {
        self.world.lock().release(self.ino);
    }
}

/// The inode that an open of `name` in `dir` leads to.
fn opened(w: &mut World, dir: u64, name: &OsStr, how: Open) -> io::Result<u64> {
    if let Open::Create(mode) = how {
        let body = Body::File(Content::default());
        return w.make((dir, name), body, libc::S_IFREG | (mode & 0o7777), 0);
    }
    if let Open::Nameless(mode) = how {
        let body = Body::File(Content::default());
        return Ok(w.add(body, libc::S_IFREG | (mode & 0o7777), 0));
    }
    let ino = w.find(dir, name)?;
    match (w.kind(ino), how) {
        (_, Open::Pin) | (FileKind::File, _) | (FileKind::Dir, Open::Read) => Ok(ino),
        (FileKind::Symlink, _) => Err(error(libc::ELOOP)),
        (FileKind::Dir, _) => Err(error(libc::EISDIR)),
        _ => Err(error(libc::ENXIO)),
    }
}

impl Directory for SimDir {
    fn open(&self, name: &OsStr, how: Open) -> io::Result<File> {
        let ino = self.with(|w| {
            let ino = opened(w, self.ino, name, how)?;
            w.hold(ino);
            Ok(ino)
        })?;
        Ok(Arc::new(SimFile::new(self.world.clone(), ino, how)))
    }

    fn open_dir(&self, name: &OsStr) -> io::Result<Dir> {
        let ino = self.at(name, |w, ino| {
            w.folder(ino)?;
            w.hold(ino);
            Ok(ino)
        })?;
        Ok(Arc::new(Self::new(self.world.clone(), ino)))
    }

    fn stat(&self, name: &OsStr) -> io::Result<Stat> {
        self.at(name, |w, ino| Ok(w.stat(ino)))
    }

    fn stat_self(&self) -> io::Result<Stat> {
        self.with(|w| Ok(w.stat(self.ino)))
    }

    fn mkdir(&self, name: &OsStr, mode: u32) -> io::Result<()> {
        let mode = libc::S_IFDIR | (mode & 0o7777);
        self.make(name, Body::Dir(SimFolder::default()), mode, 0)
    }

    fn mknod(&self, name: &OsStr, mode: u32, rdev: u64) -> io::Result<()> {
        let body = match FileKind::of_mode(mode) {
            FileKind::File => Body::File(Content::default()),
            _ => Body::Other,
        };
        let kind = FileKind::of_mode(mode).mode_bits();
        self.make(name, body, kind | (mode & 0o7777), rdev)
    }

    fn symlink(&self, name: &OsStr, target: &OsStr) -> io::Result<()> {
        match target.len() {
            0 => Err(error(libc::ENOENT)),
            4096.. => Err(error(libc::ENAMETOOLONG)),
            _ => {
                let body = Body::Symlink(target.to_owned());
                self.make(name, body, libc::S_IFLNK | 0o777, 0)
            }
        }
    }

    fn readlink(&self, name: &OsStr) -> io::Result<OsString> {
        self.at(name, |w, ino| match &w.inode(ino).body {
            Body::Symlink(target) => Ok(target.clone()),
            _ => Err(error(libc::EINVAL)),
        })
    }

    fn link(&self, name: &OsStr, to: &dyn Directory, new: &OsStr) -> io::Result<()> {
        let to = self.other(to)?;
        self.at(name, |w, ino| {
            w.expect_free(to, new)?;
            if w.kind(ino) == FileKind::Dir {
                return Err(error(libc::EPERM));
            }
            w.change(&[(to, new, Some(ino))]);
            Ok(())
        })
    }

    fn unlink(&self, name: &OsStr) -> io::Result<()> {
        self.at(name, |w, ino| {
            if w.kind(ino) == FileKind::Dir {
                return Err(error(libc::EISDIR));
            }
            w.change(&[(self.ino, name, None)]);
            Ok(())
        })
    }

    fn rmdir(&self, name: &OsStr) -> io::Result<()> {
        self.at(name, |w, ino| {
            expect_empty(w, ino)?;
            w.change(&[(self.ino, name, None)]);
            Ok(())
        })
    }

    fn rename(
        &self,
        name: &OsStr,
        to: &dyn Directory,
        new: &OsStr,
        how: Replace,
    ) -> io::Result<()> {
        let to = self.other(to)?;
        self.at(name, |w, source| {
            // In the kernel's order: of several errors it is the same that is answered.
            let target = match (w.find(to, new), how) {
                (Ok(_), Replace::Never) => return Err(error(libc::EEXIST)),
                (Err(e), Replace::Exchange) => return Err(e),
                (Ok(target), _) => Some(target),
                (Err(_), _) => {
                    w.expect_free(to, new)?;
                    None
                }
            };
            if contains(w, source, to) {
                return Err(error(libc::EINVAL));
            }
            if target.is_some_and(|target| contains(w, target, self.ino)) {
                let over = matches!(how, Replace::Over | Replace::Whiteout);
                return Err(error(if over { libc::ENOTEMPTY } else { libc::EINVAL }));
            }
            match target {
                Some(target) if target == source => return Ok(()),
                Some(target) if how == Replace::Exchange => {
                    w.change(&[(self.ino, name, Some(target)), (to, new, Some(source))]);
                    return Ok(());
                }
                Some(target) => expect_replaceable(w, source, target)?,
                None => {}
            }
            let left = (how == Replace::Whiteout).then(|| w.add(Body::Other, libc::S_IFCHR, 0));
            w.change(&[(self.ino, name, left), (to, new, Some(source))]);
            Ok(())
        })
    }

    fn xattr(&self, name: &OsStr, attr: &OsStr) -> io::Result<Vec<u8>> {
        self.at(name, |w, ino| w.xattr(ino, attr))
    }

    fn xattrs(&self, name: &OsStr) -> io::Result<Vec<OsString>> {
        self.at(name, |w, ino| Ok(w.xattrs(ino)))
    }

    fn list(&self, cookie: u64, visit: &mut dyn FnMut(Entry) -> bool) -> io::Result<()> {
        let mut all = self.with(|w| {
            let entries: Vec<_> = w.folder(self.ino)?.entries.clone().into_iter().collect();
            Ok(entries
                .into_iter()
                .map(|(name, (ino, place))| Entry {
                    name,
                    ino,
                    kind: Some(w.kind(ino)),
                    next: place + 1,
                })
                .collect::<Vec<_>>())
        })?;
        all.retain(|e| e.next > cookie);
        all.sort_by_key(|e| e.next);
        // Without the lock, for `visit` may use the directory.
        let _ = all.into_iter().all(visit);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|w| {
            w.sync_dir(self.ino);
            Ok(())
        })
    }

    fn sync_filesystem(&self) -> io::Result<()> {
        self.with(|w| {
            w.sync_all();
            Ok(())
        })
    }

    fn statfs(&self) -> io::Result<FsStat> {
        self.with(|w| {
            let free = w.space.unwrap_or(1 << 30);
            let blocks = 1 << 30;
            let (bfree, bavail) = (free, free);
            let (bsize, frsize, namemax) = (4096, 4096, 255);
            Ok(FsStat {
                kind: 0,
                bsize,
                frsize,
                blocks,
                bfree,
                bavail,
                files: 1 << 20,
                ffree: 1 << 19,
                namemax,
                is_read_only: false,
            })
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
