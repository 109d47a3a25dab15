//! The reference: a tree in memory, and what POSIX and Linux say of each operation.

use std::collections::BTreeMap;

use crate::script::{Handle, NAMES, Op, Path, Place, Replace, Set, attribute, name, target};
use crate::tree::{Answer, Bytes, Kind, Stat, Tree};

#[derive(Clone, Debug)]
enum Body {
    File(Vec<u8>),
    Dir(BTreeMap<usize, usize>),
    Symlink(usize),
}

#[derive(Clone, Debug)]
struct Inode {
    body: Body,
    mode: u32,
    xattrs: BTreeMap<usize, usize>,
}

/// The model. Inodes are never given up.
#[derive(Clone, Debug)]
pub struct Model {
    inodes: Vec<Inode>,
    open: BTreeMap<Handle, usize>,
}

const ROOT: usize = 0;

/// The umask of all targets.
pub const UMASK: u32 = 0o022;

impl Default for Model {
    fn default() -> Self {
        let mut model = Self { inodes: Vec::new(), open: BTreeMap::new() };
        model.add(Body::Dir(BTreeMap::new()), 0o755);
        model
    }
}

/// The value of this length of an attribute.
pub fn value(len: usize) -> Vec<u8> {
    vec![b'v'; len]
}

impl Model {
    fn add(&mut self, body: Body, mode: u32) -> usize {
        self.inodes.push(Inode { body, mode, xattrs: BTreeMap::new() });
        self.inodes.len() - 1
    }

    fn entries(&mut self, ino: usize) -> &mut BTreeMap<usize, usize> {
        match &mut self.inodes[ino].body {
            Body::Dir(entries) => entries,
            other => panic!("looked up in {other:?}"),
        }
    }

    fn is_dir(&self, ino: usize) -> bool {
        matches!(self.inodes[ino].body, Body::Dir(_))
    }

    /// The entry of a folder, if there is one.
    fn child(&mut self, dir: usize, n: usize) -> Result<Option<usize>, i32> {
        if n == NAMES - 1 {
            return Err(libc::ENAMETOOLONG);
        }
        Ok(self.entries(dir).get(&n).copied())
    }

    /// The folder at the end of some names.
    fn folder(&mut self, names: &[usize]) -> Result<usize, i32> {
        let mut at = ROOT;
        for n in names {
            at = self.child(at, *n)?.ok_or(libc::ENOENT)?;
            match self.inodes[at].body {
                Body::Dir(_) => {}
                Body::File(_) => return Err(libc::ENOTDIR),
                Body::Symlink(_) => return Err(libc::ENOENT),
            }
        }
        Ok(at)
    }

    /// The inode of a path, a symbolic link too.
    fn find(&mut self, path: &Path) -> Result<usize, i32> {
        let (folder, name) = path.split();
        let folder = self.folder(folder)?;
        self.child(folder, name)?.ok_or(libc::ENOENT)
    }

    /// The inode of a path, at the end of all symbolic links.
    fn follow(&mut self, path: &Path) -> Result<usize, i32> {
        let ino = self.find(path)?;
        if matches!(self.inodes[ino].body, Body::Symlink(_)) { Err(libc::ENOENT) } else { Ok(ino) }
    }

    fn opened(&self, handle: Handle) -> Result<usize, i32> {
        self.open.get(&handle).copied().ok_or(libc::EBADF)
    }

    fn at(&mut self, place: &Place) -> Result<usize, i32> {
        match place {
            Place::At(path) => self.find(path),
            Place::Open(handle) => self.opened(*handle),
        }
    }

    fn content(&mut self, place: &Place) -> Result<&mut Vec<u8>, i32> {
        let ino = match place {
            Place::At(path) => self.follow(path)?,
            Place::Open(handle) => self.opened(*handle)?,
        };
        match &mut self.inodes[ino].body {
            Body::File(content) => Ok(content),
            _ => Err(libc::EISDIR),
        }
    }

    /// The folder and the name of a path at which nothing is.
    fn free(&mut self, path: &Path) -> Result<(usize, usize), i32> {
        let (folder, n) = path.split();
        let folder = self.folder(folder)?;
        if self.child(folder, n)?.is_some() { Err(libc::EEXIST) } else { Ok((folder, n)) }
    }

    fn make(&mut self, path: &Path, body: Body, mode: u32) -> Result<Answer, i32> {
        let (folder, n) = self.free(path)?;
        let ino = self.add(body, mode);
        self.entries(folder).insert(n, ino);
        Ok(Answer::Done)
    }

