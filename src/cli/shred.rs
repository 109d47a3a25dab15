//! `kmsfs shred`.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::Args;

use super::confirm::confirm;
use super::failure::{Exit, Failure};
use super::printing::{say, tell};
use crate::control::{Answer, Ask, ask, mounts};

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
    let at = mounts()
        .map_err(failed)?
        .into_iter()
        .map(|m| m.mountpoint)
        .filter(|m| real.starts_with(m))
        .max_by_key(|m| m.as_os_str().len())
        .ok_or_else(|| {
            Failure::new(
                Exit::NotMounted,
                format!("{}: it does not lie in a kmsfs mount", path.display()),
            )
        })?;
    // An open descriptor keeps the inode known to the daemon until it is done.
    let _held = std::fs::File::open(&real).map_err(failed)?;
    match ask(&at, Ask::Shred(meta.ino())) {
        Ok(Some(Answer::Done)) => Ok(()),
        Ok(Some(Answer::Failed(why))) => {
            Err(Failure::new(Exit::Failed, format!("{}: {why}", path.display())))
        }
        _ => Err(Failure::new(
            Exit::NotMounted,
            format!("{}: the daemon does not answer", at.display()),
        )),
    }
}
