//! Scripts on the filesystem layer, in this process, without FUSE. What the kernel does before
//! it asks a filesystem is done here: it walks paths, looks every name up, keeps the inodes that
//! it knows, and refuses by itself what is of the wrong kind.

mod walk;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;

use kmsfs::disk::FileKind;
use kmsfs::disk::sim::Sim;
use kmsfs::fs::{
    Attr, Caller, Change, Fs, Made, OpenFor, Outcome, ROOT, Reach, RenameHow, SyncWhat, XattrSet,
};
use kmsfs::store::Names;
use kmsfs::upkeep::{Finding, Offline, Problem};

use crate::reference::{UMASK, value};
use crate::script::{Handle, Op, Path, Place, Replace, Set, attribute, name, target};
use crate::tree::{Answer, Bytes, Kind, Stat, Tree};
use crate::{Target, simulated};

const WHO: Caller = Caller { uid: 0, gid: 0, umask: UMASK };

/// A volume without a mount, on a disk in memory that gives the number of an inode that is gone
/// to the next one.
pub struct Layer {
    sim: Sim,
    volume: Option<Offline>,
    /// The inodes that the kernel knows, and how many lookups it has to take back.
    known: RefCell<BTreeMap<u64, u64>>,
    /// Inodes by their descriptors; of a folder its listing too.
    open: BTreeMap<Handle, (u64, u64)>,
}

fn kind(attr: Attr) -> Kind {
    match attr.0.kind() {
        FileKind::File => Kind::File,
        FileKind::Dir => Kind::Dir,
        FileKind::Symlink => Kind::Symlink,
        other => panic!("no script makes {other:?}"),
    }
}

fn stat(attr: Attr) -> Stat {
    let kind = kind(attr);
    let of_dir = kind == Kind::Dir;
    let links = if of_dir { 0 } else { attr.0.nlink };
    let size = if of_dir { 0 } else { attr.0.size };
    Stat { kind, mode: attr.0.mode & 0o7777, links, size }
}

impl Layer {
    pub fn new(names: Names) -> Self {
        let sim = simulated::empty(names);
        sim.reuse_numbers();
        let volume = Some(simulated::open(&sim).expect("opened"));
        Self { sim, volume, known: RefCell::default(), open: BTreeMap::new() }
    }

    fn volume(&self) -> &Offline {
        self.volume.as_ref().expect("opened by new and restart")
    }

    fn run<T>(&self, op: impl FnMut(&Fs) -> Outcome<T>) -> Result<T, i32> {
        self.volume().run(op).map_err(|e| e.0)
    }

    /// Counts what the layer counted.
    fn know(&self, attr: Attr) -> Attr {
        *self.known.borrow_mut().entry(attr.0.ino).or_default() += 1;
        attr
    }

    fn lookup(&self, parent: u64, name: &OsStr) -> Result<Attr, i32> {
        Ok(self.know(self.run(|fs| fs.lookup(parent, name))?.attr))
    }

    /// The folder of a path, and the name in it, which has been looked up.
    fn parent(&self, path: &Path) -> Result<(u64, OsString, Option<Attr>), i32> {
        let (folder, last) = path.split();
        let mut at = ROOT;
        for n in folder {
            let attr = self.lookup(at, OsStr::new(&name(*n)))?;
            match kind(attr) {
                Kind::Dir => at = attr.0.ino,
                Kind::File => return Err(libc::ENOTDIR),
                Kind::Symlink => return Err(self.nowhere(attr)),
            }
        }
        let last = OsString::from(name(last));
        let found = match self.lookup(at, &last) {
            Err(libc::ENOENT) => None,
            other => Some(other?),
        };
        Ok((at, last, found))
    }

    /// What comes of following a symbolic link.
    fn nowhere(&self, link: Attr) -> i32 {
        let read = self.run(|fs| fs.readlink(link.0.ino)).expect("a link is read");
        assert_eq!(read, OsString::from(target(read.len())));
        libc::ENOENT
    }

