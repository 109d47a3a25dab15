//! The daemon's process, before it has a second thread.

use std::fs;
use std::path::Path;

use crate::store::{Provider, TREE};
use crate::walls::{self, Beneath};

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

/// Has the kernel hold threads that run requests to the store, and of KMSs to the embedded keystore,
/// which they ask themselves. To be called before there is one.
pub(super) fn limit_request_threads(store: &Path, provider: &Provider) {
    // The tree is named beside its store: the kernel looks upwards from a file for a rule, and so
    // finds one a step earlier.
    let mut folders =
        vec![(store.join(TREE), Beneath::Changes), (store.to_owned(), Beneath::Changes)];
    if let Provider::Local { keystore } = provider {
        folders.push((keystore.into(), Beneath::Reads));
    }
    walls::limit_request_threads(&folders);
}
