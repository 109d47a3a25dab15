//! The inodes of a simulated filesystem, its un-synced entry changes and its faults.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use super::pages::Content;
use crate::disk::{FileKind, Stat, Time};

pub(super) const ROOT: u64 = 1;
const DEVICE: u64 = 0x51;

pub(super) fn error(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

/// An entry: the inode, and its place in listings.
pub(super) type Entries = BTreeMap<OsString, (u64, u64)>;

#[derive(Clone, Debug, Default)]
pub(super) struct SimFolder {
    pub(super) entries: Entries,
    pub(super) durable: Entries,
}

#[derive(Clone, Debug)]
pub(super) enum Body {
    File(Content),
    Dir(SimFolder),
    Symlink(OsString),
    Other,
}

#[derive(Clone, Debug)]
pub(super) struct Inode {
    pub(super) body: Body,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) rdev: u64,
    pub(super) times: [Time; 3],
    pub(super) xattrs: BTreeMap<OsString, Vec<u8>>,
    pub(super) locked: bool,
}

/// What a name of a directory becomes: an entry, or free.
#[derive(Clone, Debug)]
pub(super) struct NameChange {
    dir: u64,
    name: OsString,
    to: Option<(u64, u64)>,
}

/// One change of entries, atomic.
#[derive(Clone, Debug)]
pub(super) struct EntryChange(Vec<NameChange>);

impl EntryChange {
    pub(super) fn dirs(&self) -> BTreeSet<u64> {
        self.0.iter().map(|c| c.dir).collect()
    }
}

/// What becomes of the number of an inode that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Numbers {
    /// No other inode ever has it. An inode is there for good, so that a power cut can bring it
    /// back.
    Unique,
    /// The next inode has it, as on ext4. Entry changes are durable at once.
    Reused,
}

#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) inodes: BTreeMap<u64, Arc<Inode>>,
    numbers: Numbers,
    /// How many descriptors hold each inode.
    descriptors: BTreeMap<u64, usize>,
    pub(super) pending: Vec<EntryChange>,
    pub(super) space: Option<u64>,
    /// Room for the extended attributes of an inode, in bytes.
    pub(super) attribute_room: Option<usize>,
    /// What each operation takes.
    pub(super) delay: Duration,
    next: u64,
    clock: i64,
    operations: u64,
    /// Which operations fail, by their numbers.
    fault: Option<(RangeInclusive<u64>, i32)>,
    /// Copies of this world, one before each sync, while they are kept.
    moments: Option<Vec<World>>,
}

impl World {
    pub(super) fn new() -> Self {
        let mut world = Self {
            inodes: BTreeMap::new(),
            numbers: Numbers::Unique,
            descriptors: BTreeMap::new(),
            pending: Vec::new(),
            space: None,
            attribute_room: None,
            delay: Duration::ZERO,
            next: ROOT,
            clock: 0,
            operations: 0,
            fault: None,
            moments: None,
        };
        world.add(Body::Dir(SimFolder::default()), libc::S_IFDIR | 0o755, 0);
        world
    }

    /// The `n`th operation from now fails, and so many after it.
    pub(super) fn fail_at(&mut self, n: u64, more: u64, errno: i32) {
        let first = self.operations + n;
        self.fault = Some((first..=first.saturating_add(more), errno));
    }

    pub(super) fn clear_fault(&mut self) {
        self.fault = None;
    }

    /// Keeps a copy before each sync from now on; what was kept so far is answered.
    pub(super) fn keep_moments(&mut self) -> Vec<Self> {
        self.moments.replace(Vec::new()).unwrap_or_default()
    }

    /// What a copy begins as: nobody has it open or locked, and it keeps no moments.
    pub(super) fn begin_copy(&mut self) {
        self.descriptors.clear();
        for inode in self.inodes.values_mut().filter(|inode| inode.locked) {
            Arc::make_mut(inode).locked = false;
        }
        self.moments = None;
    }

    /// Between two syncs the later moment has all crash states of the earlier.
    pub(super) fn before_sync(&mut self) {
        // Taken out, so that the copy does not hold the copies before it.
        if let Some(mut kept) = self.moments.take() {
            kept.push(self.clone());
            self.moments = Some(kept);
        }
    }

