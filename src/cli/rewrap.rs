//! `kmsfs rewrap`.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::mount::open_keystore;
use super::{pkcs11, place, progress, provider, vault};
use crate::console::failure::{Exit, Failure, second_copy};
use crate::console::options::{KmsArg, VolumeKmsArgs};
use crate::console::printing::{say, tell};
use crate::control::{self, Answer, Ask, Report, Target};
use crate::keys::Word;
use crate::kms::{KeyArn, KeyRef, KeyService, Verdict, cost, region_of};
use crate::store::{Provider, Store, StoreError};
use crate::upkeep::{Done, Left, Method, Order, Plan, Rewrap, RewrapError, Unsettled};

/// Arguments of `rewrap`.
#[derive(Args)]
pub struct RewrapArgs {
    /// The store, mounted or not
    store: PathBuf,
    /// The master key that everything is to be under: an id, an ARN or alias/NAME
    #[arg(long, value_name = "KEY")]
    to: String,
    /// Which KMS holds that key [default: the volume's]. To another KMS, and within Vault or a PKCS#11
    /// token, each data key passes through this process's memory for a moment; to another KMS, the
    /// store must not be mounted
    #[arg(long, value_enum)]
    to_kms: Option<KmsArg>,
    /// Print what would be done and what it costs; rewraps one key, and writes nothing
    #[arg(long)]
    dry_run: bool,
    /// How many keys a second (default: 1000 with AWS, Vault or PKCS#11, no limit with the embedded keystore)
    #[arg(long, env = "KMSFS_KMS_RATE", value_name = "N")]
    kms_rate: Option<NonZeroU32>,
    #[command(flatten)]
    kms: VolumeKmsArgs,
}

/// Runs `rewrap`.
///
/// # Errors
/// [`Failure`]; what was done stays done, and the same command goes on from there.
pub fn run(args: &RewrapArgs) -> Result<(), Failure> {
    let path = &args.store;
    let (method, provider) = ends(args)?;
    let from = provider::provider_of(path, &args.kms)?;
    let price =
        if [&from, &provider].iter().any(|p| p.name() == "aws") { Price::Aws } else { Price::None };
    let through_here = method.takes_keys_through_here();
    let store = Store::open_path(path).map_err(|e| Failure::store(path, &e))?;
    let asked = KeyRef(args.to.clone());
    let failed = |e| failure(path, &args.to, &e);
    let mut rewrap = Rewrap::prepare(store, method, provider, asked).map_err(failed)?;
    args.kms_rate.into_iter().for_each(|keys| rewrap.set_rate(keys));
    let plan = rewrap.plan().map_err(failed)?;
    if args.dry_run {
        tell_plan(&plan, price, how(through_here));
        return Ok(());
    }
    let mount = reachable(args, rewrap.order(), &plan.target)?;
    if through_here {
        tell!("each data key passes through this process's memory for a moment");
    }
    let bar = progress::keys(plan.keys);
    let done = rewrap.run(|| follow(mount.as_ref(), rewrap.word()), &|keys| bar.inc(keys));
    bar.finish_and_clear();
    let done = done.map_err(failed)?;
    report(args, &plan, &done)
}

/// The KMS that the keys are in, and the one that they go to.
fn ends(args: &RewrapArgs) -> Result<(Method, Provider), Failure> {
    let from = provider::provider_of(&args.store, &args.kms)?;
    let to = args.to_kms.unwrap_or(match from {
        Provider::Local { .. } => KmsArg::Local,
        Provider::Aws { .. } => KmsArg::Aws,
        Provider::Vault { .. } => KmsArg::Vault,
        Provider::Pkcs11 { .. } => KmsArg::Pkcs11,
    });
    let to = match (to, &from) {
        (KmsArg::Local, Provider::Local { .. }) => from.clone(),
        (KmsArg::Local, _) => {
            let path = place::absolute(&args.kms.options.keystore.path())?;
            Provider::Local { keystore: path.to_string_lossy().into_owned() }
        }
        (KmsArg::Aws, Provider::Aws { region }) => {
            Provider::Aws { region: region_of(&args.to).unwrap_or(region).to_owned() }
        }
        (KmsArg::Aws, _) => return to_aws(args, &from),
        (KmsArg::Vault, Provider::Vault { address, namespace, mount }) => {
            let told = &args.kms.options.vault;
            Provider::Vault {
                address: address.clone(),
                namespace: told
                    .vault_namespace
                    .as_ref()
                    .map_or(namespace.clone(), |_| told.namespace()),
                mount: told.vault_mount.as_ref().map_or(mount.clone(), |_| told.mount()),
            }
        }
        (KmsArg::Vault, _) => vault::provider(&args.kms.options.vault)?,
        (KmsArg::Pkcs11, _) => pkcs11::provider(&args.kms.options.pkcs11)?,
    };
    to.check().map_err(|why| Failure::new(Exit::Usage, why))?;
    let source = service(&from, &args.kms)?;
    match &args.kms.replica_region {
        Some(region) if from == to => Err(stays(&args.store, region)),
        None if from == to => Ok((Method::Within(source), to)),
        _ => {
            // What it goes to is asked by its own name.
            let kms = VolumeKmsArgs { replica_region: None, ..args.kms.clone() };
            Ok((Method::Move { from: source, to: service(&to, &kms)? }, to))
        }
    }
}

