//! The threads of this program: every one that is ours is started here, by its role. What each
//! may wait for, and which locks it takes, is in docs/ARCHITECTURE.md.

use std::cell::Cell;
use std::io;
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};

use crate::disk::identity;
use crate::secret::scrub_stack;
use crate::walls;

/// What a thread is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Takes the keyring's answers: queues what was parked, refuses what is not let in.
    Answers,
    /// Runs what was parked, and what is long.
    Runner,
    /// Serves the io_uring queue of a core.
    Ring,
    /// Serves what the kernel reads ahead and saves.
    Bulk,
    /// Ends the mount when a ring has failed.
    BrokenRing,
    /// Finds out whether threads may leave a scheduling policy.
    PolicyTrial,
    /// Unwraps data keys.
    Fetch,
    /// Keeps the pool of data keys full.
    Pool,
    /// Makes data keys beside the pool's thread.
    PoolCall,
    /// Removes the sidecar lines of removed files.
    Lines,
    /// The kill switch.
    Monitor,
    /// A heartbeat.
    Beat,
    /// The call for the canary beside a heartbeat's others.
    Canary,
    /// Saves and invalidates pages before a lock.
    Drain,
    /// Wipes keys and invalidates names when the gate is closed.
    Seal,
    /// Gives folders in use their names back after a lock.
    Folders,
    /// Drops keys under an earlier master key.
    StaleKeys,
    /// Writes the audit log.
    Audit,
    /// Takes connections of the control socket.
    Control,
    /// Answers one of them.
    ControlClient,
    /// Asks a daemon while others are asked.
    Asking,
    /// Counts sidecar lines for `status`.
    Count,
    /// Sweeps temporary files that a kill left.
    Leftovers,
    /// Renews the token of Vault.
    Token,
    /// Makes calls of a PKCS#11 module, which may hang.
    Module,
    /// Makes those of heartbeats.
    ModuleBeat,
    /// Serves metrics and the status page.
    Web,
    /// Unmounts at a signal.
    Signals,
    /// Rewraps pages.
    Rewrap,
    /// Checks files.
    Fsck,
    /// Listens to a program of the demonstration.
    Demo,
}

/// In whose name a thread touches the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The program's that it works for.
    Caller,
    /// The daemon's.
    Daemon,
}

impl Role {
    /// What the thread is called, in at most 15 bytes: the kernel keeps no more.
    pub fn name(self) -> &'static str {
        match self {
            Self::Answers => "kmsfs-answers",
            Self::Runner => "kmsfs-runner",
            Self::Ring => "kmsfs-ring",
            Self::Bulk => "kmsfs-bulk",
            Self::BrokenRing => "kmsfs-broken",
            Self::PolicyTrial => "kmsfs-policy",
            Self::Fetch => "kmsfs-fetch",
            Self::Pool => "kmsfs-pool",
            Self::PoolCall => "kmsfs-pool-call",
            Self::Lines => "kmsfs-lines",
            Self::Monitor => "kmsfs-monitor",
            Self::Beat => "kmsfs-beat",
            Self::Canary => "kmsfs-canary",
            Self::Drain => "kmsfs-drain",
            Self::Seal => "kmsfs-seal",
            Self::Folders => "kmsfs-folders",
            Self::StaleKeys => "kmsfs-stale",
            Self::Audit => "kmsfs-audit",
            Self::Control => "kmsfs-control",
            Self::ControlClient => "kmsfs-client",
            Self::Asking => "kmsfs-asking",
            Self::Count => "kmsfs-count",
            Self::Leftovers => "kmsfs-leftovers",
            Self::Token => "kmsfs-token",
            Self::Module => "kmsfs-module",
            Self::ModuleBeat => "kmsfs-mod-beat",
            Self::Web => "kmsfs-web",
            Self::Signals => "kmsfs-signals",
            Self::Rewrap => "kmsfs-rewrap",
            Self::Fsck => "kmsfs-fsck",
            Self::Demo => "kmsfs-demo",
        }
    }

    /// In whose name it touches the store: threads that run requests create files as their
    /// callers.
    pub fn identity(self) -> Identity {
        match self {
            Self::Runner | Self::Ring | Self::Bulk => Identity::Caller,
            _ => Identity::Daemon,
        }
    }

    /// Whether the promise's bound depends on it. It does little, and at once: however many programs
    /// want the processors, the key is asked for in time and the mount is locked in time.
    fn is_of_the_kill_switch(self) -> bool {
        matches!(
            self,
            Self::Monitor
                | Self::Beat
                | Self::Canary
                | Self::ModuleBeat
                | Self::Drain
                | Self::Seal
                | Self::StaleKeys
                | Self::Answers
        )
    }
}

