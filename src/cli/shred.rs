//! `kmsfs shred`.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::Args;

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
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// Runs `shred`.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Shred) -> Result<(), Failure> {
    for path in &args.paths {
        if !args.yes {
            ask_for(path)?;
        }
        shred(path)?;
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

fn shred(path: &Path) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::io(path, &e);
    let real = std::fs::canonicalize(path).map_err(failed)?;
    let meta = std::fs::symlink_metadata(&real).map_err(failed)?;
    let device = DeviceNumber::of(&real).map_err(failed)?;
    let found = mounts().map_err(failed)?.into_iter().find(|m| m.device == device);
    let mount = Target::Here(found.ok_or_else(|| {
        let text = format!("{}: it does not lie in a kmsfs mount", path.display());
        Failure::new(Exit::NotMounted, text)
    })?);
    // An open descriptor keeps the inode known to the daemon until it is done.
    let _held = std::fs::File::open(&real).map_err(failed)?;
    match mount.ask(Ask::Shred { inode: meta.ino() }) {
        Ok(Some(Answer::Done)) => Ok(()),
        Ok(Some(Answer::Failed { why })) => {
            Err(Failure::new(Exit::Failed, format!("{}: {why}", path.display())))
        }
        _ => Err(Failure::new(
            Exit::NotMounted,
            format!("{}: the daemon does not answer", mount.mountpoint().display()),
        )),
    }
}
