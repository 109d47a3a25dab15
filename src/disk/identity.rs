//! In whose name a thread changes the store.
//!
//! A daemon of root acts as its caller (setfsuid(2)), so that the backing filesystem itself
//! applies setgid folders, quotas, reserved blocks and default ACLs, and there is no moment at
//! which a new file has another owner. The kernel drops the filesystem capabilities with the
//! fsuid; they are raised again, for the permission check was made on the mount, with the
//! caller's groups. CAP_SYS_RESOURCE, which overrides quotas, is not among them: the daemon gives
//! it up before it serves anybody (`walls`).
//!
//! Each change of identity makes the process as dumpable as `fs.suid_dumpable` says
//! (PR_SET_DUMPABLE(2const)), so each is followed by the opposite.

use std::cell::Cell;
use std::io;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use super::sys;
use crate::threads;

/// A user and a group.
type Ids = (u32, u32);

/// The daemon's own: other identities are taken by root alone.
const DAEMON: Ids = (0, 0);

thread_local! {
    /// `None` when a change failed half-way.
    static CURRENT: Cell<Option<Ids>> = const { Cell::new(Some(DAEMON)) };
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

/// Whether the calling thread acts as the daemon, and not as somebody else.
pub fn is_daemons() -> bool {
    CURRENT.get() == Some(DAEMON)
}

/// Gives the calling thread a working folder and a umask of its own, the same as before.
///
/// # Errors
/// Where that is forbidden.
pub fn leave_shared_folder_and_umask() -> io::Result<()> {
    sys::unshare_fs()
}

/// Makes the calling thread act as `uid` and `gid` from now on.
///
/// # Errors
/// EPERM where the identity cannot be had: nothing is to be done then, for the thread may still
/// have another's. Where the capabilities cannot be read or raised.
pub fn assume(owners: Owners, uid: u32, gid: u32) -> io::Result<()> {
    if owners == Owners::Daemon {
        return Ok(());
    }
    let before = CURRENT.get();
    if before == Some((uid, gid)) {
        return Ok(());
    }
    debug_assert!(threads::may_act_for_programs(), "only a request's thread acts for a program");
    CURRENT.set(None);
    let taken = take(before, (uid, gid));
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    taken?;
    CURRENT.set(Some((uid, gid)));
    Ok(())
}

fn take(before: Option<Ids>, (uid, gid): Ids) -> io::Result<()> {
    sys::set_fs_ids(uid, gid)?;
    // The kernel drops and raises them where root's id is left and taken, and there alone.
    if uid != 0 && before.is_none_or(|(before, _)| before == 0) {
        let mut sets = capabilities(None)?;
        sets.effective |= sets.permitted & filesystem_capabilities();
        set_capabilities(None, sets)?;
    }
    Ok(())
}

/// What it takes to do to the store's files what the mount's permissions have allowed.
pub fn filesystem_capabilities() -> CapabilitySet {
    CapabilitySet::CHOWN
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::DAC_READ_SEARCH
        | CapabilitySet::FOWNER
        | CapabilitySet::FSETID
        | CapabilitySet::LINUX_IMMUTABLE
        | CapabilitySet::MKNOD
        | CapabilitySet::MAC_OVERRIDE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::{Role, spawn};

    const NOBODY: Ids = (65_534, 65_534);

    /// Runs it in a thread that is thrown away.
    fn in_a_thread<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let act = || rustix::process::geteuid().is_root().then(act);
        spawn(Role::Runner, act).expect("a thread").join().expect("no panic")
    }

    /// Such a daemon went on as root: what users made, set-id bits included, was root's.
    #[test]
    fn an_identity_that_cannot_be_had_is_an_error() {
        let tried = in_a_thread(|| {
            let mut sets = capabilities(None).expect("root has some");
            sets.effective -= CapabilitySet::SETUID | CapabilitySet::SETGID;
            set_capabilities(None, sets).expect("root may have fewer");
            let code = |e: io::Error| e.raw_os_error();
            let twice = [(); 2].map(|()| assume(Owners::Caller, NOBODY.0, NOBODY.1).map_err(code));
            (twice, is_daemons())
        });
        let Some((twice, daemons)) = tried else { return };
        assert_eq!(twice, [Err(Some(libc::EPERM)); 2]);
        assert!(!daemons, "and it is not known whose the thread is");
    }

    #[test]
    fn it_is_taken_and_given_back_with_what_files_need() {
        let effective = || capabilities(None).expect("root has some").effective;
        let seen = in_a_thread(move || {
            assume(Owners::Caller, NOBODY.0, NOBODY.1).expect("root may");
            assume(Owners::Caller, 1, 1).expect("root may");
            let as_daemon = effective().contains(CapabilitySet::DAC_OVERRIDE) && !is_daemons();
            assume(Owners::Caller, 0, 0).expect("root may");
            (as_daemon, effective().contains(CapabilitySet::DAC_OVERRIDE) && is_daemons())
        });
        assert_eq!(seen.unwrap_or((true, true)), (true, true));
    }
}
