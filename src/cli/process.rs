//! The daemon's process, before it has a second thread.

use std::fs;

use crate::walls;

/// As many files as allowed, and hard to kill when memory is short; after that, what a daemon
/// does not need is given up. To be called before there is a second thread.
pub(super) fn harden() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let most = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(e) = setrlimit(Resource::Nofile, most) {
        log::warn!("cannot raise the limit of open files: {e}");
    }
    // For what the SDK starts for credentials. Threads that make files have their own.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    if rustix::process::geteuid().is_root() {
        // A filesystem that dies takes every program on it along; one that waits for its own
        // page cache hangs. Both are best effort: containers may forbid them.
        let _ = fs::write("/proc/self/oom_score_adj", "-900");
        let _ = rustix::process::configure_io_flusher_behavior(true);
    }
    walls::give_up_capabilities();
}