/// The region that the store names would not know what a replica's region has wrapped.
fn stays(store: &Path, region: &str) -> Failure {
    let why = "by way of a replica a store is rewrapped to a key of another region alone";
    Failure::new(Exit::Usage, format!("{}: {why}", store.display()))
        .hint(format!("name it by its ARN: --to arn:aws:kms:{region}:ACCOUNT:key/ID"))
}

fn to_aws(args: &RewrapArgs, from: &Provider) -> Result<(Method, Provider), Failure> {
    let aws = &args.kms.options.aws;
    let (kms, region) = provider::open_aws(&provider::aws_for(&args.to, aws), None)?;
    let method = Method::Move { from: service(from, &args.kms)?, to: kms.services.work };
    Ok((method, Provider::Aws { region }))
}

fn service(provider: &Provider, kms: &VolumeKmsArgs) -> Result<Arc<dyn KeyService>, Failure> {
    Ok(match provider {
        Provider::Local { keystore } => {
            Arc::new(open_keystore(Path::new(keystore), &kms.options.keystore.passphrase())?)
        }
        Provider::Aws { .. } | Provider::Vault { .. } | Provider::Pkcs11 { .. } => {
            provider::open(provider, None, kms)?.services.work
        }
    })
}

/// The daemon that has the store mounted, if there is one. Without an answer
/// from it nothing may begin: it would go on making keys under the old master key.
fn reachable(args: &RewrapArgs, order: Order, target: &KeyArn) -> Result<Option<Target>, Failure> {
    let path = &args.store;
    let store = Store::open_path(path).map_err(|e| Failure::store(path, &e))?;
    match store.lock() {
        Ok(_) => return Ok(None),
        Err(StoreError::Busy) => {}
        Err(e) => return Err(Failure::store(path, &e)),
    }
    let busy = |why: &str| Failure::new(Exit::Busy, format!("{}: {why}", path.display()));
    let unreachable = || {
        busy("another kmsfs has it, and cannot be asked from here")
            .hint("run this as root or as who mounted it, where it is mounted; or unmount it")
    };
    let at = control::serving(path).map_err(|e| Failure::io(path, &e))?;
    match (at, order) {
        (Some(at), Order::LinesFirst) => {
            Err(busy("it is mounted; to another KMS, account or region it moves unmounted")
                .hint(format!("unmount it first: kmsfs unmount {}", at.mountpoint().display())))
        }
        (Some(at), Order::VolumeFirst) => match at.report() {
            Ok(Some(Report { pinned_key: Some(pinned), .. })) if pinned != target.0 => {
                let why = format!("it is mounted with --master-key {pinned}, and accepts no other");
                let hint = format!("unmount it first: kmsfs unmount {}", at.mountpoint().display());
                Err(busy(&why).hint(hint))
            }
            Ok(Some(_)) => Ok(Some(at)),
            _ => Err(unreachable()),
        },
        (None, _) => Err(unreachable()),
    }
}

fn follow(daemon: Option<&Target>, word: Word) -> Result<(), Unsettled> {
    let Some(at) = daemon else {
        let why = "it was mounted a moment ago; run this again";
        return Err(Unsettled::Unknown(why.to_owned()));
    };
    match at.ask(Ask::Follow { asked: word.asked.0, master: word.master.0 }) {
        Ok(Some(Answer::Done)) => Ok(()),
        Ok(Some(Answer::Failed { why })) => Err(Unsettled::Refused(why)),
        Ok(_) => Err(Unsettled::Unknown("its daemon does not answer".to_owned())),
        Err(e) => Err(Unsettled::Unknown(e.to_string())),
    }
}