    pub(super) fn operations(&self) -> u64 {
        self.operations
    }

    /// Counts an operation, which may be the one that fails.
    pub(super) fn begin(&mut self) -> io::Result<()> {
        self.operations += 1;
        std::thread::sleep(self.delay);
        match &self.fault {
            Some((failing, errno)) if failing.contains(&self.operations) => Err(error(*errno)),
            _ => Ok(()),
        }
    }

    pub(super) fn now(&mut self) -> Time {
        self.clock += 1;
        Time { secs: self.clock, nanos: 0 }
    }

    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    pub(super) fn add(&mut self, body: Body, mode: u32, rdev: u64) -> u64 {
        let ino = match self.numbers {
            Numbers::Unique => self.number(),
            Numbers::Reused => {
                (ROOT..).find(|n| !self.inodes.contains_key(n)).expect("there are free numbers")
            }
        };
        let now = self.now();
        let times = [now; 3];
        let xattrs = BTreeMap::new();
        let inode = Inode { body, mode, uid: 0, gid: 0, rdev, times, xattrs, locked: false };
        self.inodes.insert(ino, Arc::new(inode));
        ino
    }

    pub(super) fn inode(&mut self, ino: u64) -> &mut Inode {
        let inode =
            self.inodes.get_mut(&ino).expect("an inode stays while it has a name or a descriptor");
        Arc::make_mut(inode)
    }

    pub(super) fn content(&mut self, ino: u64) -> io::Result<&mut Content> {
        match &mut self.inode(ino).body {
            Body::File(content) => Ok(content),
            _ => Err(error(libc::EISDIR)),
        }
    }

    pub(super) fn folder(&mut self, ino: u64) -> io::Result<&mut SimFolder> {
        match &mut self.inode(ino).body {
            Body::Dir(folder) => Ok(folder),
            _ => Err(error(libc::ENOTDIR)),
        }
    }

    /// The inode of an entry; `.` is the directory itself.
    pub(super) fn find(&mut self, dir: u64, name: &OsStr) -> io::Result<u64> {
        if name == "." {
            return Ok(dir);
        }
        if name.len() > 255 {
            return Err(error(libc::ENAMETOOLONG));
        }
        let found = self.folder(dir)?.entries.get(name).map(|(ino, _)| *ino);
        found.ok_or(error(libc::ENOENT))
    }

