//! The tree as it lies on disk: names, directories, symlinks, attributes of directories. Regular
//! files are handed on.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;

use super::Job;
use super::finding::{Place, Problem, errno};
use super::repair::Repair;
use super::stack::Stack;
use super::xattrs;
use crate::content::{HEADER, has_magic};
use crate::disk::{Dir, Directory, Entry, FileKind, Open, Stat};
use crate::fs::DIR_ID;
use crate::ids::DirId;
use crate::names::{self, LinkText};
use crate::store::TREE;

/// A regular file to be read.
pub(super) struct FileJob {
    pub(super) dir: Dir,
    pub(super) entry: OsString,
    pub(super) stat: Stat,
    pub(super) place: Place,
    /// Its path in the tree, as it lies on disk.
    pub(super) path: PathBuf,
}

/// What an entry of the tree is.
enum Role {
    /// Kmsfs's own, and as it should be.
    Own,
    /// What no mount has made, told of already.
    Stranger,
    /// An entry with this name in the mount; `None` where that is not known.
    Named(Option<OsString>),
}

/// A walk over the tree.
pub(super) struct Walk<'a> {
    job: &'a Job<'a>,
    stack: Stack,
    queue: SyncSender<FileJob>,
    /// Inodes with several names that were seen under one of them.
    linked: HashSet<u64>,
    ids: HashSet<DirId>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(job: &'a Job<'a>, queue: SyncSender<FileJob>) -> Self {
        let stack = Stack::new(&job.fsck.store);
        Self { job, stack, queue, linked: HashSet::new(), ids: HashSet::new() }
    }

    pub(super) fn run(mut self) {
        let root = self.job.fsck.store.tree().clone();
        self.enter((OsString::new(), None), root);
        while self.stack.top().is_some() && !self.job.is_stopped() {
            match self.stack.next() {
                Ok(Some(entry)) if entry.name != "." && entry.name != ".." => self.entry(&entry),
                Ok(Some(_)) => {}
                Ok(None) => self.stack.pop(),
                Err(e) => {
                    self.job.tell(&self.stack.here(), Problem::Unreadable(errno(&e)));
                    self.stack.pop();
                }
            }
        }
    }

    fn enter(&mut self, entry: (OsString, Option<OsString>), dir: Dir) {
        self.stack.push(entry, dir.clone());
        let here = self.stack.here();
        let id = if self.stack.is_at_root() { Some(DirId::ROOT) } else { self.id(&*dir, &here) };
        let path = || self.stack.path(None);
        xattrs::check(self.job, &*dir, OsStr::new("."), &here, path);
        self.stack.set_id(id.filter(|_| self.job.is_encrypted()));
    }

    /// The id of a directory below the root.
    fn id(&mut self, dir: &dyn Directory, here: &Place) -> Option<DirId> {
        if !self.job.is_encrypted() {
            return None;
        }
        let what = match dir.readlink(OsStr::new(DIR_ID)) {
            Ok(text) => match text.to_str().and_then(|t| DirId::parse(t).ok()) {
                Some(id) if id != DirId::ROOT && self.ids.insert(id) => return Some(id),
                Some(id) => {
                    self.job.tell(here, Problem::DuplicateId);
                    return Some(id);
                }
                None => Problem::BadDirId,
            },
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                match crate::disk::names(dir).map(|names| names.is_empty()) {
                    Ok(true) => {
                        let repair = Repair::DirId(self.stack.path(None));
                        self.job.tell_repairable(here.clone(), Problem::FreshDir, repair);
                        return None;
                    }
                    Ok(false) => Problem::NoDirId,
                    Err(e) => Problem::Unreadable(errno(&e)),
                }
            }
            // What is no symlink.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Problem::BadDirId,
            Err(e) => Problem::Unreadable(errno(&e)),
        };
        self.job.tell(here, what);
        None
    }

    fn entry(&mut self, entry: &Entry) {
        let dir = match self.stack.dir() {
            Ok(dir) => dir,
            Err(e) => {
                let place = self.stack.place(&entry.name, None);
                return self.job.tell(&place, Problem::Unreadable(errno(&e)));
            }
        };
        let name = match self.role(&dir, &entry.name) {
            Role::Own | Role::Stranger => return,
            Role::Named(name) => name,
        };
        let place = self.stack.place(&entry.name, name.as_ref());
        let stat = match dir.stat(&entry.name) {
            Ok(stat) => stat,
            Err(e) => return self.job.tell(&place, Problem::Unreadable(errno(&e))),
        };
        if stat.dev != self.job.fsck.store.device() {
            return self.job.tell(&place, Problem::OtherDevice);
        }
        if stat.kind() == FileKind::Dir {
            match dir.open_dir(&entry.name) {
                Ok(below) => self.enter((entry.name.clone(), name), below),
                Err(e) => self.job.tell(&place, Problem::Unreadable(errno(&e))),
            }
            return;
        }
        if stat.nlink > 1 && !self.linked.insert(stat.ino) {
            return;
        }
        match stat.kind() {
            FileKind::Symlink => self.symlink(&*dir, &entry.name, &place),
            FileKind::File => {
                let path = self.stack.path(Some(&entry.name));
                let file = FileJob { dir, entry: entry.name.clone(), stat, place, path };
                // The threads take all, also when the check has stopped.
                let _ = self.queue.send(file);
            }
            _ => {}
        }
    }

    fn role(&self, dir: &Dir, entry: &OsString) -> Role {
        let at_root = self.stack.is_at_root();
        if !self.job.is_encrypted() {
            return Role::Named(Some(entry.clone()));
        }
        let is_link = || dir.readlink(entry).is_ok();
        if !at_root && entry == DIR_ID {
            return Role::Own; // Looked at when the directory was entered.
        }
        let bytes = entry.as_bytes();
        let main = bytes.strip_suffix(b".name").filter(|main| names::is_long_entry(main));
        if let Some(main) = main.filter(|_| is_link()) {
            self.record(dir, entry, OsStr::from_bytes(main));
            return Role::Own;
        }
        let Some(id) = self.stack.top().and_then(|top| top.id) else {
            return Role::Named(None); // The directory is reported already.
        };
        let name = if names::is_long_entry(bytes) {
            let record = dir.readlink(&names::record_of(bytes));
            match record {
                Ok(text) => names::decrypt_long(&self.job.names, id, bytes, text.as_bytes())
                    .map_err(|_| Problem::BadName),
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Err(Problem::NoRecord),
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Err(Problem::BadName),
                Err(e) => Err(Problem::Unreadable(errno(&e))),
            }
        } else {
            names::decrypt(&self.job.names, id, bytes).map_err(|_| Problem::BadName)
        };
        match name {
            Ok(name) => Role::Named(Some(OsString::from_vec(name))),
            Err(Problem::BadName) if is_stranger(&**dir, entry) => {
                let path = Path::new(TREE).join(self.stack.path(Some(entry)));
                let place = Place::Store(path.clone());
                self.job.tell_repairable(place, Problem::Stranger, Repair::Aside(path));
                Role::Stranger
            }
            Err(what) => {
                self.job.tell(&self.stack.place(entry, None), what);
                Role::Named(None)
            }
        }
    }

    /// A record of a long name: its entry has to be there.
    fn record(&self, dir: &Dir, record: &OsString, entry: &OsStr) {
        let place = self.stack.place(record, None);
        match dir.stat(entry) {
            Ok(_) => {}
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                let repair = Repair::Record(self.stack.path(Some(record)));
                self.job.tell_repairable(place, Problem::UnusedRecord, repair);
            }
            Err(e) => self.job.tell(&place, Problem::Unreadable(errno(&e))),
        }
    }

    fn symlink(&self, dir: &dyn Directory, entry: &OsStr, place: &Place) {
        let job = self.job;
        let text = match dir.readlink(entry) {
            Ok(text) => text,
            Err(e) => return job.tell(place, Problem::Unreadable(errno(&e))),
        };
        let opened = match names::parse_link(text.as_bytes()) {
            Ok(LinkText::Inline(sealed)) => names::open_inline(&job.names, &sealed),
            Ok(LinkText::Body(id)) => {
                job.bodies.lock().insert(id);
                match job.fsck.store.read_link_body(id) {
                    Ok(body) => names::open_body(&job.names, id, &body),
                    Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                        return job.tell(place, Problem::NoBody(id));
                    }
                    Err(e) => return job.tell(place, Problem::Unreadable(errno(&e))),
                }
            }
            Err(bad) => Err(bad),
        };
        if opened.is_err() {
            job.tell(place, Problem::Target);
        }
    }
}

/// Whether no mount has made an entry: its name has never been one of a volume's, nor does what it
/// is look like anything of a volume's. What cannot be looked at may be.
fn is_stranger(dir: &dyn Directory, entry: &OsStr) -> bool {
    let Ok(stat) = dir.stat(entry) else { return false };
    !names::is_entry(entry.as_bytes())
        && match stat.kind() {
            FileKind::File => {
                let mut first = [0; HEADER];
                let read = dir.open(entry, Open::Read).and_then(|f| f.read_at(&mut first, 0));
                // A file that was made longer has zeros in the place of its header.
                read.is_ok_and(|n| n == 0 || !has_magic(&first) && first != [0; HEADER])
            }
            FileKind::Dir => {
                let id = dir.open_dir(entry).map(|below| below.stat(OsStr::new(DIR_ID)));
                id.is_ok_and(|id| id.is_err_and(|e| e.raw_os_error() == Some(libc::ENOENT)))
            }
            FileKind::Symlink => {
                dir.readlink(entry).is_ok_and(|text| names::parse_link(text.as_bytes()).is_err())
            }
            _ => true,
        }
}