/// Whether calls are paid for.
#[derive(Clone, Copy)]
enum Price {
    /// AWS takes part.
    Aws,
    None,
}

/// What is done to each key.
fn how(through_here: bool) -> &'static str {
    match through_here {
        true => "Decrypt, then Encrypt: each data key passes through this process's memory",
        false => "ReEncrypt: no data key leaves the KMS",
    }
}

fn tell_plan(plan: &Plan, price: Price, how: &str) {
    say!("to          {}", plan.target);
    say!("by          {how}");
    for (master, lines) in plan.counts.by_master() {
        match master {
            Some(master) if *master == plan.target => say!("data keys   {lines} under it"),
            Some(master) => say!("data keys   {lines} under {master}"),
            None => say!("data keys   {lines} under branch keys that cannot be read"),
        }
    }
    if !plan.counts.branches.is_empty() {
        say!("branch keys {}", plan.counts.branches.len());
    }
    if plan.counts.damaged > 0 {
        say!("damaged     {} lines, which stay as they are", plan.counts.damaged);
    }
    let price = match price {
        Price::Aws => format!(", USD {:.4}", cost::of(plan.calls as f64)),
        Price::None => String::new(),
    };
    say!("to rewrap   {} keys: {} calls of the KMS{price}", plan.keys, plan.calls);
}

/// More than these are not listed one by one.
const MOST_TOLD: usize = 10;

/// Names the keys that stay as they are, and counts the lines that cannot be read.
pub(super) fn tell_left(left: &[Left], damaged: u64) {
    if damaged > 0 {
        tell!("kmsfs: {damaged} damaged lines stay as they are");
    }
    for left in left.iter().take(MOST_TOLD) {
        tell!("kmsfs: {} stays: {}", left.owner, left.why);
    }
    if left.len() > MOST_TOLD {
        tell!("kmsfs: and {} more", left.len() - MOST_TOLD);
    }
}

fn report(args: &RewrapArgs, plan: &Plan, done: &Done) -> Result<(), Failure> {
    say!("rewrapped {} keys to {}", done.rewrapped, plan.target);
    if !done.is_proven {
        tell!(
            "kmsfs: this identity may not Decrypt, so nothing in the store proves the new master \
             key yet"
        );
        tell!("next: kmsfs mount {} MOUNTPOINT --master-key {}", args.store.display(), plan.target);
    }
    tell_left(&done.left, plan.counts.damaged);
    let stay = done.left.len();
    let left = format!("{}: {stay} data keys are not rewrapped", args.store.display());
    match &done.refused {
        Some(e) => Err(Failure::new(Exit::Refused, format!("{left}: {e}"))
            .hint("enable that key, and run the same command again")),
        None if stay > 0 => Err(Failure::new(Exit::Failed, left).hint(
            "these files cannot be read either: restore the store's folder keys from a backup",
        )),
        None => Ok(()),
    }
}

/// A rewrap of `store` to `to` that stopped.
pub(super) fn failure(store: &Path, to: &str, e: &RewrapError) -> Failure {
    let again = "nothing is lost: run the same command again to go on";
    let message = format!("{}: {e}", store.display());
    match e {
        RewrapError::Store(e) => Failure::store(store, e),
        RewrapError::Disk(_) => Failure::new(Exit::Failed, message).hint(again),
        RewrapError::VolumeKey(_) => {
            Failure::new(Exit::BadVolume, message).hint(second_copy(store))
        }
        RewrapError::SameName(_) => {
            Failure::new(Exit::Usage, message).hint("make one: kmsfs key create; --master-key KEY")
        }
        RewrapError::Kms(e) => {
            let failure = Failure::from(e.clone());
            match e.verdict {
                Verdict::Refused => failure.hint(format!(
                    "see what this identity may do: kmsfs policy test {}; {again}",
                    store.display()
                )),
                verdict if verdict.is_inconclusive() => failure.hint(again),
                _ => failure,
            }
        }
        RewrapError::Overtaken(_) => Failure::new(Exit::Busy, message)
            .hint("let that one end, or stop it and run the same command again"),
        RewrapError::Endless => Failure::new(Exit::Failed, message)
            .hint(format!("does {to} point to another key by now? {again}")),
        RewrapError::Mount(_) => Failure::new(Exit::Failed, message)
            .hint("nothing was changed; unlock the mount, or let its identity use the new key"),
    }
}
