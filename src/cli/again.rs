//! A store that is mounted already, mounted at another place, too. As with the kernel's own
//! filesystems it is one mount then, seen at both.

use std::path::Path;

use rustix::mount::{MountFlags, mount_bind, mount_remount};

use super::{mount, place, unmount};
use crate::console::failure::{Exit, Failure};
use crate::control::{self, Target};
use crate::disk::DeviceNumber;
use crate::fuse::{UNPRIVILEGED, changed_flags};

/// Whether a store was mounted before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// It was, and is seen at the second place now.
    Mounted,
    /// It was not, or cannot be seen there: root's mounts of this mount namespace can.
    Not,
}

/// Has a mount that is there seen at the second place, with flags of its own.
///
/// # Errors
/// [`Failure`] of the second place.
pub(super) fn mount(args: &mount::Mount) -> Result<Before, Failure> {
    let (store, at, words) = args.wanted();
    let at = place::as_mounted(at)?;
    let Some(first) = first_of(store).filter(|first| first.mountpoint != at) else {
        return Ok(Before::Not);
    };
    let seen = |at: &Path| DeviceNumber::mounted_at(at).ok().flatten() == Some(first.device);
    if seen(&at) {
        return Ok(Before::Not);
    }
    let failed = |e: rustix::io::Errno| {
        Failure::new(Exit::Mountpoint, format!("{}: {e}", at.display()))
            .hint("choose an empty folder: mkdir DIR && mount -t kmsfs STORE DIR")
    };
    let flags = changed_flags(UNPRIVILEGED, &words)
        .map_err(|e| Failure::new(Exit::Usage, format!("mount.kmsfs: {e}")))?;
    mount_bind(&first.mountpoint, &at).map_err(failed)?;
    // Something else may have been mounted there meanwhile, or over the first place.
    let done = match seen(&at) {
        true => mount_remount(&at, MountFlags::BIND | flags, "").map_err(failed),
        false => Err(failed(rustix::io::Errno::BUSY)),
    };
    match done {
        Ok(()) => Ok(Before::Mounted),
        Err(e) => unmount::detach(&at).and(Err(e)),
    }
}

/// The mount of a store, where its daemon answers.
fn first_of(store: &Path) -> Option<control::Mount> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let target = control::serving(store).ok().flatten()?;
    target.report().ok().flatten()?;
    match target {
        Target::Here(mount) => Some(mount),
        Target::Elsewhere { .. } => None,
    }
}