    /// Whether `below` is `top` or lies in it.
    fn contains(&self, top: usize, below: usize) -> bool {
        let Body::Dir(entries) = &self.inodes[top].body else { return top == below };
        top == below || entries.values().any(|ino| self.contains(*ino, below))
    }

    fn expect_empty(&mut self, dir: usize) -> Result<(), i32> {
        if self.entries(dir).is_empty() { Ok(()) } else { Err(libc::ENOTEMPTY) }
    }

    fn remove(&mut self, path: &Path, kind: Kind) -> Result<Answer, i32> {
        let ino = self.find(path)?;
        match (self.is_dir(ino), kind) {
            (true, Kind::Dir) => self.expect_empty(ino)?,
            (true, _) => return Err(libc::EISDIR),
            (false, Kind::Dir) => return Err(libc::ENOTDIR),
            (false, _) => {}
        }
        let (folder, n) = path.split();
        let folder = self.folder(folder)?;
        self.entries(folder).remove(&n);
        Ok(Answer::Done)
    }

    fn rename(&mut self, a: &Path, b: &Path, how: Replace) -> Result<Answer, i32> {
        let ((from, a), (to, b)) = (a.split(), b.split());
        let (from, to) = (self.folder(from)?, self.folder(to)?);
        let source = self.child(from, a)?.ok_or(libc::ENOENT)?;
        let target = self.child(to, b)?;
        match (how, target) {
            (Replace::Never, Some(_)) => return Err(libc::EEXIST),
            (Replace::Exchange, None) => return Err(libc::ENOENT),
            _ => {}
        }
        if self.contains(source, to) {
            return Err(libc::EINVAL);
        }
        if let Some(target) = target {
            if self.contains(target, from) {
                let over = how == Replace::Over;
                return Err(if over { libc::ENOTEMPTY } else { libc::EINVAL });
            }
            if target == source {
                // Two names of one inode: rename(2) does nothing.
                return Ok(Answer::Done);
            }
            if how == Replace::Exchange {
                self.entries(from).insert(a, target);
                self.entries(to).insert(b, source);
                return Ok(Answer::Done);
            }
            match (self.is_dir(source), self.is_dir(target)) {
                (true, true) => self.expect_empty(target)?,
                (true, false) => return Err(libc::ENOTDIR),
                (false, true) => return Err(libc::EISDIR),
                (false, false) => {}
            }
        }
        self.entries(from).remove(&a);
        self.entries(to).insert(b, source);
        Ok(Answer::Done)
    }

    fn set_xattr(&mut self, ino: usize, n: usize, len: Option<usize>, how: Set) -> Result<(), i32> {
        let inode = &mut self.inodes[ino];
        if matches!(inode.body, Body::Symlink(_)) {
            return Err(libc::EPERM);
        }
        match (how, inode.xattrs.contains_key(&n)) {
            (Set::Create, true) => return Err(libc::EEXIST),
            (Set::Replace, false) => return Err(libc::ENODATA),
            _ => {}
        }
        match len {
            Some(len) => inode.xattrs.insert(n, len),
            None => inode.xattrs.remove(&n),
        };
        Ok(())
    }

    fn links(&self, ino: usize) -> u64 {
        let linked = |dir: usize| match &self.inodes[dir].body {
            Body::Dir(entries) => entries.values().filter(|of| **of == ino).count() as u64,
            _ => 0,
        };
        (0..self.inodes.len()).filter(|dir| self.contains(ROOT, *dir)).map(linked).sum()
    }

    fn stat(&self, ino: usize) -> Stat {
        let inode = &self.inodes[ino];
        let (kind, size) = match &inode.body {
            Body::File(content) => (Kind::File, content.len() as u64),
            Body::Symlink(len) => (Kind::Symlink, *len as u64),
            Body::Dir(_) => (Kind::Dir, 0),
        };
        let links = if kind == Kind::Dir { 0 } else { self.links(ino) };
        Stat { kind, mode: inode.mode, links, size }
    }

