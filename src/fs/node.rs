//! An inode, and what is known of its content.

use std::ffi::{OsStr, OsString};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use parking_lot::{Mutex, RwLock};

use super::fresh::Fresh;
use super::records::Tail;
use super::size_floor::SizeFloor;
use super::table::{Inode, ROOT};
use crate::disk::{File, FileKind, Time};
use crate::ids::{DirId, FileId};

/// Where an inode is found: a parent and a name on disk.
pub(super) type Link = (u64, Box<OsStr>);

/// Past this many known links of one inode, more are not remembered.
pub(super) const MOST_LINKS: usize = 64;

/// What is known of a file's security.capability (capabilities(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Nothing.
    Unknown,
    /// It has none.
    Absent,
    /// It may have one, which a write could not remove.
    Stays,
}

/// What is known of a regular file's content, under its lock.
#[derive(Debug, Default)]
pub struct Content {
    /// The backing file, while it is open or unlinked.
    pub file: Option<File>,
    /// Whether `file` is open for writing too.
    pub writable: bool,
    /// The file id, once read from the header or assigned.
    pub id: Option<FileId>,
    /// Whether the file is known to have no header, so that none is to be read.
    pub keyless: bool,
    /// Whether the id is in memory alone: an empty file has no header. Who forgets the inode
    /// forgets the key.
    pub headerless: bool,
    /// What is known of the last record's padding.
    pub tail: Tail,
    /// While it has no key: so many of its records were looked at, and are holes.
    pub blank: u64,
    /// Whether a removal left the header to be read when the kernel forgets the inode.
    pub header_asked: bool,
    /// Opens that are not released yet.
    pub openers: u32,
    /// Those for writing.
    pub writers: u32,
    /// Removals under way that hold `file`.
    pub removals: u32,
}

/// An inode.
#[derive(Debug)]
pub struct Node {
    /// Its number on the mount.
    pub ino: u64,
    /// Its kind.
    pub kind: FileKind,
    /// When it was made, as far as the store says.
    pub btime: Time,
    /// What tells it from others that have had its number, or will have it: file handles
    /// (name_to_handle_at(2)) hold both.
    pub generation: u32,
    pub(super) links: Mutex<Vec<Link>>,
    /// A directory's id, once read.
    pub dir_id: OnceLock<DirId>,
    /// A regular file's content.
    pub content: RwLock<Content>,
    /// A size that the content has at least.
    pub size_floor: SizeFloor,
    /// Whether the kernel may hold pages of it.
    pub paged: AtomicBool,
    /// Whether a directory has a default ACL: 0 unknown, 1 no, 2 yes.
    pub default_acl: AtomicU8,
    capability: AtomicU8,
    /// Whether it is a directory with an entry that is not of this volume.
    pub has_stranger: AtomicBool,
    /// Held while its `user.*` attributes are changed.
    pub(super) user_xattrs: Mutex<()>,
    /// Directories made in this one, whose ids are not durable yet.
    pub fresh_children: Mutex<Fresh>,
}

impl Node {
    /// An inode of which nothing else is known yet.
    pub(super) fn new(inode: Inode, generation: u32) -> Self {
        let Inode { ino, kind, btime } = inode;
        Self {
            ino,
            kind,
            btime,
            generation,
            links: Mutex::new(Vec::new()),
            dir_id: OnceLock::new(),
            content: RwLock::new(Content::default()),
            size_floor: SizeFloor::default(),
            paged: AtomicBool::new(false),
            default_acl: AtomicU8::new(0),
            capability: AtomicU8::new(Capability::Unknown as u8),
            has_stranger: AtomicBool::new(false),
            user_xattrs: Mutex::default(),
            fresh_children: Mutex::default(),
        }
    }

    /// What is known of its security.capability.
    pub fn capability(&self) -> Capability {
        let known = self.capability.load(Ordering::Relaxed);
        let mut all = [Capability::Absent, Capability::Stays].into_iter();
        all.find(|one| *one as u8 == known).unwrap_or(Capability::Unknown)
    }

    /// What is known of it from now on.
    pub fn set_capability(&self, known: Capability) {
        self.capability.store(known as u8, Ordering::Relaxed);
    }

    /// A parent and a name on disk that lead here; `None` for the root and for what has been
    /// unlinked.
    pub fn place(&self) -> Option<(u64, OsString)> {
        self.links.lock().last().map(|(parent, name)| (*parent, name.to_os_string()))
    }

    /// Closes the backing file where nothing needs it: no open, no removal under way. What has no
    /// name any more could not be opened again, and stays until the kernel forgets it.
    pub fn close_unused(&self, content: &mut Content) {
        if content.openers == 0 && content.removals == 0 && self.is_named() {
            content.file = None;
            content.writable = false;
            self.size_floor.forget();
        }
    }

    /// The folders of every known name, but the root.
    pub(super) fn parents(&self) -> Vec<u64> {
        self.links.lock().iter().map(|(parent, _)| *parent).filter(|p| *p != ROOT).collect()
    }

    fn is_named(&self) -> bool {
        !self.links.lock().is_empty()
    }

    /// Every known parent and name.
    pub fn places(&self) -> Vec<(u64, OsString)> {
        self.links.lock().iter().map(|(p, n)| (*p, n.to_os_string())).collect()
    }
}