    fn find(&self, path: &Path) -> Result<Attr, i32> {
        self.parent(path)?.2.ok_or(libc::ENOENT)
    }

    fn follow(&self, path: &Path) -> Result<Attr, i32> {
        let attr = self.find(path)?;
        if kind(attr) == Kind::Symlink { Err(self.nowhere(attr)) } else { Ok(attr) }
    }

    fn opened(&self, handle: Handle) -> Result<u64, i32> {
        self.open.get(&handle).map(|(ino, _)| *ino).ok_or(libc::EBADF)
    }

    /// The inode of what has attributes, and its kind.
    fn at(&self, place: &Place) -> Result<(u64, Kind), i32> {
        match place {
            Place::At(path) => self.find(path).map(|attr| (attr.0.ino, kind(attr))),
            Place::Open(handle) => {
                let kind = if *handle == Handle::Dir { Kind::Dir } else { Kind::File };
                Ok((self.opened(*handle)?, kind))
            }
        }
    }

    fn file(&self, path: &Path) -> Result<u64, i32> {
        let attr = self.follow(path)?;
        if kind(attr) == Kind::Dir { Err(libc::EISDIR) } else { Ok(attr.0.ino) }
    }

    /// Acts on an open file.
    fn content<T>(&self, place: &Place, act: impl Fn(u64) -> Result<T, i32>) -> Result<T, i32> {
        match place {
            Place::Open(handle) => act(self.opened(*handle)?),
            Place::At(path) => {
                let ino = self.file(path)?;
                self.run(|fs| fs.open(ino, OpenFor::Writing))?;
                let done = act(ino);
                self.run(|fs| fs.release(ino, OpenFor::Writing))?;
                done
            }
        }
    }

    fn make(&self, path: &Path, what: Made<'_>) -> Result<(), i32> {
        let (parent, name, _) = self.parent(path)?;
        self.know(self.run(|fs| fs.make(parent, &name, what, WHO))?.attr);
        Ok(())
    }

    fn rename(&self, a: &Path, b: &Path, how: Replace) -> Result<(), i32> {
        let how = match how {
            Replace::Over => RenameHow::Over,
            Replace::Never => RenameHow::NoReplace,
            Replace::Exchange => RenameHow::Exchange,
        };
        // The source's name is looked up after both folders.
        let (from, a_name, source) = match self.parent(a) {
            Err(libc::ENAMETOOLONG) => {
                self.parent(b)?;
                return Err(libc::ENAMETOOLONG);
            }
            other => other?,
        };
        let (to, b_name, there) = match self.parent(b) {
            Err(libc::ENAMETOOLONG) if source.is_none() => return Err(libc::ENOENT),
            other => other?,
        };
        let done = self.run(|fs| fs.rename((from, &a_name), (to, &b_name), how));
        // The kernel finds this before it asks, and before it asks whether the target is empty.
        if a.is_above(b) && !(how == RenameHow::NoReplace && there.is_some()) {
            assert!(done.is_err(), "a folder was moved into itself");
            return done.map_err(|e| if e == libc::ENOENT { e } else { libc::EINVAL });
        }
        done
    }

    fn close(&mut self, handle: Handle) -> Result<(), i32> {
        let (ino, listing) = self.open.remove(&handle).ok_or(libc::EBADF)?;
        match handle {
            Handle::File(_) => self.run(|fs| fs.release(ino, OpenFor::Writing))?,
            Handle::Dir => self.volume().fs().close_listing(listing),
        }
        Ok(())
    }

    fn open(&mut self, handle: Handle, path: &Path) -> Result<(), i32> {
        let opened = match handle {
            Handle::File(_) => {
                let ino = self.file(path)?;
                self.run(|fs| fs.open(ino, OpenFor::Writing))?;
                (ino, 0)
            }
            Handle::Dir => {
                let attr = self.follow(path)?;
                if kind(attr) != Kind::Dir {
                    return Err(libc::ENOTDIR);
                }
                (attr.0.ino, self.run(|fs| fs.open_listing(attr.0.ino, 0))?)
            }
        };
        let _ = self.close(handle);
        self.open.insert(handle, opened);
        Ok(())
    }

