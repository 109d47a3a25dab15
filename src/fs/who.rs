//! Who makes a request, and what the kernel's own filesystems would ask about him.

use super::Fs;
use super::entries::Caller;
use super::errno::Outcome;
use super::handles::OpenFor;
use crate::disk::identity::{self, Owners};
use crate::disk::{FileKind, OpenFile};
use crate::keys::KeyRequest;

/// Who makes a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Who {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// The thread that waits for it; 0 where that is not known.
    pub pid: u32,
}

impl Who {
    /// Who makes a new entry.
    pub fn caller(self, umask: u32) -> Caller {
        Caller { uid: self.uid, gid: self.gid, umask }
    }

    /// Whether set-id bits outlive what he does to a file (CAP_FSETID). A FUSE daemon is told of
    /// no capabilities but in a write: they are taken to be root's alone.
    fn keeps_set_ids(self) -> bool {
        self.uid == 0
    }

    /// Whether he is in a group.
    fn is_in(self, gid: u32) -> bool {
        self.gid == gid || (self.pid != 0 && groups_of(self.pid).contains(&gid))
    }
}

/// The supplementary groups of a thread that waits for us; none where it cannot be looked at.
fn groups_of(thread: u32) -> Vec<u32> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    groups(&status)
}

/// The groups that proc_pid_status(5) names.
fn groups(status: &str) -> Vec<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    line.split_whitespace().filter_map(|gid| gid.parse().ok()).collect()
}

/// A regular file's permission bits without set-user-ID, and without set-group-ID where that
/// could give a program the group, or whoever changes it is not in it; `None` when nothing is to
/// be dropped (`setattr_should_drop_suidgid` in the kernel's attr.c).
fn without_set_ids(mode: u32, in_group: impl FnOnce() -> bool) -> Option<u32> {
    if FileKind::of_mode(mode) != FileKind::File {
        return None;
    }
    let mut kept = mode & 0o7777 & !libc::S_ISUID;
    if mode & libc::S_ISGID != 0 && (mode & libc::S_IXGRP != 0 || !in_group()) {
        kept &= !libc::S_ISGID;
    }
    (kept != mode & 0o7777).then_some(kept)
}

/// Drops the set-id bits of a file that is changed.
fn drop_set_ids(file: &dyn OpenFile, who: Who) -> Outcome<SetIds> {
    if file.mode()? & (libc::S_ISUID | libc::S_ISGID) == 0 {
        return Ok(SetIds::AsTheyWere);
    }
    let stat = file.stat()?;
    let Some(kept) = without_set_ids(stat.mode, || who.is_in(stat.gid)) else {
        return Ok(SetIds::AsTheyWere);
    };
    file.set_mode(kept)?;
    Ok(SetIds::Dropped)
}

/// What became of a file's set-id bits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SetIds {
    AsTheyWere,
    Dropped,
}

/// As [`drop_set_ids`], unless who changes it is privileged.
pub(super) fn drop_set_ids_unless_privileged(file: &dyn OpenFile, who: Who) -> Outcome<()> {
    if who.keeps_set_ids() { Ok(()) } else { drop_set_ids(file, who).map(drop) }
}

/// Called with an inode's number, from a request's thread that holds no lock.
pub type Tell = Box<dyn Fn(u64) + Send + Sync>;

impl Fs {
    /// Has this thread's changes of the store done in the name of who asks, so that quotas and
    /// reserved blocks hold for him.
    ///
    /// # Errors
    /// EPERM where that cannot be.
    pub fn act_for(&self, who: Who) -> Outcome<()> {
        Ok(identity::assume(self.settings.owners, who.uid, who.gid)?)
    }

    /// Fetches a key that an operation found missing, where that is as quick as a touch of the
    /// store, in the daemon's name; see [`Keyring::fetch_here`].
    ///
    /// [`Keyring::fetch_here`]: crate::keys::Keyring::fetch_here
    ///
    /// # Errors
    /// EKEYREVOKED, EKEYREJECTED.
    pub fn fetch_here(&self, request: KeyRequest) -> Option<Outcome<()>> {
        identity::assume(self.settings.owners, 0, 0).ok()?;
        self.keyring.fetch_here(request).map(|fetched| Ok(fetched?))
    }

    /// As [`Fs::act_for`], of a file's owner: the kernel does not say whose pages it saves.
    ///
    /// # Errors
    /// EPERM; of the backing filesystem.
    pub fn act_for_owner(&self, ino: u64) -> Outcome<()> {
        if self.settings.owners == Owners::Daemon {
            return Ok(());
        }
        let stat = self.backing(&self.node(ino)?, OpenFor::Writing)?.stat()?;
        Ok(identity::assume(self.settings.owners, stat.uid, stat.gid)?)
    }

    /// Says what is to be told the numbers of inodes whose attributes changed although the kernel
    /// does not expect that.
    pub fn tell_unexpected_changes(&self, tell: Tell) {
        let _ = self.tell.set(tell);
    }

    /// A change of content by someone without the privilege drops set-id bits: the kernel leaves
    /// that to us (HANDLE_KILLPRIV_V2), and for a write it says whether. It goes on by the mode
    /// that it knows, when it starts a program, until it is told.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn drop_set_ids(&self, ino: u64, who: Who) -> Outcome<()> {
        let node = self.node(ino)?;
        let changed = drop_set_ids(&*self.backing(&node, OpenFor::Writing)?, who)?;
        if changed == SetIds::Dropped
            && let Some(tell) = self.tell.get()
        {
            tell(ino);
        }
        Ok(())
    }

    /// As [`Fs::drop_set_ids`], for a change of which the kernel does not say whether.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn drop_set_ids_unless_privileged(&self, ino: u64, who: Who) -> Outcome<()> {
        if who.keeps_set_ids() { Ok(()) } else { self.drop_set_ids(ino, who) }
    }

    /// An access ACL from someone outside of the inode's group takes its set-group-ID bit
    /// (`posix_acl_update_mode` in the kernel). The kernel would say whether (SETXATTR_EXT), but
    /// fuser cannot read such a request.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn drop_set_group_id(&self, ino: u64, who: Who) -> Outcome<()> {
        if who.keeps_set_ids() {
            return Ok(());
        }
        let held = self.hold(&*self.node(ino)?)?;
        let stat = held.stat()?;
        if stat.mode & libc::S_ISGID != 0 && !who.is_in(stat.gid) {
            held.set_mode(stat.mode & 0o7777 & !libc::S_ISGID)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_group_id_stays_only_without_its_effect_and_for_a_member() {
        let kept = |mode, member| without_set_ids(libc::S_IFREG | mode, || member);
        assert_eq!(kept(0o755, false), None);
        assert_eq!(kept(0o4755, true), Some(0o755));
        assert_eq!(kept(0o6755, true), Some(0o755));
        assert_eq!(kept(0o6645, true), Some(0o2645));
        assert_eq!(kept(0o6645, false), Some(0o645));
        assert_eq!(kept(0o2645, true), None);
        assert_eq!(without_set_ids(libc::S_IFDIR | 0o6777, || false), None);
    }

    #[test]
    fn groups_are_found_in_a_status() {
        let status = "Name:\tcat\nGid:\t7\t7\t7\t7\nFDSize:\t64\nGroups:\t4 24 1000 \nNStgid:\t9\n";
        assert_eq!(groups(status), [4, 24, 1000]);
        assert!(groups("Groups:\t\n").is_empty());
        assert!(Who { gid: 5, ..Who::default() }.is_in(5));
        assert!(!Who { uid: 1, gid: 5, pid: u32::MAX }.is_in(4), "nobody is known by this number");
    }
}
