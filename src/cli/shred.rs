//! `kmsfs shred`.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use clap::Args;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;

use super::confirm::confirm;
use crate::console::failure::{Exit, Failure};
use crate::console::printing::{say, tell};
use crate::control::{Answer, Ask, Target, mounts};
use crate::disk::DeviceNumber;

/// Arguments of `shred`.
#[derive(Args)]
pub struct Shred {
    /// Files in a mount
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
}

/// Runs `shred`.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Shred) -> Result<(), Failure> {
    for path in &args.paths {
        let file = open(path)?;
        if !args.yes {
            ask_for(path)?;
        }
        shred(path, &file)?;
        say!("shredded {}", path.display());
    }
    tell!("backups and snapshots of the store's sidecars still open these files");
    Ok(())
}

fn ask_for(path: &Path) -> Result<(), Failure> {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let warning = format!("The content of {} will be lost for good.", path.display());
    confirm(&path.display().to_string(), &warning, &name)
}

/// The file itself, held until its key is gone: it is what was asked about, and known to the
/// daemon. No link is followed, for whoever owns a folder on the way can change one at any moment.
fn open(path: &Path) -> Result<OwnedFd, Failure> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS).map_err(|e| {
        let failed = Failure::io(path, &e.into());
        match std::fs::canonicalize(path) {
            Ok(real) if e == Errno::LOOP => Failure::new(
                Exit::Usage,
                format!("{}: a symbolic link is on its way: nothing was done", path.display()),
            )
            .hint(format!("name what it leads to: kmsfs shred {}", real.display())),
            _ => failed,
        }
    })
}

fn shred(path: &Path, file: &OwnedFd) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::io(path, &e);
    let inode = fstat(file).map_err(|e| failed(e.into()))?.st_ino;
    let device = DeviceNumber::of_open(file).map_err(failed)?;
    let found = mounts().map_err(failed)?.into_iter().find(|m| m.device == device);
    let mount = Target::Here(found.ok_or_else(|| {
        let text = format!("{}: it does not lie in a kmsfs mount", path.display());
        Failure::new(Exit::NotMounted, text)
    })?);
    match mount.ask(Ask::Shred { inode }) {
        Ok(Some(Answer::Done)) => Ok(()),
        Ok(Some(Answer::Failed { why })) => {
            Err(Failure::new(Exit::Failed, format!("{}: {why}", path.display())))
        }
        Err(e) => Err(Failure::io(mount.mountpoint(), &e)),
        Ok(_) => Err(Failure::new(
            Exit::NotMounted,
            format!("{}: the daemon does not answer", mount.mountpoint().display()),
        )),
    }
}
