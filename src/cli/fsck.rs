//! `kmsfs fsck`.

use std::path::PathBuf;

use clap::Args;

use super::confirm::{can_ask, confirm};
use super::{progress, provider};
use crate::console::failure::{Exit, Failure};
use crate::console::options::Output;
use crate::console::options::VolumeKmsArgs;
use crate::console::printing::{say, tell};
use crate::fs::Errno;
use crate::kms::{Verdict, cost};
use crate::store::{Census, Provider, Store};
use crate::upkeep::{Checked, Finding, Fsck, FsckError, Repaired};

/// Arguments of `fsck`.
#[derive(Args)]
pub struct FsckArgs {
    /// The store; not mounted
    store: PathBuf,
    /// Repair what can be repaired without loss; no file, name or content is removed
    #[arg(long)]
    repair: bool,
    /// Do not ask for confirmation
    #[arg(long, requires = "repair")]
    yes: bool,
    /// Output format
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    kms: VolumeKmsArgs,
}

/// Runs `fsck`. Exit code 20 where there is damage that is still there at the end.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &FsckArgs) -> Result<(), Failure> {
    let shown = args.store.display().to_string();
    if args.repair && !args.yes {
        can_ask(&shown)?;
    }
    let kms = provider::open_for(&args.store, &args.kms)?;
    tell_cost(args)?;
    let open = Fsck::open(&args.store, kms.services);
    let fsck = open.map_err(|e| Failure::open(&args.store, &e))?;
    let bar = progress::bytes(fsck.tree());
    let report = |finding: &Finding| bar.suspend(|| print(args.output, finding, None));
    let checked = fsck.check(&report, &|bytes| bar.inc(bytes));
    bar.finish_and_clear();
    let checked = checked.map_err(|e| failure(args, &e))?;
    let repaired = if args.repair { repair(args, &fsck, &checked)? } else { Repaired::default() };
    summary(args, &checked, &repaired);
    let left = checked.seen.damage - repaired.damage;
    if left > 0 {
        let why = format!("{shown}: of {left} findings, data cannot be read or was tampered with");
        return Err(Failure::new(Exit::Damaged, why)
            .hint("restore these files, or the folder keys, from a backup; the rest can be used"));
    }
    if repaired.failed > 0 {
        let why = format!("{shown}: {} findings could not be repaired", repaired.failed);
        return Err(Failure::new(Exit::Failed, why));
    }
    Ok(())
}

/// With AWS each data key is a call.
fn tell_cost(args: &FsckArgs) -> Result<(), Failure> {
    let store = Store::open_path(&args.store).map_err(|e| Failure::store(&args.store, &e))?;
    let is_aws = store
        .read_volume()
        .is_ok_and(|file| matches!(file.wrap.source.provider, Provider::Aws { .. }));
    // What cannot be counted is reported as damage soon.
    let counts = if is_aws { Census::default().take(&store).ok() } else { None };
    if let Some(counts) = counts {
        let keys = counts.masters.values().sum::<u64>() + counts.others;
        let calls = keys + counts.branches.len() as u64;
        tell!("at most {calls} calls of the KMS, USD {:.4}", cost::of(calls as f64));
    }
    Ok(())
}

fn repair(args: &FsckArgs, fsck: &Fsck, checked: &Checked) -> Result<Repaired, Failure> {
    if checked.repairable() == 0 {
        return Ok(Repaired::default());
    }
    if !args.yes {
        let shown = args.store.display().to_string();
        let name = args.store.file_name().unwrap_or(args.store.as_os_str()).to_string_lossy();
        let warning = format!("{} findings will be repaired.", checked.repairable());
        confirm(&shown, &warning, &name)?;
    }
    let mut report = |finding: &Finding, failed: Option<_>| match failed {
        None => print(args.output, finding, Some("repaired")),
        Some(Errno(code)) => {
            let e = std::io::Error::from_raw_os_error(code);
            tell!("kmsfs: {}: it cannot be repaired: {e}", finding.place);
        }
    };
    fsck.repair(checked, &mut report).map_err(|e| failure(args, &e))
}

/// Prints a finding: as what it was found, or what became of it.
fn print(output: Output, finding: &Finding, became: Option<&'static str>) {
    let kind = became.unwrap_or(finding.what.kind().name());
    if output == Output::Text {
        return say!("{kind:<8}  {}: {}", finding.place, finding.what);
    }
    let json = serde_json::json!({
        "kind": kind,
        "what": finding.what.word(),
        "within": finding.place.within(),
        "path": finding.place.to_string(),
        "detail": finding.what.to_string(),
    });
    say!("{json}");
}

fn summary(args: &FsckArgs, checked: &Checked, repaired: &Repaired) {
    let (seen, kept) = (&checked.seen, checked.kept());
    if args.output == Output::Json {
        let json = serde_json::json!({
            "kind": "summary",
            "files": seen.files,
            "bytes": seen.bytes,
            "damage": seen.damage,
            "leftovers": seen.leftovers,
            "repaired": repaired.done,
        });
        return say!("{json}");
    }
    let done = if args.repair { format!(", {} repaired", repaired.done) } else { String::new() };
    say!(
        "{} files, {} bytes read: {} damage, {} leftovers{done}",
        seen.files,
        seen.bytes,
        seen.damage,
        seen.leftovers
    );
    if !args.repair && checked.repairable() > 0 {
        let store = args.store.display();
        tell!("{} can be repaired: kmsfs fsck {store} --repair", checked.repairable());
    }
    if kept > 0 {
        tell!("{kept} leftovers stay as long as the tree has damage: it may be theirs");
    }
}

fn failure(args: &FsckArgs, e: &FsckError) -> Failure {
    match e {
        FsckError::Kms(e) => {
            let failure = Failure::from(e.clone());
            match e.verdict {
                Verdict::Refused => failure,
                _ => failure.hint("nothing was changed: run the same command again"),
            }
        }
        FsckError::Closed | FsckError::Sync(_) | FsckError::Owner(_) | FsckError::Thread(_) => {
            Failure::new(Exit::Failed, format!("{}: {e}", args.store.display()))
        }
    }
}
