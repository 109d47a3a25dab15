//! Attributes: what a lookup and a getattr answer, and what a setattr changes.

use std::ffi::OsStr;

use super::Fs;
use super::dirs::Seen;
use super::errno::{Outcome, errno};
use super::node::{Capability, Node};
use super::who::{Who, drop_set_ids_unless_privileged};
use crate::content::plain_size;
use crate::disk::{Directory, FileKind, OpenFile, Stat, Time, TimeChange};

/// The attributes of an inode, with the mount's own number and plaintext size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr(pub Stat);

/// What a look-up answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The inode's attributes.
    pub attr: Attr,
    /// Which of the inodes that have had this number, as far as the kernel remembers them.
    pub generation: u32,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The present.
    Now,
    /// This.
    To(Time),
}

/// What a setattr changes; what is `None` stays.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change of content.
    pub mtime: Option<SetTime>,
    /// Who asks: what an ordinary user truncates or gives away loses its set-id bits.
    pub by: Who,
}

fn time_change(t: Option<SetTime>) -> TimeChange {
    match t {
        None => TimeChange::Keep,
        Some(SetTime::Now) => TimeChange::Now,
        Some(SetTime::To(t)) => TimeChange::To(t),
    }
}

impl Fs {
    /// The mount's attributes of what `stat` found at `name` in `dir`.
    pub(super) fn attr_of(&self, stat: Stat, dir: &dyn Directory, name: &OsStr) -> Outcome<Attr> {
        let mut stat = stat;
        if stat.dev != self.store.device() {
            // Another filesystem mounted inside the store: its files are not ours.
            return Err(errno(libc::EXDEV));
        }
        stat.ino = self.map_ino(stat.ino);
        match stat.kind() {
            FileKind::File => stat.size = plain_size(stat.size),
            FileKind::Symlink => stat.size = self.read_target(dir, name)?.len() as u64,
            _ => {}
        }
        Ok(Attr(stat))
    }

    /// The attributes of an inode.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn getattr(&self, ino: u64) -> Outcome<Attr> {
        let node = self.node(ino)?;
        if let Some(file) = node.content.read().file.clone() {
            return self.attr_of_held(&node, &*file);
        }
        self.at_place(&node, |dir, name| {
            let stat = dir.stat(name)?;
            Ok(Seen { ino: stat.ino, what: self.attr_of(stat, &**dir, name)? })
        })
    }

    /// The mount's attributes of an inode that is open, or held.
    fn attr_of_held(&self, node: &Node, file: &dyn OpenFile) -> Outcome<Attr> {
        let mut stat = file.stat()?;
        stat.ino = node.ino;
        match stat.kind() {
            FileKind::File => stat.size = plain_size(stat.size),
            FileKind::Symlink => stat.size = self.open_target(&file.readlink()?)?.len() as u64,
            _ => {}
        }
        Ok(Attr(stat))
    }

    /// Changes attributes.
    ///
    /// # Errors
    /// `Park` when the size changes and the key is not at hand; of the backing filesystem.
    pub fn setattr(&self, ino: u64, change: &Change) -> Outcome<Attr> {
        self.writable()?;
        let node = self.node(ino)?;
        if let Some(size) = change.size {
            self.truncate(&node, size)?;
            node.set_capability(Capability::Unknown);
        }
        let held = self.hold(&node)?;
        let file = &*held;
        // The kernel leaves this to us (HANDLE_KILLPRIV_V2). A chown does it in the store's own
        // filesystem too, which does not know who asks.
        if change.size.is_some() || change.uid.is_some() || change.gid.is_some() {
            drop_set_ids_unless_privileged(file, change.by)?;
        }
        if change.uid.is_some() || change.gid.is_some() {
            file.set_owner(change.uid, change.gid)?;
        }
        if let Some(mode) = change.mode
            && node.kind != FileKind::Symlink
        {
            file.set_mode(mode & 0o7777)?;
        }
        if change.atime.is_some() || change.mtime.is_some() {
            file.set_times(time_change(change.atime), time_change(change.mtime))?;
        }
        self.attr_of_held(&node, file)
    }
}
