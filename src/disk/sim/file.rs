//! Open files of the simulation.

use std::ffi::{OsStr, OsString};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::world::{Body, World, error};
use crate::disk::{Directory, File, Open, OpenFile, Range, Stat, TimeChange, Wait, XattrHow};

#[derive(Debug)]
pub(super) struct SimFile {
    world: Arc<Mutex<World>>,
    ino: u64,
    how: Open,
    holds_lock: AtomicBool,
}

impl SimFile {
    pub(super) fn new(world: Arc<Mutex<World>>, ino: u64, how: Open) -> Self {
        Self { world, ino, how, holds_lock: AtomicBool::new(false) }
    }

    fn with<T>(&self, act: impl FnOnce(&mut World) -> io::Result<T>) -> io::Result<T> {
        let mut world = self.world.lock();
        world.begin()?;
        act(&mut world)
    }

    /// As [`Self::with`], for what a descriptor that only holds the inode (O_PATH) refuses.
    fn opened<T>(&self, act: impl FnOnce(&mut World) -> io::Result<T>) -> io::Result<T> {
        if self.how == Open::Pin {
            return Err(error(libc::EBADF));
        }
        self.with(act)
    }

    /// As [`Self::with`], for what needs a descriptor that may write.
    fn writing<T>(&self, act: impl FnOnce(&mut World) -> io::Result<T>) -> io::Result<T> {
        if matches!(self.how, Open::Read | Open::Pin) {
            return Err(error(libc::EBADF));
        }
        self.with(|world| {
            let done = act(world)?;
            let now = world.now();
            world.inode(self.ino).times[1..].fill(now);
            Ok(done)
        })
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut world = self.world.lock();
        if self.holds_lock.load(Ordering::Relaxed) {
            world.inode(self.ino).locked = false;
        }
        world.release(self.ino);
    }
}

impl OpenFile for SimFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.opened(|w| Ok(w.content(self.ino)?.read(buf, at)))
    }

    /// A disk on which nothing is ever at hand.
    fn read_at_hand(&self, _buf: &mut [u8], _at: u64) -> io::Result<Option<usize>> {
        if self.how == Open::Pin { Err(error(libc::EBADF)) } else { Ok(None) }
    }

    fn write_at(&self, buf: &[u8], at: u64) -> io::Result<()> {
        self.writing(|w| {
            let mut space = w.space;
            let done = w.content(self.ino)?.write(buf, at, || match &mut space {
                None => true,
                Some(0) => false,
                Some(left) => {
                    *left -= 1;
                    true
                }
            });
            w.space = space;
            if done == buf.len() { Ok(()) } else { Err(error(libc::ENOSPC)) }
        })
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        if i64::try_from(size).is_err() {
            return Err(error(libc::EINVAL));
        }
        self.writing(|w| {
            let content = w.content(self.ino)?;
            let before = content.allocated();
            content.set_size(size);
            let freed = before - content.allocated();
            w.space = w.space.map(|s| s + freed);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync_all()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.opened(|w| {
            w.before_sync();
            if let Body::File(content) = &mut w.inode(self.ino).body {
                content.sync();
            }
            Ok(())
        })
    }

    fn start_writeback(&self, _at: u64, _len: u64) -> io::Result<()> {
        self.opened(|_| Ok(()))
    }

    fn wait_writeback(&self, _at: u64, _len: u64) -> io::Result<()> {
        self.opened(|_| Ok(()))
    }

    fn range(&self, how: Range, at: u64, len: u64) -> io::Result<()> {
        self.writing(|w| {
            if how == Range::Reserve {
                return Ok(());
            }
            let content = w.content(self.ino)?;
            let before = content.allocated();
            content.punch(at, len);
            let freed = before - content.allocated();
            w.space = w.space.map(|s| s + freed);
            Ok(())
        })
    }

    fn seek_data(&self, at: u64) -> io::Result<Option<u64>> {
        self.opened(|w| Ok(w.content(self.ino)?.seek_data(at)))
    }

    fn seek_hole(&self, at: u64) -> io::Result<u64> {
        self.opened(|w| Ok(w.content(self.ino)?.seek_hole(at)))
    }

    fn stat(&self) -> io::Result<Stat> {
        self.with(|w| Ok(w.stat(self.ino)))
    }

    fn identity(&self) -> io::Result<[u8; 16]> {
        self.opened(|_| {
            let mut identity = [0; 16];
            identity[..8].copy_from_slice(&self.ino.to_be_bytes());
            Ok(identity)
        })
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.stat()?.size)
    }

    fn mode(&self) -> io::Result<u32> {
        Ok(self.stat()?.mode)
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.with(|w| w.set_mode(self.ino, mode))
    }

    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        self.with(|w| {
            w.set_owner(self.ino, uid, gid);
            Ok(())
        })
    }

    fn set_times(&self, atime: TimeChange, mtime: TimeChange) -> io::Result<()> {
        self.with(|w| {
            w.set_times(self.ino, atime, mtime);
            Ok(())
        })
    }

    fn xattr(&self, name: &OsStr) -> io::Result<Vec<u8>> {
        self.with(|w| w.xattr(self.ino, name))
    }

    fn set_xattr(&self, name: &OsStr, value: &[u8], how: XattrHow) -> io::Result<()> {
        self.with(|w| w.set_xattr(self.ino, name, value, how))
    }

    fn xattrs(&self) -> io::Result<Vec<OsString>> {
        self.with(|w| Ok(w.xattrs(self.ino)))
    }

    fn remove_xattr(&self, name: &OsStr) -> io::Result<()> {
        self.with(|w| w.remove_xattr(self.ino, name))
    }

    fn reopen(&self) -> io::Result<File> {
        self.with(|world| {
            world.hold(self.ino);
            Ok(())
        })?;
        Ok(Arc::new(Self::new(self.world.clone(), self.ino, Open::ReadWrite)))
    }

    fn link(&self, to: &dyn Directory, new: &OsStr) -> io::Result<()> {
        let to = super::dir::in_world(&self.world, to)?;
        self.with(|world| {
            world.expect_free(to, new)?;
            world.change(&[(to, new, Some(self.ino))]);
            Ok(())
        })
    }

    fn readlink(&self) -> io::Result<OsString> {
        self.with(|w| match (self.how, &w.inode(self.ino).body) {
            (Open::Pin, Body::Symlink(target)) => Ok(target.clone()),
            (Open::Pin, _) => Err(error(libc::ENOENT)),
            _ => Err(error(libc::EINVAL)),
        })
    }

    fn lock(&self, wait: Wait) -> io::Result<()> {
        if self.holds_lock.load(Ordering::Relaxed) {
            return Ok(());
        }
        loop {
            let taken =
                self.opened(|w| Ok(std::mem::replace(&mut w.inode(self.ino).locked, true)))?;
            if !taken {
                self.holds_lock.store(true, Ordering::Relaxed);
                return Ok(());
            }
            if wait == Wait::Try {
                return Err(error(libc::EWOULDBLOCK));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