    /// Fails unless `name` can be made in `dir`.
    pub(super) fn expect_free(&mut self, dir: u64, name: &OsStr) -> io::Result<()> {
        let reserved = name.is_empty() || name == "." || name == "..";
        if reserved || name.as_bytes().iter().any(|b| matches!(b, 0 | b'/')) {
            return Err(error(libc::EINVAL));
        }
        match self.find(dir, name) {
            Ok(_) => Err(error(libc::EEXIST)),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Changes entries: each name of each directory becomes an inode's, or free.
    pub(super) fn change(&mut self, changes: &[(u64, &OsStr, Option<u64>)]) {
        let mut done = Vec::new();
        for (dir, name, ino) in changes {
            let to = ino.map(|ino| (ino, self.number()));
            done.push(NameChange { dir: *dir, name: (*name).to_owned(), to });
        }
        let change = EntryChange(done);
        let before: Vec<u64> =
            changes.iter().filter_map(|(dir, name, _)| self.find(*dir, name).ok()).collect();
        self.apply(&change, |folder| &mut folder.entries);
        for dir in change.dirs() {
            let now = self.now();
            self.inode(dir).times[1..].fill(now);
        }
        match self.numbers {
            Numbers::Unique => self.pending.push(change),
            Numbers::Reused => self.apply(&change, |folder| &mut folder.durable),
        }
        before.into_iter().for_each(|ino| self.free(ino));
    }

    /// Makes an inode with a name.
    pub(super) fn make(
        &mut self,
        (dir, name): (u64, &OsStr),
        body: Body,
        mode: u32,
        rdev: u64,
    ) -> io::Result<u64> {
        self.expect_free(dir, name)?;
        let ino = self.add(body, mode, rdev);
        self.change(&[(dir, name, Some(ino))]);
        Ok(ino)
    }

    pub(super) fn reuse_numbers(&mut self) {
        self.sync_all();
        self.numbers = Numbers::Reused;
        let all: Vec<u64> = self.inodes.keys().copied().collect();
        all.into_iter().for_each(|ino| self.free(ino));
    }

    /// Notes that one more descriptor holds an inode.
    pub(super) fn hold(&mut self, ino: u64) {
        *self.descriptors.entry(ino).or_default() += 1;
    }

    /// Notes that a descriptor is closed.
    pub(super) fn release(&mut self, ino: u64) {
        if let Some(holders) = self.descriptors.get_mut(&ino) {
            *holders -= 1;
            if *holders == 0 {
                self.descriptors.remove(&ino);
                self.free(ino);
            }
        }
    }

    /// Gives an inode up that has neither a name nor a descriptor.
    fn free(&mut self, ino: u64) {
        let reused = self.numbers == Numbers::Reused;
        if reused && ino != ROOT && !self.descriptors.contains_key(&ino) && self.links(ino) == 0 {
            self.inodes.remove(&ino);
        }
    }

    /// How many inodes have no name.
    pub(super) fn orphans(&self) -> usize {
        self.inodes.keys().filter(|ino| **ino != ROOT && self.links(**ino) == 0).count()
    }

    pub(super) fn apply(
        &mut self,
        change: &EntryChange,
        side: impl Fn(&mut SimFolder) -> &mut Entries,
    ) {
        for NameChange { dir, name, to } in &change.0 {
            let folder = self.folder(*dir).expect("entries change in directories only");
            match to {
                Some(to) => side(folder).insert(name.clone(), *to),
                None => side(folder).remove(name),
            };
        }
    }

    /// Makes a directory's entry changes durable, and those of others that these wait for.
    pub(super) fn sync_dir(&mut self, dir: u64) {
        self.before_sync();
        // From the last back: what an atomic change belongs to pulls the earlier ones along.
        let mut dirs = BTreeSet::from([dir]);
        let mut durable: Vec<bool> = Vec::new();
        for change in self.pending.iter().rev() {
            let touched = change.dirs();
            let wanted = !dirs.is_disjoint(&touched);
            if wanted {
                dirs.extend(touched);
            }
            durable.push(wanted);
        }
        durable.reverse();
        let all = std::mem::take(&mut self.pending);
        for (change, wanted) in all.into_iter().zip(durable) {
            if wanted {
                self.apply(&change, |folder| &mut folder.durable);
            } else {
                self.pending.push(change);
            }
        }
    }

    pub(super) fn sync_all(&mut self) {
        self.before_sync();
        for change in std::mem::take(&mut self.pending) {
            self.apply(&change, |folder| &mut folder.durable);
        }
        for inode in self.inodes.values_mut().filter(|i| matches!(i.body, Body::File(_))) {
            if let Body::File(content) = &mut Arc::make_mut(inode).body {
                content.sync();
            }
        }
    }

    fn links(&self, ino: u64) -> u64 {
        let folders = self.inodes.values().filter_map(|i| match &i.body {
            Body::Dir(folder) => Some(folder),
            _ => None,
        });
        folders.flat_map(|f| f.entries.values()).filter(|(of, _)| *of == ino).count() as u64
    }

    pub(super) fn stat(&mut self, ino: u64) -> Stat {
        let links = self.links(ino);
        let inode = self.inode(ino);
        let (size, pages) = match &inode.body {
            Body::File(content) => (content.size(), content.allocated()),
            Body::Symlink(target) => (target.len() as u64, 0),
            Body::Dir(folder) => (folder.entries.len() as u64, 0),
            Body::Other => (0, 0),
        };
        let nlink = if matches!(inode.body, Body::Dir(_)) { 2 } else { links };
        Stat {
            dev: DEVICE,
            ino,
            mode: inode.mode,
            nlink,
            uid: inode.uid,
            gid: inode.gid,
            rdev: inode.rdev,
            size,
            blocks: pages * 8,
            blksize: 4096,
            atime: inode.times[0],
            mtime: inode.times[1],
            ctime: inode.times[2],
            btime: Time::default(),
        }
    }

    pub(super) fn kind(&mut self, ino: u64) -> FileKind {
        FileKind::of_mode(self.inode(ino).mode)
    }
}
