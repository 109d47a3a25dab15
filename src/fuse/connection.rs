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
        if rustix::process::geteuid().is_root() {
            // It ends the connection first, and then fails where a program uses the mount, as one
            // that waits does.
            let _ = rustix::mount::unmount(at, UnmountFlags::FORCE);
            if self.number().is_none() {
                return;
            }
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
    use std::os::fd::AsFd;
    use std::process::Child;
    use std::sync::mpsc::{Sender, channel};
    use std::time::{Duration, Instant};

    use fuser::{Config, Filesystem, INodeNo, ReplyStatfs, Request, Session};

    use super::*;

    /// A filesystem that takes requests and never answers: what a broken ring leaves behind.
    struct Silent(Sender<()>);

    impl Filesystem for Silent {
        fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
            std::mem::forget(reply);
            self.0.send(()).expect("the test waits for it");
        }
    }

    /// A folder on which something is mounted until this is dropped.
    struct MountedOn(tempfile::TempDir);

    impl Drop for MountedOn {
        fn drop(&mut self) {
            let _ = rustix::mount::unmount(self.0.path(), UnmountFlags::DETACH);
        }
    }

    fn ends(program: &mut Child) {
        let limit = Instant::now() + Duration::from_secs(20);
        while program.try_wait().expect("a child").is_none() {
            assert!(Instant::now() < limit, "it was answered");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Has a program wait on a mount that does not answer, and ends the connection in this way.
    fn a_program_that_waits_is_answered(end: impl FnOnce(&Connection, &Path)) {
        if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
            eprintln!("SKIPPED: fuse (needs root and /dev/fuse)");
            return;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let (asked, is_asked) = channel();
        let session =
            Session::new(Silent(asked), folder.path(), &Config::default()).expect("mounted");
        let device = session.as_fd().try_clone_to_owned().map(Arc::new).expect("a descriptor");
        let mounted = MountedOn(folder);
        let at = mounted.0.path();
        let number = DeviceNumber::of(at).expect("its root's attributes are known");
        let serving = std::thread::spawn(move || session.run());
        let connection = Connection::new(&device, number);
        assert_eq!(connection.number(), Some(number));
        let mut program = Command::new("stat")
            .arg("-f")
            .arg(at)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("stat(1) can be started");
        is_asked.recv_timeout(Duration::from_secs(20)).expect("it asks");
        end(&connection, at);
        ends(&mut program);
        assert_eq!(connection.number(), None, "the connection has ended");
        drop(mounted);
        let _ = serving.join().expect("it does not panic");
    }

    #[test]
    fn the_kernels_list_of_connections_ends_one() {
        let list = tempfile::tempdir().expect("a folder");
        let none = rustix::mount::MountFlags::empty();
        if rustix::mount::mount("fusectl", list.path(), "fusectl", none, c"").is_err() {
            eprintln!("SKIPPED: fusectl cannot be mounted");
            return;
        }
        let list = MountedOn(list);
        a_program_that_waits_is_answered(|connection, _| {
            let number = connection.number().expect("it lives");
            abort_in(list.0.path(), number).expect("the connection is on the list");
        });
    }

    #[test]
    fn a_connection_is_ended_with_or_without_the_kernels_list() {
        a_program_that_waits_is_answered(Connection::abort);
    }

    #[test]
    fn a_mount_that_has_ended_leaves_nothing_to_abort() {
        let device = Arc::new(OwnedFd::from(std::fs::File::open("/dev/null").expect("there")));
        let number = DeviceNumber::parse("0:44").expect("a number");
        let connection = Connection::new(&device, number);
        drop(device);
        assert_eq!(connection.number(), None);
        connection.abort(Path::new("/nowhere"));
    }
}
