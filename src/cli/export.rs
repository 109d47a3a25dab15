//! `kmsfs cat` and `kmsfs export`: content without a mount.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::ProgressBar;

use super::{known, progress, provider};
use crate::console::failure::{Exit, Failure};
use crate::console::options::VolumeKmsArgs;
use crate::console::printing::tell;
use crate::fs::Access;
use crate::upkeep::{self, ExportError, ExportWatcher, LeftBehind, Offline, Privileged};

/// Arguments of `cat`.
#[derive(Args)]
pub struct Cat {
    /// The store; not mounted
    store: PathBuf,
    /// A path in the volume
    path: PathBuf,
    #[command(flatten)]
    kms: VolumeKmsArgs,
}

/// Arguments of `export`.
#[derive(Args)]
pub struct Export {
    /// The store; not mounted
    store: PathBuf,
    /// Where to copy the tree: absent, or an empty folder
    dest: PathBuf,
    /// Keep set-user-ID and set-group-ID bits, and make device files: for a store that nobody
    /// else could write
    #[arg(long)]
    keep_privileged: bool,
    #[command(flatten)]
    kms: VolumeKmsArgs,
}

fn open(store: &Path, args: &VolumeKmsArgs) -> Result<Offline, Failure> {
    let kms = provider::open_for(store, args)?;
    let opened = Offline::open(store, kms.services, Access::ReadOnly);
    let opened = opened.map_err(|e| Failure::open(store, &e))?;
    match known::compare(&opened.fs().keyring().volume().identity()) {
        Ok(_) => Ok(opened),
        Err(e) => Err(Failure::new(Exit::BadVolume, e.to_string()).hint(e.hint)),
    }
}

/// Runs `cat`.
///
/// # Errors
/// [`Failure`].
pub fn cat(args: &Cat) -> Result<(), Failure> {
    let volume = open(&args.store, &args.kms)?;
    upkeep::cat(&volume, &args.path, &mut std::io::stdout().lock())
        .map_err(|e| Failure::new(Exit::Failed, e.to_string()))
}

/// The bar, and what is told beside it.
struct Progress {
    bar: ProgressBar,
    /// Entries that could not be read.
    lost: u64,
}

impl ExportWatcher for Progress {
    fn advance(&mut self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn failed(&mut self, why: &ExportError) {
        self.lost += 1;
        self.bar.suspend(|| tell!("kmsfs: {why}"));
    }
}

/// Runs `export`.
///
/// # Errors
/// [`Failure`]; files that cannot be read are told, and end it with exit code 1.
pub fn export(args: &Export) -> Result<(), Failure> {
    if fs::read_dir(&args.dest).map(Iterator::count).unwrap_or(0) > 0 {
        return Err(Failure::new(
            Exit::Failed,
            format!("{}: the folder is not empty, nothing was done", args.dest.display()),
        )
        .hint("choose a new folder"));
    }
    let volume = open(&args.store, &args.kms)?;
    let mut progress = Progress { bar: progress::bytes(volume.tree()), lost: 0 };
    let privileged = if args.keep_privileged { Privileged::Kept } else { Privileged::LeftBehind };
    let left = upkeep::export(&volume, &args.dest, privileged, &mut progress);
    progress.bar.finish_and_clear();
    let left = left.map_err(|e| Failure::new(Exit::Failed, e.to_string()))?;
    if left != LeftBehind::default() {
        tell!(
            "left behind: set-id bits of {} files, and {} device files (--keep-privileged keeps them)",
            left.set_id,
            left.devices
        );
    }
    let lost = progress.lost;
    if lost > 0 {
        return Err(Failure::new(Exit::Failed, format!("{lost} entries could not be read")));
    }
    Ok(())
}
