//! Renaming.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;

use super::Fs;
use super::errno::Outcome;
use super::names::entry_of;
use super::node::Node;
use super::remove::PendingRemoval;
use crate::disk::{Dir, FileKind, Replace, Stat};
use crate::names::DiskName;

/// What rename does about an entry that is there already (renameat2(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameHow {
    /// Replaces it.
    Over,
    /// EEXIST.
    NoReplace,
    /// Swaps the two.
    Exchange,
    /// Replaces it, and leaves a whiteout in the old place.
    Whiteout,
}

struct End {
    node: Arc<Node>,
    dir: Dir,
    name: DiskName,
}

impl End {
    fn entry(&self) -> &OsStr {
        entry_of(&self.name)
    }
}

/// What is there; `None` where nothing is.
fn present(found: io::Result<Stat>) -> io::Result<Option<Stat>> {
    match found {
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        other => other.map(Some),
    }
}

impl Fs {
    /// rename(2) and renameat2(2).
    ///
    /// # Errors
    /// ENOTEMPTY, EEXIST; of the backing filesystem.
    pub fn rename(&self, from: (u64, &OsStr), to: (u64, &OsStr), how: RenameHow) -> Outcome<()> {
        self.writable()?;
        let (from, to) = (self.end(from)?, self.end(to)?);
        if how == RenameHow::Exchange {
            return self.exchange(&from, &to);
        }
        self.add_record(&*to.dir, &to.name)?;
        let moved = self.move_over(&from, &to, how);
        if moved.is_err() {
            self.drop_record(&*to.dir, &to.name);
        }
        moved
    }

    fn end(&self, (parent, name): (u64, &OsStr)) -> Outcome<End> {
        let node = self.node(parent)?;
        let name = self.disk_name(&node, name)?;
        Ok(End { dir: self.dir(parent)?, node, name })
    }

    fn move_over(&self, from: &End, to: &End, how: RenameHow) -> Outcome<()> {
        let source = from.dir.stat(from.entry())?;
        let target = match how {
            RenameHow::Over | RenameHow::Whiteout => present(to.dir.stat(to.entry()))?,
            RenameHow::NoReplace | RenameHow::Exchange => None,
        };
        if target.is_some_and(|t| t.ino == source.ino) {
            // Two names of one inode: rename(2) does nothing.
            return Ok(from.dir.rename(from.entry(), &*to.dir, to.entry(), Replace::Over)?);
        }
        let removal = target.map(|_| self.prepare_removal(&to.dir, to.entry())).transpose()?;
        let flags = match how {
            RenameHow::Over => Replace::Over,
            RenameHow::Whiteout => Replace::Whiteout,
            RenameHow::NoReplace | RenameHow::Exchange => Replace::Never,
        };
        let act = || Ok(from.dir.rename(from.entry(), &*to.dir, to.entry(), flags)?);
        let both_dirs =
            source.kind() == FileKind::Dir && target.is_some_and(|t| t.kind() == FileKind::Dir);
        if both_dirs {
            self.with_dir_id_removed(&to.dir, to.entry(), act)?
        } else {
            act()?
        }
        self.moved(from, to, source.ino, removal);
        Ok(())
    }

    fn moved(&self, from: &End, to: &End, source: u64, removal: Option<PendingRemoval<'_>>) {
        self.drop_record(&*from.dir, &from.name);
        if let Some(removal) = removal {
            self.unlinked(removal, &to.node, to.entry());
        }
        if let Some(node) = self.table.get(self.map_ino(source)) {
            self.moved_link(&node, from, to);
        }
    }

    fn moved_link(&self, node: &Node, from: &End, to: &End) {
        self.table.add_link(node, to.node.ino, to.entry());
        let gone = &mut |gone: &Node| self.forgotten(gone);
        self.table.remove_link(node, from.node.ino, from.entry(), gone);
        self.moved_fresh(node, from, to);
    }

    /// A new directory's id is not durable before its parent is synced, wherever it moved.
    fn moved_fresh(&self, node: &Node, from: &End, to: &End) {
        if node.kind != FileKind::Dir {
            return;
        }
        let may_be_fresh = from.node.fresh_children.lock().remove(node.ino);
        if may_be_fresh {
            to.node.fresh_children.lock().add(node.ino);
        }
    }

    fn exchange(&self, a: &End, b: &End) -> Outcome<()> {
        let (at_a, at_b) = (a.dir.stat(a.entry())?, b.dir.stat(b.entry())?);
        a.dir.rename(a.entry(), &*b.dir, b.entry(), Replace::Exchange)?;
        let swap = |ino: u64, from: &End, to: &End| {
            if let Some(node) = self.table.get(self.map_ino(ino)) {
                self.moved_link(&node, from, to);
            }
        };
        if at_a.ino != at_b.ino {
            swap(at_a.ino, a, b);
            swap(at_b.ino, b, a);
        }
        Ok(())
    }
}
