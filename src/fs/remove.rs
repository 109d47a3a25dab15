//! Removing entries, and forgetting inodes.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Fs;
use super::errno::{Outcome, errno};
use super::names::{DIR_ID, entry_of, is_absent};
use super::node::Node;
use super::records;
use crate::disk::{Dir, Directory, File, FileKind, Open, OpenFile, Stat, TimeChange};
use crate::ids::FileId;
use crate::names::LinkText;
use crate::secret::give_back;
use crate::store::Names;

/// So many removed files may wait for their header: each holds a descriptor, and the daemon
/// lives with 1,024 of them.
pub const MOST_ASKED: usize = 256;

impl Fs {
    /// unlink(2).
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn unlink(&self, parent: u64, name: &OsStr) -> Outcome<()> {
        self.writable()?;
        let parent = self.node(parent)?;
        let disk = self.disk_name(&parent, name)?;
        let (dir, entry) = (self.dir(parent.ino)?, entry_of(&disk));
        let removal = self.prepare_removal(&dir, entry)?;
        dir.unlink(entry)?;
        self.drop_record(&*dir, &disk);
        self.unlinked(removal, &parent, entry);
        Ok(())
    }

    /// Looks at what is about to lose a name, and holds its inode if that may be the last. Where
    /// the removal fails, the answer is dropped and the inode let go.
    pub(super) fn prepare_removal(&self, dir: &Dir, entry: &OsStr) -> Outcome<PendingRemoval<'_>> {
        let stat = dir.stat(entry)?;
        let node = self.table.get(self.map_ino(stat.ino));
        let mut removal = PendingRemoval { node, stat, body: None, held: None };
        if stat.kind() == FileKind::Symlink
            && let Ok(text) = dir.readlink(entry)
            && let Ok(LinkText::Body(id)) =
                crate::names::parse_link(std::os::unix::ffi::OsStrExt::as_bytes(&*text))
        {
            removal.body = Some(id);
        }
        let last = stat.kind() == FileKind::Dir || stat.nlink == 1;
        if let Some(node) = removal.node.as_ref().filter(|_| last) {
            removal.held = Some(self.hold_for_removal(node, &**dir, entry));
        }
        Ok(removal)
    }

    /// Keeps an inode open that is about to lose its last name, until the kernel forgets it.
    fn hold_for_removal(&self, node: &Arc<Node>, dir: &dyn Directory, entry: &OsStr) -> Held<'_> {
        let mut content = node.content.write();
        content.removals += 1;
        if content.file.is_none() {
            let how = if node.kind == FileKind::File { Open::Read } else { Open::Pin };
            content.file = dir.open(entry, how).or_else(|_| dir.open(entry, Open::Pin)).ok();
            content.writable = false;
        }
        if node.kind == FileKind::File
            && content.id.is_none()
            && !content.keyless
            && !content.header_asked
            && let Some(file) = content.file.clone()
        {
            match self.id_of_removed(&*file) {
                Some(Some(id)) => self.learn_id(node, &mut content, id),
                Some(None) => {}
                None => content.header_asked = true,
            }
        }
        drop(content);
        Held { fs: self, node: node.clone() }
    }

    /// The id of a file about to go, which only its sidecar line's removal needs. `None` where
    /// the disk was asked for the header, and it is to be read when the kernel forgets the inode:
    /// a removal of many cold files would otherwise wait for the disk once for each.
    fn id_of_removed(&self, file: &dyn OpenFile) -> Option<Option<FileId>> {
        let found = if self.headers_asked.fetch_add(1, Ordering::Relaxed) < MOST_ASKED {
            records::file_id_at_hand(file)
        } else {
            records::file_id(file).map(Some)
        };
        if let Ok(None) = found {
            return None;
        }
        self.headers_asked.fetch_sub(1, Ordering::Relaxed);
        Some(found.ok().flatten().flatten())
    }

    /// After an entry is gone: the inode's name is taken from it.
    pub(super) fn unlinked(&self, removal: PendingRemoval<'_>, parent: &Node, entry: &OsStr) {
        let last = removal.stat.kind() == FileKind::Dir || removal.stat.nlink == 1;
        if let Some(id) = removal.body.filter(|_| last) {
            self.keyring.schedule_body_removal(id);
        }
        if removal.stat.kind() == FileKind::Dir {
            parent.fresh_children.lock().remove(self.map_ino(removal.stat.ino));
        }
        let Some(node) = &removal.node else { return };
        self.table.remove_link(node, parent.ino, entry, &mut |gone| self.forgotten(gone));
        if node.kind == FileKind::Dir {
            self.dirs.forget(node.ino);
        }
        if !last {
            // Another name is left, which leads to it again.
            node.close_unused(&mut node.content.write());
        }
    }

    /// rmdir(2).
    ///
    /// # Errors
    /// ENOTEMPTY; of the backing filesystem.
    pub fn rmdir(&self, parent: u64, name: &OsStr) -> Outcome<()> {
        self.writable()?;
        let parent = self.node(parent)?;
        let disk = self.disk_name(&parent, name)?;
        let (dir, entry) = (self.dir(parent.ino)?, entry_of(&disk));
        let removal = self.prepare_removal(&dir, entry)?;
        if removal.stat.kind() != FileKind::Dir {
            return Err(errno(libc::ENOTDIR));
        }
        self.with_dir_id_removed(&dir, entry, || Ok(dir.rmdir(entry)?)).inspect_err(|e| {
            if *e == errno(libc::ENOTEMPTY) {
                self.tell_what_is_in_the_way(&parent, &*dir, entry);
            }
        })?;
        self.drop_record(&*dir, &disk);
        self.unlinked(removal, &parent, entry);
        Ok(())
    }

    /// Takes the id out of an empty directory, acts, and puts it back where that fails. The
    /// kernel holds the directory's lock meanwhile.
    pub(super) fn with_dir_id_removed(
        &self,
        dir: &Dir,
        entry: &OsStr,
        act: impl FnOnce() -> Outcome<()>,
    ) -> Outcome<()> {
        if self.names == Names::Plain {
            return act();
        }
        let (mut victim, mut _entered) = open_own(dir, entry)?;
        let before = victim.stat_self()?;
        let strays = match strays_of_empty(&*victim) {
            // It can be entered, and not listed.
            Err(e) if e == errno(libc::EACCES) => {
                let (opened, entered) = enter(dir, entry)?;
                (victim, _entered) = (opened, Some(entered));
                strays_of_empty(&*victim)?
            }
            strays => strays?,
        };
        for stray in strays {
            victim.unlink(&stray)?;
        }
        let id_name = OsStr::new(DIR_ID);
        let id = match victim.readlink(id_name) {
            Ok(id) => Some(id),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => None,
            Err(e) => return Err(e.into()),
        };
        if id.is_some() {
            victim.unlink(id_name)?;
        }
        let done = act();
        if done.is_err()
            && let Some(id) = id
        {
            match victim.symlink(id_name, &id) {
                Ok(()) => keep_mtime(&*victim, &before),
                Err(e) => {
                    log::error!("cannot restore the id of a directory that was not removed: {e}")
                }
            }
        }
        done
    }

    /// Takes lookups back. An inode that the kernel has forgotten gives its data key's line up
    /// where it has no name any more, or is empty: then nothing on the disk refers to the key.
    pub fn forget(&self, ino: u64, lookups: u64) {
        let mut any = false;
        self.table.forget(ino, lookups, &mut |node| {
            self.forgotten(node);
            any = true;
        });
        if any && self.table.has_shrunk() {
            give_back();
        }
    }

    /// What follows when the kernel has forgotten an inode, or it is gone from the store.
    pub(super) fn forgotten(&self, node: &Node) {
        if node.kind == FileKind::Dir {
            return self.forget_dir_id(node);
        }
        let content = node.content.read();
        if let Some(id) = content.id.filter(|_| content.headerless) {
            self.let_go(node, id);
        // Names that the kernel never looked up count too: only the inode knows of them.
        } else if node.place().is_none()
            && let Some(file) = &content.file
            && file.stat().is_ok_and(|s| s.nlink == 0)
        {
            let id = match content.id {
                None if content.header_asked => records::file_id(&**file).ok().flatten(),
                known => known,
            };
            if let Some(id) = id {
                self.let_go(node, id);
            }
        } else if let Some(id) = content.id {
            self.forget_id(node, id);
        }
        if content.header_asked {
            self.headers_asked.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// At the end of the mount, when no forget comes any more.
    pub fn forget_all(&self) {
        for node in self.table.all() {
            self.forgotten(&node);
        }
    }
}

/// Opens a folder that is about to be removed. An ordinary user's daemon first gives itself
/// the bits that it takes: removing an empty folder of one's own needs none of them.
fn open_own(dir: &Dir, entry: &OsStr) -> Outcome<(Dir, Option<Entered>)> {
    match dir.open_dir(entry) {
        Err(e) if e.raw_os_error() == Some(libc::EACCES) => {
            let (opened, entered) = enter(dir, entry)?;
            Ok((opened, Some(entered)))
        }
        other => Ok((other?, None)),
    }
}

fn enter(dir: &Dir, entry: &OsStr) -> Outcome<(Dir, Entered)> {
    let pin = dir.open(entry, Open::Pin)?;
    let mode = pin.mode()?;
    if FileKind::of_mode(mode) != FileKind::Dir {
        return Err(errno(libc::ENOTDIR));
    }
    let entered = Entered { mode: mode & 0o7777, pin };
    entered.pin.set_mode(entered.mode | 0o700)?;
    Ok((dir.open_dir(entry)?, entered))
}

/// A folder whose mode was changed for its removal. It gets its own back when this is dropped: it
/// is there still where the removal failed.
struct Entered {
    pin: File,
    mode: u32,
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Err(e) = self.pin.set_mode(self.mode) {
            log::error!(
                "cannot restore the mode {:o} of a directory that was not removed: {e}",
                self.mode
            );
        }
    }
}

