//! How the descriptors that a daemon may have are shared out (getrlimit(2)).

/// An eighth of the descriptors for directories: the rest is for open files.
pub(super) fn directories() -> usize {
    (descriptors() / 8).clamp(16, 512)
}

/// What is left for files and listings that programs have open. The daemon needs some itself: for
/// rings, sockets, connections for metrics and pages of keys, and for removed files whose header the
/// disk was asked for.
pub(super) fn handles() -> usize {
    const OWN: usize = 96 + crate::fs::MOST_ASKED + crate::web::MOST_CONNECTIONS;
    descriptors().saturating_sub(directories() + OWN)
}

fn descriptors() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}
