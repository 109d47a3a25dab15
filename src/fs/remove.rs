//! Removing entries, and forgetting inodes.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Fs;
use super::errno::{Outcome, errno};
use super::names::{DIR_ID, entry_of, is_absent};
use super::records;
use super::table::Node;
use crate::disk::{Dir, Directory, FileKind, Open, OpenFile, Stat};
use crate::ids::FileId;
use crate::names::LinkText;
use crate::secret::give_back;
use crate::store::Names;

/// So many removed files may wait for their header: each holds a descriptor, and the daemon
/// lives with 1,024 of them.
const MOST_ASKED: usize = 256;

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
        let doomed = self.doom(&dir, entry)?;
        dir.unlink(entry)?;
        self.drop_record(&*dir, &disk);
        self.unlinked(doomed, parent.ino, entry);
        Ok(())
    }

    /// Looks at what is about to lose a name, and holds its inode if that may be the last.
    pub(super) fn doom(&self, dir: &Dir, entry: &OsStr) -> Outcome<Doomed> {
        let stat = dir.stat(entry)?;
        let node = self.table.get(self.map_ino(stat.ino));
        let mut doomed = Doomed { node, stat, body: None };
        if stat.kind() == FileKind::Symlink
            && let Ok(text) = dir.readlink(entry)
            && let Ok(LinkText::Body(id)) =
                crate::names::parse_link(std::os::unix::ffi::OsStrExt::as_bytes(&*text))
        {
            doomed.body = Some(id);
        }
        let last = stat.kind() == FileKind::Dir || stat.nlink == 1;
        if let Some(node) = doomed.node.as_ref().filter(|_| last) {
            self.pin(node, &**dir, entry);
        }
        Ok(doomed)
    }

    /// Keeps an inode open that is about to lose its last name, until the kernel forgets it.
    fn pin(&self, node: &Arc<Node>, dir: &dyn Directory, entry: &OsStr) {
        let mut content = node.content.write();
        if content.file.is_none() {
            let how = if node.kind == FileKind::File { Open::Read } else { Open::Pin };
            content.file = dir.open(entry, how).or_else(|_| dir.open(entry, Open::Pin)).ok();
            content.writable = false;
        }
        if node.kind == FileKind::File
            && content.id.is_none()
            && !content.header_asked
            && let Some(file) = content.file.clone()
        {
            match self.id_of_doomed(&*file) {
                Some(id) => content.id = id,
                None => content.header_asked = true,
            }
        }
    }

    /// The id of a file about to go, which only its sidecar line's removal needs. `None` where
    /// the disk was asked for the header, and it is to be read when the kernel forgets the inode:
    /// a removal of many cold files would otherwise wait for the disk once for each.
    fn id_of_doomed(&self, file: &dyn OpenFile) -> Option<Option<FileId>> {
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
    pub(super) fn unlinked(&self, doomed: Doomed, parent: u64, entry: &OsStr) {
        let last = doomed.stat.kind() == FileKind::Dir || doomed.stat.nlink == 1;
        if let Some(id) = doomed.body.filter(|_| last) {
            self.keyring.bury_body(id);
        }
        let Some(node) = doomed.node else { return };
        node.remove_link(parent, entry);
        if node.kind == FileKind::Dir {
            self.dirs.forget(node.ino);
        }
        if !last {
            // Another name is left: the pin, if any, is not needed for finding it.
            let mut content = node.content.write();
            if content.openers == 0 && node.place().is_some() {
                content.file = None;
                content.writable = false;
            }
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
        let doomed = self.doom(&dir, entry)?;
        if doomed.stat.kind() != FileKind::Dir {
            return Err(errno(libc::ENOTDIR));
        }
        self.emptied(&dir, entry, || Ok(dir.rmdir(entry)?))?;
        self.drop_record(&*dir, &disk);
        self.unlinked(doomed, parent.ino, entry);
        Ok(())
    }

    /// Takes the id out of an empty directory, acts, and puts it back where that fails. The
    /// kernel holds the directory's lock meanwhile.
    pub(super) fn emptied(
        &self,
        dir: &Dir,
        entry: &OsStr,
        act: impl FnOnce() -> Outcome<()>,
    ) -> Outcome<()> {
        if self.names == Names::Plain {
            return act();
        }
        let victim = open_own(dir, entry)?;
        let mut left = crate::disk::names(&*victim)?;
        left.retain(|n| n != DIR_ID && !is_stray_record(&*victim, n));
        if !left.is_empty() {
            return Err(errno(libc::ENOTEMPTY));
        }
        for stray in crate::disk::names(&*victim)? {
            if stray != DIR_ID {
                victim.unlink(&stray)?;
            }
        }
        let id_name = OsStr::new(DIR_ID);
        let id = victim.readlink(id_name).ok();
        if id.is_some() {
            victim.unlink(id_name)?;
        }
        let done = act();
        if done.is_err()
            && let Some(id) = id
            && let Err(e) = victim.symlink(id_name, &id)
        {
            log::error!("a directory's id could not be put back: {e}");
        }
        done
    }

    /// Takes lookups back. An inode that the kernel has forgotten and that has no name any more
    /// gives its data key's line up.
    pub fn forget(&self, ino: u64, lookups: u64) {
        if let Some(node) = self.table.forget(ino, lookups) {
            self.forgotten(&node);
            drop(node);
            if self.table.has_shrunk() {
                give_back();
            }
        }
    }

    fn forgotten(&self, node: &Node) {
        if node.kind == FileKind::Dir {
            let fresh = node.fresh_children.lock().len();
            if fresh > 0 && node.place().is_some() {
                log::debug!("directory {}: {fresh} new directories never synced", node.ino);
            }
            return;
        }
        let content = node.content.read();
        // Names that the kernel never looked up count too: only the inode knows of them.
        if node.place().is_none()
            && let Some(file) = &content.file
            && file.stat().is_ok_and(|s| s.nlink == 0)
        {
            let id = match content.id {
                None if content.header_asked => records::file_id(&**file).ok().flatten(),
                known => known,
            };
            if let Some(id) = id {
                self.keyring.bury(id);
            }
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
fn open_own(dir: &Dir, entry: &OsStr) -> Outcome<Dir> {
    match dir.open_dir(entry) {
        Err(e) if e.raw_os_error() == Some(libc::EACCES) => {
            let mode = dir.stat(entry)?.mode & 0o7777;
            dir.set_mode(entry, mode | 0o700)?;
            Ok(dir.open_dir(entry)?)
        }
        other => Ok(other?),
    }
}

/// The record of a long name whose entry is gone: a power cut may leave it.
fn is_stray_record(dir: &dyn Directory, name: &OsStr) -> bool {
    let text = name.to_string_lossy();
    text.starts_with('+')
        && text.strip_suffix(".name").is_some_and(|entry| is_absent(dir, OsStr::new(entry)))
}

/// An entry about to go.
pub(super) struct Doomed {
    /// The inode, if the kernel knows it.
    pub(super) node: Option<Arc<Node>>,
    /// Its attributes before.
    pub(super) stat: Stat,
    body: Option<crate::ids::LinkId>,
}
