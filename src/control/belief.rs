//! Whose word counts. Anybody may mount a filesystem of the type `fuse.kmsfs`, with any store's
//! path as its source, and listen at a socket of his own.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Uid, geteuid};

use crate::threads::{Role, spawn};

/// How long a path that somebody else named may take: it may lead into a filesystem of his, which
/// never answers.
const LOOK: Duration = Duration::from_secs(2);

/// Whether a user is root or the caller himself.
pub(super) fn is_root_or_caller(user: Uid) -> bool {
    user.is_root() || user == geteuid()
}

/// Whether a user's word about a store counts: root's, the caller's own, and that of whom the
/// store belongs to.
pub(super) fn is_believed(user: Uid, store: &Path) -> bool {
    is_root_or_caller(user) || look(store).is_some_and(|(_, owner)| owner == user)
}

/// A path without links, and whose it is; `None` where that is not known soon.
pub(super) fn look(path: &Path) -> Option<(PathBuf, Uid)> {
    let path = path.to_owned();
    let (tell, told) = mpsc::channel();
    let work = move || {
        let real = fs::canonicalize(path).ok()?;
        let owner = Uid::from_raw(fs::symlink_metadata(&real).ok()?.uid());
        tell.send((real, owner)).ok()
    };
    // One that hangs ends with this process.
    spawn(Role::Look, work).ok()?;
    told.recv_timeout(LOOK).ok()
}

/// Whether a folder is this user's alone to change: in one that others may write to, anybody could
/// have put a socket, and a folder in /tmp is made by whoever comes first.
pub(super) fn is_folder_of(folder: &Path, user: Uid) -> bool {
    fs::symlink_metadata(folder)
        .is_ok_and(|meta| meta.is_dir() && meta.uid() == user.as_raw() && meta.mode() & 0o022 == 0)
}