    fn on_entries(&mut self, op: &Op) -> Result<Option<Answer>, i32> {
        match op {
            Op::Mkdir(p, mode) => self.make(p, Made::Dir(*mode))?,
            Op::Symlink(p, len) => self.make(p, Made::Symlink(OsStr::new(&target(*len))))?,
            Op::Create(p, mode) => {
                let (parent, name, _) = self.parent(p)?;
                let made = self.know(self.run(|fs| fs.create(parent, &name, *mode, WHO))?.attr);
                self.run(|fs| fs.release(made.0.ino, OpenFor::Writing))?;
            }
            Op::Readlink(p) => {
                let attr = self.find(p)?;
                if kind(attr) != Kind::Symlink {
                    return Err(libc::EINVAL);
                }
                let target = self.run(|fs| fs.readlink(attr.0.ino))?;
                return Ok(Some(Answer::Bytes(Bytes(target.into_vec()))));
            }
            Op::Link(a, b) => {
                let ino = self.find(a)?.0.ino;
                let (parent, name, _) = self.parent(b)?;
                self.know(self.run(|fs| fs.link(ino, parent, &name, WHO))?.attr);
            }
            Op::Unlink(p) => {
                let (parent, name, _) = self.parent(p)?;
                self.run(|fs| fs.unlink(parent, &name))?;
            }
            Op::Rmdir(p) => {
                let (parent, name, _) = self.parent(p)?;
                self.run(|fs| fs.rmdir(parent, &name))?;
            }
            Op::Rename(a, b, how) => self.rename(a, b, *how)?,
            Op::Open(handle, p) => self.open(*handle, p)?,
            Op::Close(handle) => self.close(*handle)?,
            Op::SyncDir(p) => {
                let attr = self.follow(p)?;
                if kind(attr) != Kind::Dir {
                    return Err(libc::ENOTDIR);
                }
                self.run(|fs| fs.sync_dir(attr.0.ino))?;
            }
            Op::Forget => self.forget(),
            _ => return Ok(None),
        }
        Ok(Some(Answer::Done))
    }

    fn on_content(&self, op: &Op) -> Result<Option<Answer>, i32> {
        match op {
            Op::Write(p, at, len, value) => {
                let data = vec![*value; *len];
                self.content(p, |ino| self.run(|fs| fs.write(ino, *at, &data)))?;
            }
            Op::Read(p, at, len) => {
                let buf = RefCell::new(vec![0; *len]);
                let read = |ino| self.run(|fs| fs.read(ino, *at, &mut buf.borrow_mut()));
                let got = self.content(p, read)?;
                let mut buf = buf.into_inner();
                buf.truncate(got);
                return Ok(Some(Answer::Bytes(Bytes(buf))));
            }
            Op::Truncate(p, size) => {
                let ino = match p {
                    Place::At(path) => self.file(path)?,
                    Place::Open(handle) => self.opened(*handle)?,
                };
                let change = Change { size: Some(*size), ..Change::default() };
                self.run(|fs| fs.setattr(ino, &change))?;
            }
            Op::Punch(p, at, len) => self.content(p, |ino| {
                let mut from = *at;
                self.run(|fs| fs.zero(ino, &mut from, at + len, Reach::KeepSize))
            })?,
            Op::Sync(p) => self.content(p, |ino| self.run(|fs| fs.fsync(ino, SyncWhat::All)))?,
            _ => return Ok(None),
        }
        Ok(Some(Answer::Done))
    }

