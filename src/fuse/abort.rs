//! Taking a mount away that cannot be served any more.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::UnmountFlags;

use crate::disk::DeviceNumber;

/// Where the kernel lists FUSE connections, where its `fusectl` is mounted.
const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// Detaches a mount: no program finds it any more. Those that use it already go on.
pub(super) fn detach(at: &Path) {
    let done = if rustix::process::geteuid().is_root() {
        rustix::mount::unmount(at, UnmountFlags::DETACH).map_err(io::Error::from)
    } else {
        let mut helper = Command::new("fusermount3");
        helper.args(["-u", "-z", "-q", "--"]).arg(at).stdin(Stdio::null()).status().map(drop)
    };
    if let Err(e) = done {
        log::error!("{}: it cannot be detached: {e}", at.display());
    }
}

/// Ends the connection of a mount whose requests nobody takes any more: whoever waits is answered
/// ENOTCONN, and so is whoever asks.
pub(super) fn abort(at: &Path, number: DeviceNumber) {
    let Err(e) = abort_in(Path::new(CONNECTIONS), number) else { return };
    log::warn!("{}: the connection is not to be had in sysfs: {e}", at.display());
    if rustix::process::geteuid().is_root()
        && rustix::mount::unmount(at, UnmountFlags::FORCE).is_ok()
    {
        return;
    }
    detach(at);
    // The kernel aborts a connection whose last descriptor is closed, and an ordinary user has no
    // other way without sysfs. Programs that wait for good would be worse than a daemon that ends.
    log::error!("{}: this daemon ends, so that nobody waits for it", at.display());
    std::process::exit(1);
}

/// Whoever mounted it may do this, root or not.
fn abort_in(connections: &Path, number: DeviceNumber) -> io::Result<()> {
    let connection: PathBuf = connections.join(number.minor().to_string());
    std::fs::write(connection.join("abort"), b"1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connection_of_a_mount_is_named_by_its_minor_number() {
        let folder = tempfile::tempdir().expect("a folder");
        let number = DeviceNumber::parse("0:44").expect("a number");
        assert!(abort_in(folder.path(), number).is_err());
        std::fs::create_dir(folder.path().join("44")).expect("made");
        abort_in(folder.path(), number).expect("written");
        assert_eq!(std::fs::read(folder.path().join("44/abort")).expect("there"), b"1");
    }
}
