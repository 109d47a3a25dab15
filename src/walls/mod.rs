//! The daemon's own walls: what it cannot do, so that whoever found a hole in it cannot either.
//!
//! Capabilities and the filter of calls are for a daemon of root's. An ordinary user's daemon has
//! no capabilities, and can do nothing that the user's other programs cannot; a filter would take
//! no_new_privs, and with that fusermount3 could not unmount.

mod calls;
mod capabilities;
mod reach;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

pub use capabilities::give_up_capabilities;
pub use reach::{Beneath, confine_thread, limit_request_threads};

/// Keeps this process's memory from other processes of the same user, and from core dumps.
pub fn keep_memory_private() {
    if let Err(e) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        log::warn!("cannot make the process undumpable: {e}");
    }
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(e) = setrlimit(Resource::Core, none) {
        log::warn!("cannot disable core dumps: {e}");
    }
}

/// Has the kernel refuse every thread what no daemon needs, for good (`calls`). What is
/// started from here on gains no privileges by being started.
pub fn refuse_calls() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    if let Err(e) = calls::refuse(calls::Threads::All) {
        log::warn!("cannot install the filter of system calls: {e}");
    }
}
