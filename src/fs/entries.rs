//! Looking entries up and making them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Fs;
use super::attr::{Attr, Found};
use super::dirs::Seen;
use super::errno::{Outcome, errno};
use super::handles::OpenFor;
use super::names::{DIR_ID, entry_of, is_absent};
use super::node::{Capability, Node};
use super::table::{Inode, Sighting};
use crate::disk::{Dir, Directory, File, FileKind, Open, identity};
use crate::ids::DirId;
use crate::names::{self, DiskLink, DiskName, LinkText};
use crate::store::Names;

/// Who asks for a new entry.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// The umask, which a default ACL overrides.
    pub umask: u32,
}

/// What to make.
#[derive(Clone, Copy, Debug)]
pub enum Made<'a> {
    /// A regular file, fifo, socket or device: mode with type bits, and device number.
    Node(u32, u64),
    /// A directory.
    Dir(u32),
    /// A symbolic link to this target.
    Symlink(&'a OsStr),
}

/// Longest symlink target (PATH_MAX without its NUL).
const TARGET_MAX: usize = 4095;

impl Fs {
    /// Looks a name up, and counts the lookup.
    ///
    /// # Errors
    /// ENOENT; of the backing filesystem.
    pub fn lookup(&self, parent: u64, name: &OsStr) -> Outcome<Found> {
        let parent = self.node(parent)?;
        let disk = self.disk_name(&parent, name)?;
        self.found((&parent, &*self.dir(parent.ino)?), entry_of(&disk), Sighting::There)
    }

    /// Counts a lookup of an entry on disk and answers its attributes.
    pub(super) fn found(
        &self,
        (parent, dir): (&Node, &dyn Directory),
        entry: &OsStr,
        sighting: Sighting,
    ) -> Outcome<Found> {
        let attr = self.attr_of(dir.stat(entry)?, dir, entry)?;
        let node = self.remember(&attr, Some((parent.ino, entry)), sighting);
        Ok(Found { attr, generation: node.generation })
    }

    /// Counts a lookup of an inode that was found at `place`.
    pub(super) fn remember(
        &self,
        attr: &Attr,
        place: Option<(u64, &OsStr)>,
        sighting: Sighting,
    ) -> Arc<Node> {
        let inode = Inode { ino: attr.0.ino, kind: attr.0.kind(), btime: attr.0.btime };
        let mut any_gone = false;
        let node = self.table.remember(inode, place, sighting, &mut |gone| {
            self.forgotten(gone);
            any_gone = true;
        });
        if any_gone {
            log::debug!("inode {}: removed from the store beneath the mount", node.ino);
        }
        node
    }

    /// Whether new entries of a directory take their mode from its default ACL.
    fn has_default_acl(&self, parent: &Node, dir: &dyn Directory) -> bool {
        match parent.default_acl.load(Ordering::Relaxed) {
            0 => {
                let acl = OsStr::new("system.posix_acl_default");
                let has = dir.xattr(OsStr::new("."), acl).is_ok();
                parent.default_acl.store(1 + u8::from(has), Ordering::Relaxed);
                has
            }
            known => known == 2,
        }
    }

    fn mode_for(&self, parent: &Node, dir: &dyn Directory, mode: u32, caller: Caller) -> u32 {
        if self.has_default_acl(parent, dir) { mode } else { mode & !caller.umask }
    }

    /// Begins a new entry: the directory, the disk name with its long record written, and the
    /// thread's identity set.
    fn begin(&self, parent: &Node, name: &OsStr, caller: Caller) -> Outcome<(Dir, DiskName)> {
        self.writable()?;
        let disk = self.disk_name(parent, name)?;
        let dir = self.dir(parent.ino)?;
        identity::assume(self.settings.owners, caller.uid, caller.gid)?;
        self.add_record(&*dir, &disk)?;
        Ok((dir, disk))
    }