/// Has this thread run before all programs, in the lowest of the real-time priorities (SCHED_RR,
/// sched(7)). What it starts does not inherit that. It takes CAP_SYS_NICE; where that is missing,
/// an ordinary user's daemon or a container, the thread waits its turn. Under a policy that whoever
/// started the daemon chose it stays.
#[allow(unsafe_code)]
fn take_precedence() {
    let lowest = libc::sched_param { sched_priority: 1 };
    // SAFETY: the structure outlives the calls, and 0 is the calling thread.
    unsafe {
        if libc::sched_getscheduler(0) == libc::SCHED_OTHER {
            let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
            libc::sched_setscheduler(0, policy, &raw const lowest);
        }
    };
}

thread_local! {
    /// `None` on the main thread and on those of libraries, fuser's workers among them.
    static ROLE: Cell<Option<Role>> = const { Cell::new(None) };
}

thread_local! {
    static RUNS_REQUESTS: Cell<bool> = const { Cell::new(false) };
}

/// Makes this thread one that runs requests: it reaches the store and little else, and makes files
/// with the very modes that programs ask for, while what the process starts keeps a user's umask.
/// A library's threads call it with each request.
pub fn prepare_for_requests() {
    if RUNS_REQUESTS.replace(true) {
        return;
    }
    walls::confine_thread();
    match identity::leave_shared_folder_and_umask() {
        // The folder that the daemon was started in is not to be kept busy.
        Ok(()) => drop(rustix::process::chdir("/")),
        // Some containers forbid it: then all of the process is without.
        Err(e) => log::info!("cannot give request threads a umask of their own: {e}"),
    }
    rustix::process::umask(rustix::fs::Mode::empty());
}

/// Whether this thread may take a program's identity.
pub fn may_act_for_programs() -> bool {
    ROLE.get().is_none_or(|role| role.identity() == Identity::Caller)
}

/// A thread has the identity of the one that starts it: one that acts for a program starts none.
fn in_role<T>(role: Role, work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    debug_assert!(identity::is_daemons(), "{role:?} would be started in a program's name");
    move || {
        ROLE.set(Some(role));
        if role.is_of_the_kill_switch() {
            take_precedence();
        }
        if role.identity() == Identity::Caller {
            prepare_for_requests();
        }
        let done = run(work);
        // The stack of a thread that has ended is kept for the next one, unwiped.
        scrub_stack();
        done
    }
}

/// In a frame of its own, so that what lay in it can be wiped when it has returned.
#[inline(never)]
fn run<T>(work: impl FnOnce() -> T) -> T {
    work()
}

fn builder(role: Role) -> Builder {
    Builder::new().name(role.name().to_owned())
}

/// Starts a thread.
///
/// # Errors
/// Where the system has none.
pub fn spawn<T: Send + 'static>(
    role: Role,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    builder(role).spawn(in_role(role, work))
}

/// Starts a thread that ends within a scope.
///
/// # Errors
/// Where the system has none.
pub fn spawn_in<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    role: Role,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, T>> {
    builder(role).spawn_scoped(scope, in_role(role, work))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_its_name_and_may_do_what_its_role_may() {
        let look = || (std::thread::current().name().map(str::to_owned), may_act_for_programs());
        let in_role = |role: Role| spawn(role, look).expect("a thread").join().expect("no panic");
        assert_eq!(in_role(Role::Runner), (Some("kmsfs-runner".to_owned()), true));
        assert_eq!(in_role(Role::Monitor), (Some("kmsfs-monitor".to_owned()), false));
        assert!(Role::Leftovers.name().len() <= 15);
    }

    /// Beside twenty busy programs on two cores, the last success came later than the bound.
    #[test]
    #[allow(unsafe_code)]
    fn the_kill_switch_does_not_wait_for_a_processor() {
        // SAFETY: it takes a number, and 0 is the calling thread.
        let policy = || (unsafe { libc::sched_getscheduler(0) }) & !libc::SCHED_RESET_ON_FORK;
        let of_what_it_starts =
            move || (policy(), std::thread::spawn(policy).join().expect("no panic"));
        let in_role = |role| spawn(role, of_what_it_starts).expect("a thread").join();
        let expected =
            if rustix::process::geteuid().is_root() { libc::SCHED_RR } else { libc::SCHED_OTHER };
        assert_eq!(in_role(Role::Monitor).expect("no panic"), (expected, libc::SCHED_OTHER));
        assert_eq!(in_role(Role::Fetch).expect("no panic").0, libc::SCHED_OTHER);
    }

    /// A parked create once ran on the kill switch's thread, and left its caller's identity there.
    #[test]
    #[cfg(debug_assertions)]
    fn a_thread_of_the_keyring_takes_no_identity() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let assume = || identity::assume(identity::Owners::Caller, 65_534, 65_534);
        assert!(spawn(Role::Monitor, assume).expect("a thread").join().is_err());
        let as_another = move || {
            assume().expect("root may");
            std::panic::catch_unwind(|| spawn(Role::Beat, || ())).is_err()
        };
        let refused = spawn(Role::Runner, as_another).expect("a thread").join();
        assert!(refused.expect("no panic"), "a request's thread starts none");
    }
}