    /// What POSIX says.
    pub fn run(&mut self, op: &Op) -> Result<Answer, i32> {
        match op {
            Op::Mkdir(p, mode) => return self.make(p, Body::Dir(BTreeMap::new()), mode & !UMASK),
            Op::Create(p, mode) => return self.make(p, Body::File(Vec::new()), mode & !UMASK),
            Op::Symlink(p, len) => return self.make(p, Body::Symlink(*len), 0o777),
            Op::Readlink(p) => {
                let ino = self.find(p)?;
                let Body::Symlink(len) = self.inodes[ino].body else { return Err(libc::EINVAL) };
                return Ok(Answer::Bytes(Bytes(target(len).into_bytes())));
            }
            Op::Link(a, b) => {
                let ino = self.find(a)?;
                let (folder, n) = self.free(b)?;
                if self.is_dir(ino) {
                    return Err(libc::EPERM);
                }
                self.entries(folder).insert(n, ino);
            }
            Op::Unlink(p) => return self.remove(p, Kind::File),
            Op::Rmdir(p) => return self.remove(p, Kind::Dir),
            Op::Rename(a, b, how) => return self.rename(a, b, *how),
            Op::Open(handle, p) => {
                let ino = self.follow(p)?;
                match (handle, self.is_dir(ino)) {
                    (Handle::File(_), true) => return Err(libc::EISDIR),
                    (Handle::Dir, false) => return Err(libc::ENOTDIR),
                    _ => drop(self.open.insert(*handle, ino)),
                }
            }
            Op::Close(handle) => drop(self.open.remove(handle).ok_or(libc::EBADF)?),
            Op::Write(p, at, len, value) => {
                let (file, at) = (self.content(p)?, *at as usize);
                file.resize(file.len().max(at + len), 0);
                file[at..at + len].fill(*value);
            }
            Op::Read(p, at, len) => {
                let (file, at) = (self.content(p)?, *at as usize);
                let read = file.get(at..file.len().min(at + len)).unwrap_or_default().to_vec();
                return Ok(Answer::Bytes(Bytes(read)));
            }
            Op::Truncate(p, size) => self.content(p)?.resize(*size as usize, 0),
            Op::Punch(p, at, len) => {
                let (file, at) = (self.content(p)?, *at as usize);
                let end = file.len().min(at + *len as usize);
                if at < end {
                    file[at..end].fill(0);
                }
            }
            Op::Sync(p) => drop(self.content(p)?),
            Op::SyncDir(p) => {
                let ino = self.follow(p)?;
                if !self.is_dir(ino) {
                    return Err(libc::ENOTDIR);
                }
            }
            Op::Chmod(p, mode) => {
                let ino = match p {
                    Place::At(path) => self.follow(path)?,
                    Place::Open(handle) => self.opened(*handle)?,
                };
                self.inodes[ino].mode = *mode;
            }
            Op::SetXattr(p, n, len, how) => {
                let ino = self.at(p)?;
                self.set_xattr(ino, *n, Some(*len), *how)?;
            }
            Op::RemoveXattr(p, n) => {
                let ino = self.at(p)?;
                self.set_xattr(ino, *n, None, Set::Replace)?;
            }
            Op::GetXattr(p, n) => {
                let ino = self.at(p)?;
                let len = self.inodes[ino].xattrs.get(n).ok_or(libc::ENODATA)?;
                return Ok(Answer::Bytes(Bytes(value(*len))));
            }
            Op::ListXattr(p) => {
                let ino = self.at(p)?;
                let names = self.inodes[ino].xattrs.keys().map(|n| attribute(*n).to_owned());
                return Ok(Answer::Names(names.collect()));
            }
            Op::Stat(p) => {
                let ino = self.at(p)?;
                return Ok(Answer::Stat(self.stat(ino)));
            }
            Op::Forget => {}
        }
        Ok(Answer::Done)
    }

    /// Everything in the tree.
    pub fn tree(&self) -> Tree {
        let mut tree = Tree::default();
        self.walk(ROOT, "", &mut tree);
        tree
    }

    fn walk(&self, dir: usize, at: &str, tree: &mut Tree) {
        let Body::Dir(entries) = &self.inodes[dir].body else { return };
        let mut entries: Vec<(String, usize)> =
            entries.iter().map(|(n, ino)| (name(*n), *ino)).collect();
        entries.sort();
        for (name, ino) in entries {
            let path = format!("{at}/{name}");
            let inode = &self.inodes[ino];
            let xattr = |(n, len): (&usize, &usize)| (attribute(*n).to_owned(), Bytes(value(*len)));
            let xattrs = inode.xattrs.iter().map(xattr).collect();
            let content = match &inode.body {
                Body::File(content) => content.clone(),
                Body::Symlink(len) => target(*len).into_bytes(),
                Body::Dir(_) => Vec::new(),
            };
            tree.add(&path, ino as u64, self.stat(ino), xattrs, content);
            self.walk(ino, &path, tree);
        }
    }

    /// Every descriptor is closed.
    pub fn close(&mut self) {
        self.open.clear();
    }
}
