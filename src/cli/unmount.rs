//! `kmsfs unmount`, and the unmount that a signal asks for.

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use rustix::mount::UnmountFlags;

use super::failure::{Exit, Failure};
use super::printing::tell;
use crate::control::{Answer, Ask, ask, mounts};
use crate::threads::{Role, spawn};

/// Arguments of `unmount`.
#[derive(Args)]
pub struct Unmount {
    /// The mount
    mountpoint: PathBuf,
    /// Detach it now; it ends when the last user lets go
    #[arg(long)]
    lazy: bool,
}

/// Finds the mount at a path that a user typed.
pub(super) fn find(path: &Path) -> Result<PathBuf, Failure> {
    let full = std::path::absolute(path).map_err(|e| Failure::io(path, &e))?;
    let all = mounts().map_err(|e| Failure::io(Path::new("/proc/self/mountinfo"), &e))?;
    let real = std::fs::canonicalize(&full).unwrap_or_else(|_| full.clone());
    all.into_iter().map(|m| m.mountpoint).find(|m| *m == full || *m == real).ok_or_else(|| {
        Failure::new(
            Exit::NotMounted,
            format!("{}: no kmsfs store is mounted here", path.display()),
        )
        .hint("see what is: kmsfs status")
    })
}

/// Runs `unmount`: it returns when the daemon has ended too.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Unmount) -> Result<(), Failure> {
    let at = find(&args.mountpoint)?;
    let daemon = match ask(&at, Ask::Status) {
        Ok(Some(Answer::Report(report))) => rustix::process::Pid::from_raw(report.pid as i32),
        _ => None,
    };
    // A handle on the process, so that its end can be waited for.
    let daemon = daemon.and_then(|pid| {
        rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
    });
    let flags = if args.lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    unmount(&at, flags)?;
    if let (Some(daemon), false) = (daemon, args.lazy) {
        let mut wait = [rustix::event::PollFd::new(&daemon, rustix::event::PollFlags::IN)];
        let limit = rustix::time::Timespec { tv_sec: 60, tv_nsec: 0 };
        if rustix::event::poll(&mut wait, Some(&limit)).is_ok_and(|n| n == 0) {
            tell!("kmsfs: unmounted; the daemon is still tidying up");
        }
    }
    Ok(())
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
    let status = Command::new("fusermount3")
        .arg(option)
        .arg(at)
        .status()
        .map_err(|e| Failure::new(Exit::Helper, format!("fusermount3: {e}")))?;
    if status.success() { Ok(()) } else { Err(busy(at)) }
}

/// SIGTERM, SIGINT and SIGHUP unmount; a busy mount is detached and ends with its last user.
///
/// # Errors
/// When no thread can be started.
pub(super) fn on_signals(at: &Path) -> Result<(), Failure> {
    let at = at.to_owned();
    let mut signals =
        signal_hook::iterator::Signals::new([libc::SIGTERM, libc::SIGINT, libc::SIGHUP])
            .map_err(|e| Failure::io(&at, &e))?;
    let work = move || {
        for _ in signals.forever() {
            if unmount(&at, UnmountFlags::empty()).is_err() {
                let _ = detach(&at);
            }
        }
    };
    spawn(Role::Signals, work).map(drop).map_err(|e| Failure::io(Path::new("threads"), &e))
}