    /// Writes the record of a long name, before its entry.
    pub(super) fn add_record(&self, dir: &dyn Directory, name: &DiskName) -> Outcome<()> {
        let DiskName::Long { record, text, .. } = name else { return Ok(()) };
        match dir.symlink(record, text) {
            // The record's name is the hash of its text: one that is there is the same.
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Removes the record of a long name, after its entry; a left-over record is harmless.
    pub(super) fn drop_record(&self, dir: &dyn Directory, name: &DiskName) {
        if let DiskName::Long { entry, record, .. } = name
            && is_absent(dir, entry)
        {
            let _ = dir.unlink(record);
        }
    }

    /// Creates a regular file, opened for writing.
    ///
    /// # Errors
    /// EEXIST; of the backing filesystem.
    pub fn create(&self, parent: u64, name: &OsStr, mode: u32, caller: Caller) -> Outcome<Found> {
        let parent = self.node(parent)?;
        let (dir, disk) = self.begin(&parent, name, caller)?;
        let entry = entry_of(&disk);
        let mode = self.mode_for(&parent, &*dir, mode & 0o7777, caller);
        let file = match dir.open(entry, Open::Create(mode)) {
            Ok(file) => file,
            Err(e) => {
                self.drop_record(&*dir, &disk);
                return Err(e.into());
            }
        };
        let made = self.made(file, Some((parent.ino, entry)));
        made.inspect_err(|_| self.take_back(&parent, &dir, &disk))
    }

    /// Creates a regular file without a name in a directory's filesystem, as its owner (O_TMPFILE),
    /// opened for writing. It lives as long as the kernel knows it, unless it is linked.
    ///
    /// # Errors
    /// EOPNOTSUPP where the backing filesystem has none; of that.
    pub fn create_nameless(&self, parent: u64, mode: u32, caller: Caller) -> Outcome<Found> {
        self.writable()?;
        let parent = self.node(parent)?;
        let dir = self.dir(parent.ino)?;
        identity::assume(self.settings.owners, caller.uid, caller.gid)?;
        let mode = self.mode_for(&parent, &*dir, mode & 0o7777, caller);
        let file = dir.open(OsStr::new("."), Open::Nameless(mode))?;
        self.made(file, None)
    }

    /// Counts the lookup and the open of a file that was just made.
    fn made(&self, file: File, place: Option<(u64, &OsStr)>) -> Outcome<Found> {
        let mut stat = file.stat()?;
        stat.ino = self.map_ino(stat.ino);
        let node = self.remember(&Attr(stat), place, Sighting::New);
        // The kernel asks at the first write.
        node.set_capability(Capability::Absent);
        let mut content = node.content.write();
        content.keyless = true;
        self.count_open(&mut content, file, OpenFor::Writing);
        drop(content);
        Ok(Found { attr: Attr(stat), generation: node.generation })
    }

    /// Makes any other entry.
    ///
    /// # Errors
    /// EEXIST; of the backing filesystem.
    pub fn make(
        &self,
        parent: u64,
        name: &OsStr,
        what: Made<'_>,
        caller: Caller,
    ) -> Outcome<Found> {
        let parent = self.node(parent)?;
        let (dir, disk) = self.begin(&parent, name, caller)?;
        let entry = entry_of(&disk);
        let made = match what {
            Made::Node(mode, rdev) => {
                let mode = self.mode_for(&parent, &*dir, mode, caller);
                dir.mknod(entry, mode, rdev).map_err(Into::into)
            }
            Made::Dir(mode) => {
                let mode = self.mode_for(&parent, &*dir, mode & 0o7777, caller);
                self.make_dir(&*dir, entry, mode)
            }
            Made::Symlink(target) => self.make_symlink(&*dir, entry, target),
        };
        if let Err(e) = made {
            self.drop_record(&*dir, &disk);
            return Err(e);
        }
        let found = self.found((&parent, &*dir), entry, Sighting::New);
        let found = found.inspect_err(|_| self.take_back(&parent, &dir, &disk))?;
        if matches!(what, Made::Dir(_)) {
            parent.fresh_children.lock().add(found.attr.0.ino);
        }
        Ok(found)
    }

    /// Removes a new entry whose maker could not be answered: an operation that fails leaves
    /// everything as it was.
    fn take_back(&self, parent: &Node, dir: &Dir, disk: &DiskName) {
        let entry = entry_of(disk);
        let removed = self.prepare_removal(dir, entry).and_then(|removal| {
            match removal.stat.kind() {
                FileKind::Dir => self.with_dir_id_removed(dir, entry, || Ok(dir.rmdir(entry)?))?,
                _ => dir.unlink(entry)?,
            }
            self.unlinked(removal, parent, entry);
            Ok(())
        });
        match removed {
            Ok(()) => self.drop_record(&**dir, disk),
            Err(e) => log::warn!("a new entry could not be looked at, nor removed again: {e:?}"),
        }
    }

    /// A folder that its owner can enter, its id, then the mode asked for.
    fn make_dir(&self, dir: &dyn Directory, entry: &OsStr, mode: u32) -> Outcome<()> {
        if self.names == Names::Plain {
            return Ok(dir.mkdir(entry, mode)?);
        }
        // An ordinary user's daemon has to open the folder, which takes reading too.
        dir.mkdir(entry, mode | 0o700)?;
        let made = dir.open_dir(entry).and_then(|made| {
            made.symlink(OsStr::new(DIR_ID), OsStr::new(&DirId::random().to_string()))?;
            if mode & 0o700 != 0o700 {
                let now = made.stat_self()?.mode & 0o7777;
                made.open(OsStr::new("."), Open::Pin)?.set_mode(now & !(0o700 & !mode))?;
            }
            Ok(())
        });
        if made.is_err() {
            let _ = dir.open_dir(entry).and_then(|made| made.unlink(OsStr::new(DIR_ID)));
            let _ = dir.rmdir(entry);
        }
        Ok(made?)
    }

    fn make_symlink(&self, dir: &dyn Directory, entry: &OsStr, target: &OsStr) -> Outcome<()> {
        if target.len() > TARGET_MAX {
            return Err(errno(libc::ENAMETOOLONG));
        }
        if target.is_empty() {
            return Err(errno(libc::ENOENT));
        }
        let keys = self.keyring.names()?;
        let link = names::seal_link(&keys, target.as_bytes());
        let placed = self.place_link(dir, entry, &link);
        if placed == Err(errno(libc::ENAMETOOLONG)) && matches!(link, DiskLink::Inline(_)) {
            // XFS's symlinks hold 1023 bytes.
            let link = names::seal_link_body(&keys, target.as_bytes());
            return self.place_link(dir, entry, &link);
        }
        placed
    }

    fn place_link(&self, dir: &dyn Directory, entry: &OsStr, link: &DiskLink) -> Outcome<()> {
        match link {
            DiskLink::Inline(text) => Ok(dir.symlink(entry, text)?),
            DiskLink::Body { text, id, body } => {
                let kept = self.store.add_link_body(*id, body);
                let made = kept.and_then(|()| dir.symlink(entry, text));
                if made.is_err() {
                    let _ = self.store.remove_link_body(*id);
                }
                Ok(made?)
            }
        }
    }

    /// The target of the symlink `entry`.
    pub(super) fn read_target(&self, dir: &dyn Directory, entry: &OsStr) -> Outcome<OsString> {
        self.open_target(&dir.readlink(entry)?)
    }

    /// The target that the text of a symlink on disk stands for.
    pub(super) fn open_target(&self, text: &OsStr) -> Outcome<OsString> {
        let keys = self.keyring.names()?;
        let bad = errno(libc::EBADMSG);
        let target = match names::parse_link(text.as_bytes()).map_err(|_| bad)? {
            LinkText::Inline(sealed) => names::open_inline(&keys, &sealed).map_err(|_| bad)?,
            LinkText::Body(id) => {
                let body = self.store.read_link_body(id)?;
                names::open_body(&keys, id, &body).map_err(|_| bad)?
            }
        };
        Ok(OsString::from_vec(target))
    }

    /// readlink(2).
    ///
    /// # Errors
    /// EBADMSG for a target that fails authentication; of the backing filesystem.
    pub fn readlink(&self, ino: u64) -> Outcome<OsString> {
        let node = self.node(ino)?;
        let held = node.content.read().file.clone();
        if let Some(link) = held {
            return self.open_target(&link.readlink()?);
        }
        let text = self.at_place(&node, |dir, name| {
            let what = dir.readlink(name)?;
            Ok(Seen { ino: dir.stat(name)?.ino, what })
        })?;
        self.open_target(&text)
    }

    /// link(2).
    ///
    /// # Errors
    /// EEXIST; of the backing filesystem.
    pub fn link(&self, ino: u64, parent: u64, name: &OsStr, caller: Caller) -> Outcome<Found> {
        let (node, parent) = (self.node(ino)?, self.node(parent)?);
        let (to, disk) = self.begin(&parent, name, caller)?;
        let linked = self.link_at(&node, &to, entry_of(&disk));
        if let Err(e) = linked {
            self.drop_record(&*to, &disk);
            return Err(e);
        }
        let found = self.found((&parent, &*to), entry_of(&disk), Sighting::There);
        found.inspect_err(|_| self.take_back(&parent, &to, &disk))
    }

    fn link_at(&self, node: &Node, to: &Dir, entry: &OsStr) -> Outcome<()> {
        let held = node.content.read().file.clone();
        if let Some(nameless) = held.filter(|_| node.place().is_none()) {
            return Ok(nameless.link(&**to, entry)?);
        }
        self.at_place(node, |dir, name| {
            dir.link(name, &**to, entry)?;
            let taken_back = || to.unlink(entry);
            let ino = to.stat(entry).inspect_err(|_| drop(taken_back()))?.ino;
            if self.map_ino(ino) != node.ino {
                taken_back()?;
            }
            Ok(Seen { ino, what: () })
        })
    }
}
