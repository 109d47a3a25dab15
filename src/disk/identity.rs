//! Whose files a thread creates.
//!
//! A daemon of root creates files as their caller (setfsuid(2)), so that the backing filesystem
//! itself applies setgid folders, quotas and default ACLs, and there is no moment at which a new
//! file has another owner. The kernel drops the filesystem capabilities with the fsuid; they are
//! raised again, for the permission check was made on the mount, with the caller's groups.

use std::cell::Cell;
use std::io;

use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use super::sys;
use crate::threads;

thread_local! {
    static CURRENT: Cell<Option<(u32, u32)>> = const { Cell::new(None) };
}

/// Whether this process may create files as others do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owners {
    /// A daemon of root: files belong to their caller.
    Caller,
    /// An ordinary user's daemon: every file is that user's.
    Daemon,
}

impl Owners {
    /// Found from the effective user id.
    pub fn detect() -> Self {
        if rustix::process::geteuid().is_root() { Self::Caller } else { Self::Daemon }
    }
}

/// Whether the calling thread creates files as the daemon, and not as somebody's.
pub fn is_daemons() -> bool {
    CURRENT.get().is_none_or(|current| current == (0, 0))
}

/// Makes the calling thread create files as `uid` and `gid` from now on.
///
/// # Errors
/// Where the capabilities cannot be read or raised.
pub fn assume(owners: Owners, uid: u32, gid: u32) -> io::Result<()> {
    if owners == Owners::Daemon {
        return Ok(());
    }
    let before = CURRENT.get().unwrap_or((0, 0));
    if before == (uid, gid) {
        return Ok(());
    }
    debug_assert!(threads::may_act_for_programs(), "only a request's thread acts for a program");
    sys::set_fs_ids(uid, gid);
    CURRENT.set(Some((uid, gid)));
    if uid != 0 {
        let mut sets = capabilities(None)?;
        sets.effective |= sets.permitted & filesystem_capabilities();
        set_capabilities(None, sets)?;
    }
    Ok(())
}

fn filesystem_capabilities() -> CapabilitySet {
    CapabilitySet::CHOWN
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::DAC_READ_SEARCH
        | CapabilitySet::FOWNER
        | CapabilitySet::FSETID
        | CapabilitySet::LINUX_IMMUTABLE
        | CapabilitySet::MKNOD
        | CapabilitySet::MAC_OVERRIDE
}