    fn on_attributes(&self, op: &Op) -> Result<Answer, i32> {
        match op {
            Op::Chmod(p, mode) => {
                let ino = match p {
                    Place::At(path) => self.follow(path)?.0.ino,
                    Place::Open(handle) => self.opened(*handle)?,
                };
                let change = Change { mode: Some(*mode), ..Change::default() };
                self.run(|fs| fs.setattr(ino, &change))?;
            }
            Op::SetXattr(p, n, len, how) => {
                let (ino, _) = self.at(p)?;
                let how = match how {
                    Set::Any => XattrSet::Any,
                    Set::Create => XattrSet::Create,
                    Set::Replace => XattrSet::Replace,
                };
                let name = OsStr::new(attribute(*n));
                self.run(|fs| fs.setxattr(ino, name, &value(*len), how))?;
            }
            Op::GetXattr(p, n) => {
                let (ino, _) = self.at(p)?;
                let value = self.run(|fs| fs.getxattr(ino, OsStr::new(attribute(*n))))?;
                return Ok(Answer::Bytes(Bytes(value)));
            }
            Op::RemoveXattr(p, n) => {
                let (ino, kind) = self.at(p)?;
                if kind == Kind::Symlink {
                    return Err(libc::EPERM);
                }
                self.run(|fs| fs.removexattr(ino, OsStr::new(attribute(*n))))?;
            }
            Op::ListXattr(p) => return Ok(Answer::Names(self.xattrs(self.at(p)?.0)?)),
            Op::Stat(p) => {
                let (ino, _) = self.at(p)?;
                return Ok(Answer::Stat(stat(self.run(|fs| fs.getattr(ino))?)));
            }
            other => panic!("{other:?} is of no kind"),
        }
        Ok(Answer::Done)
    }

    /// As the kernel does under pressure: an open inode stays, and the folders that lead to it.
    fn forget(&self) {
        let fs = self.volume().fs();
        let mut kept: BTreeSet<u64> = BTreeSet::new();
        let mut todo: Vec<u64> = self.open.values().map(|(ino, _)| *ino).collect();
        while let Some(ino) = todo.pop() {
            if kept.insert(ino) {
                let node = fs.table().get(ino).expect("an open inode is known");
                todo.extend(node.places().into_iter().map(|(parent, _)| parent));
            }
        }
        self.known.borrow_mut().retain(|ino, lookups| {
            let keep = kept.contains(ino);
            if !keep {
                fs.forget(*ino, *lookups);
            }
            keep
        });
    }
}

impl Target for Layer {
    fn apply(&mut self, op: &Op) -> Result<Answer, i32> {
        if let Some(answer) = self.on_entries(op)? {
            return Ok(answer);
        }
        match self.on_content(op)? {
            Some(answer) => Ok(answer),
            None => self.on_attributes(op),
        }
    }

    fn tree(&self) -> Result<Tree, i32> {
        let mut tree = Tree::default();
        self.walk(ROOT, "", &mut tree)?;
        Ok(tree)
    }

    /// The volume is closed and opened again. Nothing of what was removed is left: neither in the
    /// table, nor of the numbers, nor in the store.
    fn restart(&mut self) {
        for handle in self.open.keys().copied().collect::<Vec<_>>() {
            self.close(handle).expect("it is open");
        }
        self.forget();
        let fs = self.volume().fs();
        assert_eq!(fs.table().counts().0, 1, "the kernel knows the root alone");
        fs.keyring().end_grace().expect("the disk is well");
        let spare = fs.keyring().counts().pooled;
        self.volume = None;
        assert_eq!(self.sim.orphans(), 0, "inodes without a name are held open");
        let (_, _, found) = simulated::fsck(&self.sim).expect("checked");
        let unused = |finding: &Finding| match finding.what {
            Problem::UnusedLines(lines) => lines,
            _ => panic!("fsck finds {finding:?}"),
        };
        let unused: usize = found.iter().map(unused).sum();
        assert_eq!(unused, spare, "keys of no file, but for those in the pool");
        self.volume = Some(simulated::open(&self.sim).expect("opened"));
    }
}
