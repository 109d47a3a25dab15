//! Whose word counts. Anybody may mount a filesystem of the type `fuse.kmsfs`, with any store's
//! path as its source, and listen at a socket of his own.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, Stat, fstat};
use rustix::process::{Uid, geteuid};

use super::walk::{self, LastLink};

/// Whether a user is root or the caller himself.
pub(super) fn is_root_or_caller(user: Uid) -> bool {
    user.is_root() || user == geteuid()
}

/// Whether a user's word about a store counts: root's, the caller's own, and that of whom the
/// store belongs to.
pub(super) fn is_believed(user: Uid, store: &Path) -> bool {
    let owner = || Ok::<_, io::Error>(fstat(reach(store, LastLink::Followed)?)?.st_uid);
    is_root_or_caller(user) || owner().is_ok_and(|owner| Uid::from_raw(owner) == user)
}

/// Opens a folder that is a user's alone to change: the one of his sockets. Where it is not the
/// caller's it must not be in a filesystem that the user serves either. A link to one is none: in
/// /tmp anybody may have made it.
///
/// # Errors
/// Of the path; `PermissionDenied` where it is anything else.
pub(super) fn owned_folder(path: &Path, user: Uid) -> io::Result<OwnedFd> {
    let folder = reach(path, LastLink::Refused)?;
    let is_his = is_users_alone(&fstat(&folder)?, user);
    is_his.then_some(folder).ok_or_else(|| io::ErrorKind::PermissionDenied.into())
}

/// Opens what a path leads to that another user named.
fn reach(path: &Path, last: LastLink) -> io::Result<OwnedFd> {
    walk::open(path, last, |mount| is_root_or_caller(mount.owner))
}

/// Whether a folder is this user's alone to change: in one that others may write to, anybody could
/// have put a socket, and a folder in /tmp is made by whoever comes first.
fn is_users_alone(folder: &Stat, user: Uid) -> bool {
    let is_folder = FileType::from_raw_mode(folder.st_mode).is_dir();
    let others = Mode::from_raw_mode(folder.st_mode) & (Mode::WGRP | Mode::WOTH);
    is_folder && Uid::from_raw(folder.st_uid) == user && others.is_empty()
}
