//! A mount's connection with the kernel, and the ends that the daemon itself can put to a mount.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Weak};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::UnmountFlags;

use crate::disk::DeviceNumber;

/// Where the kernel lists FUSE connections, where its `fusectl` is mounted.
const CONNECTIONS: &str = "/sys/fs/fuse/connections";

/// A mount's connection. It can outlive the mount, and tells whether it has.
#[derive(Clone, Debug)]
pub struct Connection {
    /// /dev/fuse. Who serves the mount owns it: the kernel aborts a connection whose last
    /// descriptor is closed, and none is to be kept open here.
    device: Weak<OwnedFd>,
    number: DeviceNumber,
}

impl Connection {
    pub(super) fn new(device: &Arc<OwnedFd>, number: DeviceNumber) -> Self {
        Self { device: Arc::downgrade(device), number }
    }

    /// The mount's number, or `None` when the mount has ended.
    ///
    /// The kernel ends the connection before it gives the number to another mount. So what was
    /// found by this number is this mount's own, if the number is asked for again afterwards.
    pub fn number(&self) -> Option<DeviceNumber> {
        let device = self.device.upgrade()?;
        let mut polled = [PollFd::new(&device, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let is_live = match poll(&mut polled, Some(&now)) {
            // `fuse_dev_poll` of the kernel: POLLERR is what it says without a connection.
            Ok(_) => !polled[0].revents().contains(PollFlags::ERR),
            Err(_) => true,
        };
        is_live.then_some(self.number)
    }

    /// Ends a connection whose requests nobody takes any more: whoever waits is answered ENOTCONN,
    /// and so is whoever asks. Where the mount has ended already there is nothing to end.
    pub(super) fn abort(&self, at: &Path) {
        let Some(number) = self.number() else { return };
        let Err(e) = abort_in(Path::new(CONNECTIONS), number) else { return };
        log::warn!("{}: the connection is not to be had in sysfs: {e}", at.display());
        if rustix::process::geteuid().is_root()
            && rustix::mount::unmount(at, UnmountFlags::FORCE).is_ok()
        {
            return;
        }
        detach(at);
        // The kernel aborts a connection whose last descriptor is closed, and an ordinary user has
        // no other way without sysfs. Programs that wait for good would be worse than a daemon
        // that ends.
        log::error!("{}: this daemon ends, so that nobody waits for it", at.display());
        std::process::exit(1);
    }
}

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
