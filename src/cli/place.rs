//! Where a mount is to be made: the mountpoint as the kernel has it, and a store that nobody else
//! has any more.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::io::Errno;

use crate::clock::Moment;
use crate::console::failure::Failure;
use crate::console::printing::tell;
use crate::control::{self, Ask, Target};
use crate::store::{Store, StoreError};

/// A path that somebody typed, from the root on: a daemon leaves the folder that it was started in.
///
/// # Errors
/// [`Failure`], where the working folder is gone.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|e| Failure::io(path, &e))
}

/// The path of a folder without `..` and symbolic links, as the kernel lists the mount. The folder
/// itself may be one that cannot be looked at: a mount whose daemon is gone.
///
/// # Errors
/// As [`absolute`].
pub(super) fn as_mounted(at: &Path) -> Result<PathBuf, Failure> {
    let at = absolute(at)?;
    Ok(fs::canonicalize(&at).unwrap_or_else(|_| match (at.parent(), at.file_name()) {
        (Some(parent), Some(name)) => {
            fs::canonicalize(parent).map_or_else(|_| at.clone(), |parent| parent.join(name))
        }
        _ => at.clone(),
    }))
}

/// Whether the daemon of a mount is gone. Just after its end the kernel may not know yet; then
/// nobody answers at the control socket either.
///
/// The kernel answers for a dead mount out of what it has cached, so that it has to be made to ask.
/// Where a daemon stands still that would wait for good: it is done where none listens.
pub(super) fn is_dead(mount: &Target) -> bool {
    for _ in 0..40 {
        if matches!(mount.ask(Ask::Status), Ok(Some(_))) {
            return false;
        }
        if !mount.has_listener() && is_disconnected(mount.mountpoint()) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    false
}

/// Whether the kernel has nobody to ask about a mount.
fn is_disconnected(at: &Path) -> bool {
    let flags = AtFlags::STATX_FORCE_SYNC | AtFlags::NO_AUTOMOUNT;
    statx(CWD, at, flags, StatxFlags::BASIC_STATS).is_err_and(|e| e == Errno::NOTCONN)
}

/// How long a mount waits for a daemon that has the store and serves no mount any more: it may
/// still have removed files' keys to tidy up.
const LONGEST: Duration = Duration::from_secs(30);
/// After this the wait is told of. A daemon that is still found by then serves a mount somewhere.
const SHORT: Duration = Duration::from_secs(1);

/// Waits until nobody else has the store. umount(8) returns when the mount is gone, which is before
/// its daemon is.
///
/// # Errors
/// `Busy` where another serves it, or does not give it up; of the store.
pub(super) fn wait_for(path: &Path, store: &Store) -> Result<(), Failure> {
    let start = Moment::now();
    let mut is_told = false;
    loop {
        let busy = match store.lock() {
            Ok(_) => return Ok(()),
            Err(e @ StoreError::Busy) => e,
            Err(e) => return Err(Failure::store(path, &e)),
        };
        let waited = Moment::now().since(start);
        let is_served = match control::serving(path) {
            Ok(Some(Target::Here(_))) => true,
            Ok(Some(Target::Elsewhere { .. })) => waited > SHORT,
            _ => false,
        };
        if is_served || waited > LONGEST {
            return Err(Failure::store(path, &busy));
        }
        if waited > SHORT && !is_told {
            is_told = true;
            tell!("kmsfs: {}: waiting for the kmsfs that still has it", path.display());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