/// A directory in which nothing changed after all shows no change.
fn keep_mtime(dir: &dyn Directory, before: &Stat) {
    let own = dir.open(OsStr::new("."), Open::Pin);
    let kept = own.and_then(|own| own.set_times(TimeChange::Keep, TimeChange::To(before.mtime)));
    if let Err(e) = kept {
        log::warn!("cannot restore the modification time of a directory that was not removed: {e}");
    }
}

/// What a power cut may have left in a directory without entries. It is looked at no further than
/// to the first entry, however many there are.
///
/// # Errors
/// ENOTEMPTY where there is one; of the backing filesystem.
fn strays_of_empty(dir: &dyn Directory) -> Outcome<Vec<OsString>> {
    let (mut strays, mut is_empty) = (Vec::new(), true);
    dir.list(0, &mut |entry| {
        if entry.name == "." || entry.name == ".." || entry.name == DIR_ID {
            return true;
        }
        is_empty = is_stray_record(dir, &entry.name);
        strays.push(entry.name);
        is_empty
    })?;
    if is_empty { Ok(strays) } else { Err(errno(libc::ENOTEMPTY)) }
}

/// The record of a long name whose entry is gone: a power cut may leave it.
fn is_stray_record(dir: &dyn Directory, name: &OsStr) -> bool {
    let text = name.to_string_lossy();
    text.starts_with('+')
        && text.strip_suffix(".name").is_some_and(|entry| is_absent(dir, OsStr::new(entry)))
}

/// An entry about to go.
pub(super) struct PendingRemoval<'a> {
    /// The inode, if the kernel knows it.
    pub(super) node: Option<Arc<Node>>,
    /// Its attributes before.
    pub(super) stat: Stat,
    body: Option<crate::ids::LinkId>,
    held: Option<Held<'a>>,
}

/// An inode that may lose its last name, held open. When this is dropped it is let go, unless the
/// name is gone indeed.
struct Held<'a> {
    fs: &'a Fs,
    node: Arc<Node>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut content = self.node.content.write();
        content.removals -= 1;
        self.node.close_unused(&mut content);
        if content.file.is_none() && std::mem::take(&mut content.header_asked) {
            self.fs.headers_asked.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
