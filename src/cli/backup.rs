//! `kmsfs backup`.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::ProgressBar;

use super::{place, progress};
use crate::console::failure::{Exit, Failure};
use crate::console::options::Output;
use crate::console::printing::{say, tell};
use crate::disk;
use crate::store::Store;
use crate::upkeep::{BackupError, Copied, Destination, Watcher, backup};

/// Arguments of `backup`.
#[derive(Args)]
pub struct BackupArgs {
    /// The store, mounted or not
    store: PathBuf,
    /// Where to copy it: absent, an empty folder, or a copy that this has made before, of which
    /// what has changed is written
    dest: PathBuf,
    /// How to print what was done
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// The bar, and what is told beside it.
struct Progress {
    bar: ProgressBar,
    bytes: u64,
}

impl Watcher for Progress {
    fn advance(&mut self, entries: u64, bytes: u64) {
        self.bar.inc(entries);
        self.bytes += bytes;
        self.bar.set_message(format!("{} written", indicatif::HumanBytes(self.bytes)));
    }

    fn failed(&mut self, path: &Path, why: &io::Error) {
        self.bar.suspend(|| tell!("kmsfs: {}: {why}", path.display()));
    }

    fn keyless(&mut self, path: &Path) {
        let path = path.display();
        self.bar.suspend(|| tell!("kmsfs: files/{path}: its key was removed before it was copied"));
    }
}

/// Runs `backup`. It needs no key and no KMS.
///
/// # Errors
/// [`Failure`]; entries that cannot be read are told, and end it with exit code 1.
pub fn run(args: &BackupArgs) -> Result<(), Failure> {
    let (from, dest) = (&args.store, &args.dest);
    let store = Store::open_path(from).map_err(|e| Failure::store(from, &e))?;
    store.read_volume().map_err(|e| Failure::store(from, &e))?;
    check_apart(from, dest)?;
    raise_descriptors();
    match fs::DirBuilder::new().mode(0o700).create(dest) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(Failure::io(dest, &e)),
        _ => {}
    }
    let top = disk::open_dir(dest).map_err(|e| Failure::io(dest, &e))?;
    let opened = Destination::open(top, dest, &store).map_err(|e| failure(dest, &e))?;
    let mut progress = Progress { bar: progress::entries(store.tree()), bytes: 0 };
    let done = backup(&store, &opened, &mut progress);
    progress.bar.finish_and_clear();
    let done = done.map_err(|e| failure(dest, &e))?;
    summary(args, &done);
    if done.failed + done.keyless > 0 || done.unsettled {
        let why = format!("{}: the copy is not all of the store", dest.display());
        return Err(Failure::new(Exit::Failed, why)
            .hint("run the same command again, when the store is less busy if need be"));
    }
    Ok(())
}

/// Neither lies in the other: what is removed from the copy would be the store.
fn check_apart(store: &Path, dest: &Path) -> Result<(), Failure> {
    let full = |path: &Path| fs::canonicalize(path).map_err(|e| Failure::io(path, &e));
    let store = full(store)?;
    let dest = match fs::canonicalize(dest) {
        Ok(dest) => dest,
        // It is to be made: the folder that it is made in counts.
        Err(_) => {
            let absolute = place::absolute(dest)?;
            let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
                return Err(Failure::new(Exit::Usage, format!("{}: no folder", dest.display())));
            };
            full(parent)?.join(name)
        }
    };
    let why = if dest.starts_with(&store) {
        "it lies inside of the store"
    } else if store.starts_with(&dest) {
        "the store lies inside of it"
    } else {
        return Ok(());
    };
    Err(Failure::new(Exit::Usage, format!("{}: {why}, nothing was done", dest.display()))
        .hint("choose a folder beside it, on another disk at best"))
}

/// A deep tree takes a descriptor for each folder on the way.
fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    // Where it is not allowed the limit stays as it is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

fn failure(dest: &Path, e: &BackupError) -> Failure {
    let shown = dest.display();
    match e {
        BackupError::Busy => Failure::new(Exit::Busy, format!("{shown}: {e}"))
            .hint("see what is mounted: kmsfs status"),
        BackupError::NotACopy => {
            Failure::new(Exit::Failed, format!("{shown}: {e}, nothing was done")).hint(
                "choose an empty folder; a copy that was mounted for writing is a store by itself",
            )
        }
        BackupError::Store(e) => Failure::store(dest, e),
        BackupError::To(..) | BackupError::From(..) => {
            Failure::new(Exit::Failed, format!("{shown}: the copy is not whole: {e}"))
                .hint("run the same command again: it goes on from there")
        }
    }
}

fn summary(args: &BackupArgs, done: &Copied) {
    if args.output == Output::Json {
        let json = serde_json::json!({
            "entries": done.entries,
            "written": done.written,
            "bytes": done.bytes,
            "removed": done.removed,
            "failed": done.failed,
            "keyless": done.keyless,
            "whole": done.failed + done.keyless == 0 && !done.unsettled,
        });
        return say!("{json}");
    }
    say!(
        "{} entries: {} files written, {} bytes, {} entries removed",
        done.entries,
        done.written,
        done.bytes,
        done.removed
    );
    if done.failed > 0 {
        say!("{} entries could not be read", done.failed);
    }
    if done.keyless > 0 {
        say!("{} files have no key in the copy: --removed-key-grace is too short", done.keyless);
    }
    if done.unsettled {
        say!("entries that were moved meanwhile may be in the copy twice");
    }
}
