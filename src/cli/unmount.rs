//! `kmsfs unmount`, and the unmount that a signal asks for.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::mount::UnmountFlags;
use rustix::process::{Signal, pidfd_send_signal};

use crate::console::failure::{Exit, Failure};
use crate::console::printing::tell;
use crate::control::{self, Target, has_ended};
use crate::fuse::Connection;
use crate::threads::{Role, spawn};

/// Arguments of `unmount`.
#[derive(Args)]
pub struct Unmount {
    /// The mount
    mountpoint: PathBuf,
    /// Detach it at once; the daemon ends when the last open file is closed
    #[arg(long)]
    lazy: bool,
}

/// Finds what is mounted at a path that a user typed. More than one answer only where it is in
/// other mount namespaces.
pub(super) fn find(path: &Path) -> Result<Vec<Target>, Failure> {
    let found = control::at(path).map_err(|e| Failure::io(path, &e))?;
    if found.is_empty() {
        let text = format!("{}: no kmsfs store is mounted here", path.display());
        return Err(Failure::new(Exit::NotMounted, text).hint("see what is: kmsfs status"));
    }
    Ok(found)
}

/// Runs `unmount`: it returns when the daemon has ended too.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Unmount) -> Result<(), Failure> {
    for target in find(&args.mountpoint)? {
        // A handle on the process, so that its end can be waited for.
        let daemon = target.process();
        let flags = if args.lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
        match (&target, &daemon) {
            (Target::Here(mount), _) => once_free(&mount.mountpoint, flags)?,
            (Target::Elsewhere { mountpoint, .. }, daemon) => from_within(mountpoint, daemon)?,
        }
        if let (Some(daemon), false) = (daemon, args.lazy)
            && !is_seen_elsewhere(&target)
            && !has_ended(&daemon, 60)
        {
            tell!("kmsfs: unmounted; the daemon is still tidying up");
        }
    }
    Ok(())
}

/// A program between fork(2) and execve(2) still has the open files of the one that starts it: a
/// mount that is busy is tried again for so long.
const LINGERING: Duration = Duration::from_secs(2);

/// Unmounts, as soon as nobody uses the mount.
fn once_free(at: &Path, flags: UnmountFlags) -> Result<(), Failure> {
    let limit = Instant::now() + LINGERING;
    loop {
        match unmount(at, flags) {
            Err(e) if e.exit == Exit::Busy && Instant::now() < limit => {
                std::thread::sleep(Duration::from_millis(50));
            }
            done => return done,
        }
    }
}

/// Whether a mount that was taken from one place is still there at another: its daemon goes on.
fn is_seen_elsewhere(target: &Target) -> bool {
    let Target::Here(mount) = target else { return false };
    let others = control::mounts().unwrap_or_default();
    others.iter().any(|other| other.device == mount.device)
}

/// A mount in another mount namespace is reached by its daemon alone, which a signal has unmount.
fn from_within(mountpoint: &Path, daemon: &Option<OwnedFd>) -> Result<(), Failure> {
    let asked = daemon.as_ref().map(|daemon| pidfd_send_signal(daemon, Signal::TERM));
    match asked {
        Some(Ok(())) => Ok(()),
        _ => Err(Failure::new(
            Exit::Failed,
            format!("{}: its daemon cannot be asked to unmount it", mountpoint.display()),
        )),
    }
}

/// Detaches a mount whose daemon is gone.
pub(super) fn detach(at: &Path) -> Result<(), Failure> {
    unmount(at, UnmountFlags::DETACH)
}

fn unmount(at: &Path, flags: UnmountFlags) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return as_user(at, flags);
    }
    rustix::mount::unmount(at, flags).map_err(|e| match e {
        rustix::io::Errno::BUSY => busy(at),
        e => Failure::new(Exit::Failed, format!("{}: {e}", at.display())),
    })
}

fn busy(at: &Path) -> Failure {
    Failure::new(Exit::Busy, format!("{}: programs still use it", at.display())).hint(format!(
        "see which: fuser -vm {0}; or detach it: kmsfs unmount --lazy {0}",
        at.display()
    ))
}

fn as_user(at: &Path, flags: UnmountFlags) -> Result<(), Failure> {
    let option = if flags.contains(UnmountFlags::DETACH) { "-uz" } else { "-u" };
    let output = Command::new("fusermount3")
        .arg(option)
        .arg(at)
        .env("LC_ALL", "C")
        .output()
        .map_err(|e| Failure::new(Exit::Helper, format!("fusermount3: {e}")))?;
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(()),
        false if said.contains("busy") => Err(busy(at)),
        false => Err(Failure::new(Exit::Failed, said.trim().to_owned())),
    }
}

/// Unmounts at each place where it is seen in this mount namespace. A daemon that tidies up after
/// its mount has ended has nothing to unmount: its mount's number and place may be another's.
fn unmount_all(at: &Path, connection: &Connection) {
    let mounts = control::mounts().unwrap_or_default();
    // Asked after the list was made.
    let Some(device) = connection.number() else { return };
    let seen = mounts.into_iter().rev().filter(|mount| mount.device == device);
    let mut places: Vec<PathBuf> = seen.map(|mount| mount.mountpoint).collect();
    if places.is_empty() {
        // It cannot be seen, or lies in another namespace by now.
        places.push(at.to_owned());
    }
    for place in places {
        if unmount(&place, UnmountFlags::empty()).is_err() {
            let _ = detach(&place);
        }
    }
}

/// SIGTERM and SIGINT unmount; a busy mount is detached and ends with its last user. SIGHUP is
/// noted and does nothing: there is nothing to read again, and the end of a terminal is no reason
/// to take a filesystem from those who use it.
///
/// # Errors
/// When no thread can be started.
pub(super) fn on_signals(at: &Path, connection: Connection) -> Result<(), Failure> {
    let at = at.to_owned();
    let mut signals =
        signal_hook::iterator::Signals::new([libc::SIGTERM, libc::SIGINT, libc::SIGHUP])
            .map_err(|e| Failure::io(&at, &e))?;
    let work = move || {
        for signal in signals.forever() {
            if signal == libc::SIGHUP {
                log::warn!("SIGHUP does nothing; to unmount, send SIGTERM");
            } else {
                unmount_all(&at, &connection);
            }
        }
    };
    spawn(Role::Signals, work).map(drop).map_err(|e| Failure::io(Path::new("threads"), &e))
}
