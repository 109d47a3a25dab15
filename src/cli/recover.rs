//! `kmsfs recover`.

use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use zeroize::Zeroizing;

use super::known;
use super::master::{Master, MasterArgs};
use super::progress;
use super::rewrap::{failure, tell_left};
use crate::console::failure::{Exit, Failure};
use crate::console::printing::{say, tell};
use crate::keys::{NoRecovery, Opener};
use crate::kms::Verdict;
use crate::recovery::Identities;
use crate::store::{Census, Store};
use crate::upkeep::{Done, Left, Rewrap, RewrapError, recoverable};

/// Arguments of `recover`.
#[derive(Args)]
pub struct Recover {
    /// The store; not mounted, but with --dry-run
    store: PathBuf,
    /// The file of an identity of a recovery recipient, as age-keygen makes it; `-` is stdin
    #[arg(long, value_name = "FILE")]
    identity: PathBuf,
    /// Try the identity on every key of the store, mounted or not: asks no KMS, and writes nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    master: MasterArgs,
    /// How many keys a second (default: 1000 with AWS, Vault or PKCS#11, no limit with the embedded keystore)
    #[arg(long, env = "KMSFS_KMS_RATE", value_name = "N")]
    kms_rate: Option<NonZeroU32>,
}

/// Runs `recover`.
///
/// # Errors
/// [`Failure`]; what was done stays done, and the same command goes on from there.
pub fn run(args: &Recover) -> Result<(), Failure> {
    let path = &args.store;
    let store = Store::open_path(path).map_err(|e| Failure::store(path, &e))?;
    if !args.dry_run {
        // Asked before a secret is: it would be told late.
        drop(store.lock().map_err(|e| Failure::store(path, &e))?);
    }
    let opener = Opener::new(&store, identities(&args.identity)?).map_err(|e| none(path, &e))?;
    known::compare(&opener.identity())
        .map_err(|e| Failure::new(Exit::BadVolume, e.to_string()).hint(e.hint))?;
    if args.dry_run {
        return try_all(path, &store, &opener);
    }
    let Master { kms, provider, asked } = args.master.open()?;
    let to = asked.0.clone();
    let failed = |e| match e {
        RewrapError::Kms(e) if e.verdict == Verdict::Refused => Failure::from(e).hint(
            "nothing is lost: let this identity use the key, or name another one \
                 (--master-key KEY), and run the same command again",
        ),
        e => failure(path, &to, &e),
    };
    let target = (kms.services.work, provider);
    let mut rewrap = Rewrap::recover(store, Arc::new(opener), target, asked).map_err(failed)?;
    args.kms_rate.into_iter().for_each(|keys| rewrap.set_rate(keys));
    let plan = rewrap.plan().map_err(failed)?;
    tell!("each data key passes through this process's memory for a moment");
    let bar = progress::keys(plan.keys);
    let done = rewrap.run(|| Ok(()), &|keys| bar.inc(keys));
    bar.finish_and_clear();
    let Done { rewrapped, left, .. } = done.map_err(failed)?;
    say!("recovered {rewrapped} keys to {}", plan.target);
    tell!("next: kmsfs fsck {}", path.display());
    ended(path, &left, plan.counts.damaged)
}

/// Opens all that a recovery would, and says how much that is.
fn try_all(path: &Path, store: &Store, opener: &Opener) -> Result<(), Failure> {
    let disk = |e: io::Error| Failure::io(path, &e);
    let counts = Census::default().take(store).map_err(disk)?;
    let bar = progress::keys(counts.masters.values().sum::<u64>() + counts.others);
    let found = recoverable(store, opener, &|keys| bar.inc(keys)).map_err(disk)?;
    bar.finish_and_clear();
    say!("{} data keys can be recovered with this identity", found.keys);
    ended(path, &found.left, found.damaged)
}

fn ended(path: &Path, left: &[Left], damaged: u64) -> Result<(), Failure> {
    tell_left(left, damaged);
    if left.is_empty() {
        return Ok(());
    }
    let why = format!("{}: {} keys cannot be recovered", path.display(), left.len());
    Err(Failure::new(Exit::Failed, why)
        .hint("restore the store's folder keys from a backup, and run the same command again"))
}

fn identities(path: &Path) -> Result<Identities, Failure> {
    let config = |why: String| Failure::new(Exit::Config, format!("{}: {why}", path.display()));
    let read = match path == Path::new("-") {
        true => io::read_to_string(io::stdin()),
        false => std::fs::read_to_string(path),
    };
    let text = Zeroizing::new(read.map_err(|e| config(e.to_string()))?);
    Identities::parse(&text).map_err(|e| config(e.to_string()))
}

fn none(path: &Path, e: &NoRecovery) -> Failure {
    let message = format!("{}: {e}", path.display());
    match e {
        NoRecovery::Store(e) => Failure::store(path, e),
        NoRecovery::None => Failure::new(Exit::Usage, message)
            .hint("have it from a backup of the keystore, or of its files"),
        NoRecovery::NotMine(_) => Failure::new(Exit::Config, message)
            .hint("see of which recipient an identity is: age-keygen -y FILE"),
        NoRecovery::Changed => Failure::new(Exit::BadVolume, message)
            .hint("restore volume.json from a backup; the files are still there"),
    }
}
