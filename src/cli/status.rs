//! `kmsfs status`, `lock` and `unlock`.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::info::reads_anyway;
use super::unmount::find;
use crate::clock::spoken;
use crate::console::failure::{Exit, Failure};
use crate::console::options::Output;
use crate::console::printing::{say, tell};
use crate::control::{self, Answer, Ask, Report, Target};
use crate::kms::{Calls, cost};

/// Arguments of `status`.
#[derive(Args)]
pub struct StatusArgs {
    /// The mount [default: every mount]
    mountpoint: Option<PathBuf>,
    /// Print a line at every change of state
    #[arg(long)]
    watch: bool,
    /// Output format
    #[arg(long, value_enum, default_value_t = StatusOutput::Text)]
    output: StatusOutput,
}

/// How `status` prints what it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum StatusOutput {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// The figures of one mount, for monitoring.
    Prometheus,
}

/// The figures of the only mount that was named, or that there is. The exit code says that they
/// were had; where the mount stands is one of them.
fn metrics(all: &[Target]) -> Result<(), Failure> {
    let [target] = all else {
        let text = format!("{} kmsfs stores are mounted, and figures are of one", all.len());
        return Err(Failure::new(Exit::Usage, text)
            .hint("name it: kmsfs status --output prometheus MOUNTPOINT"));
    };
    match answer_of(target, Ask::Metrics)? {
        Answer::Metrics { text } => text.lines().for_each(|line| say!("{line}")),
        Answer::Failed { .. } | Answer::Report { .. } | Answer::Done => {
            let text = format!("{}: its daemon has no figures", target.mountpoint().display());
            return Err(Failure::new(Exit::Failed, text));
        }
    }
    Ok(())
}

fn report_of(target: &Target) -> Result<Report, Failure> {
    match answer_of(target, Ask::Status)? {
        Answer::Report { report } => Ok(*report),
        Answer::Failed { .. } | Answer::Metrics { .. } | Answer::Done => {
            let text = format!("{}: its daemon has no report", target.mountpoint().display());
            Err(Failure::new(Exit::Failed, text))
        }
    }
}

fn answer_of(target: &Target, question: Ask) -> Result<Answer, Failure> {
    let at = target.mountpoint().display();
    match target.ask(question) {
        Ok(Some(Answer::Failed { why })) => Err(Failure::new(Exit::Failed, format!("{at}: {why}"))),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            Err(Failure::new(Exit::NotMounted, format!("{at}: it is not believed, nor asked: {e}")))
        }
        Ok(Some(answer)) => Ok(answer),
        _ => Err(Failure::new(
            Exit::NotMounted,
            format!("{at}: its daemon does not answer; the mount may be dead"),
        )
        .hint(format!("detach it: kmsfs unmount --lazy {at}"))),
    }
}

/// Runs `status`. The exit code says the state: 0 open, 5 refused, 6 unreachable, 10 locked.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &StatusArgs) -> Result<(), Failure> {
    let all = match &args.mountpoint {
        Some(path) => find(path)?,
        None => control::all().map_err(|e| Failure::io(Path::new("/proc/self/mountinfo"), &e))?,
    };
    // One that was named is told of in any case.
    let all: Vec<_> =
        all.into_iter().filter(|t| args.mountpoint.is_some() || is_believed(t)).collect();
    if all.is_empty() {
        return Err(Failure::new(Exit::NotMounted, "no kmsfs store is mounted"));
    }
    let output = match args.output {
        StatusOutput::Prometheus if args.watch => {
            let text = "--watch prints changes of state, and figures are none";
            return Err(Failure::new(Exit::Usage, text)
                .hint("leave --watch out, or ask again and again: watch kmsfs status"));
        }
        StatusOutput::Prometheus => return metrics(&all),
        StatusOutput::Text => Output::Text,
        StatusOutput::Json => Output::Json,
    };
    if args.watch {
        return watch(all, output);
    }
    let mut worst = Exit::Ok;
    // Of a user whose daemon keeps silent no further one is waited for.
    let mut silent = HashSet::new();
    for target in &all {
        let owner = target.owner();
        if silent.contains(&owner) {
            continue;
        }
        let exit = match report_of(target) {
            Ok(report) => {
                print(target, &report, output);
                exit_of(&report.state)
            }
            Err(failure) => {
                failure.print();
                if !owner.is_root() {
                    silent.insert(owner);
                }
                failure.exit
            }
        };
        if worst == Exit::Ok {
            worst = exit;
        }
    }
    if worst == Exit::Ok { Ok(()) } else { Err(Failure::already_reported(worst)) }
}

/// Says so of a mount that is not.
fn is_believed(target: &Target) -> bool {
    let is_believed = target.is_believed();
    if !is_believed {
        let (at, store) = (target.mountpoint().display(), target.store().display());
        let who = target.owner().as_raw();
        tell!(
            "kmsfs: {at}: passed over: user {who} mounted it, and the store {store} is not theirs"
        );
    }
    is_believed
}

fn exit_of(state: &str) -> Exit {
    match state {
        "open" => Exit::Ok,
        "unreachable" => Exit::Unreachable,
        "locked" => Exit::Locked,
        _ => Exit::Refused,
    }
}

fn watch(all: Vec<Target>, output: Output) -> Result<(), Failure> {
    let mut all: Vec<_> = all.into_iter().map(|target| (target, String::new())).collect();
    loop {
        // One that ends, or does not answer, keeps no other from being watched.
        let mut ended = None;
        all.retain_mut(|(target, last)| match report_of(target) {
            Ok(report) => {
                told(target, report, last, output);
                true
            }
            Err(failure) => {
                ended.replace(failure).iter().for_each(Failure::print);
                false
            }
        });
        match ended {
            Some(failure) if all.is_empty() => return Err(failure),
            Some(failure) => failure.print(),
            None => {}
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Prints a state that is not the last one.
fn told(target: &Target, report: Report, last: &mut String, output: Output) {
    if report.state == *last {
        return;
    }
    match output {
        Output::Json => print(target, &report, output),
        Output::Text => say!("{}: {}", report.mountpoint, report.state),
    }
    *last = report.state;
}

/// What stands beside the ordinary about the daemon itself.
fn print_daemon(target: &Target, report: &Report) {
    if let Target::Elsewhere { .. } = target {
        say!("  mounted     in another mount namespace; the paths are as seen there");
    }
    let ours = env!("CARGO_PKG_VERSION");
    if report.version != ours {
        let theirs = if report.version.is_empty() { "another" } else { &report.version };
        say!("  version     {theirs} runs it, this is {ours}: what it does not tell is 0 or empty");
    }
}

/// The calls of the KMS so far, how many an hour they are, and with AWS what those cost.
fn print_calls(report: &Report) {
    for calls in &report.kms_calls {
        let failed = [
            (calls.refused, "refused"),
            (calls.unavailable, "unavailable"),
            (calls.rejected, "rejected"),
        ];
        let failed = failed.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!(", {n} {what}"));
        say!("  KMS calls   {} {} ok{}", calls.operation, calls.ok, failed.collect::<String>());
    }
    let total: u64 = report.kms_calls.iter().map(Calls::total).sum();
    let up = Duration::from_millis(report.up_ms);
    let an_hour = cost::an_hour(total, up);
    match report.provider.as_str() {
        "aws" => say!("  an hour     {an_hour:.0} calls, USD {:.4}", cost::of(an_hour)),
        _ => say!("  an hour     {an_hour:.0} calls"),
    }
}

/// Which master keys there are, and what is under each.
fn print_keys(report: &Report) {
    say!("  master key  {} ({})", report.master_key, report.key_asked);
    if let Some(region) = &report.replica_region {
        say!("  asked       the replica in {region}: disabling the key above cuts nothing off");
    }
    if report.key_target != report.master_key {
        say!("  new keys    come under {}", report.key_target);
    }
    if report.only_current_key {
        say!("  files       under any other key than {} are refused", report.key_target);
    }
    match &report.lines {
        Some(all) => {
            all.iter().for_each(|l| say!("  lines       {} under {}", l.lines, l.key));
        }
        None => say!("  lines       are being counted"),
    }
    if let Some(damaged @ 1..) = report.lines_damaged {
        say!("  warning     {damaged} damaged lines");
    }
}

fn print(target: &Target, report: &Report, output: Output) {
    if output == Output::Json {
        let text = serde_json::to_string(report).expect("strings and numbers have a JSON form");
        return say!("{text}");
    }
    say!("{}: {}", report.mountpoint, report.state);
    print_daemon(target, report);
    say!("  store       {}", report.store);
    say!("  volume      {}", report.volume);
    if !report.recovery.is_empty() {
        say!("  recovery    {}", reads_anyway(report.recovery.len()));
    }
    if report.read_only {
        say!("  access      read-only: nothing is written to the store");
    }
    print_keys(report);
    say!(
        "  heartbeat   every {}, last good {} ago, {} of {} failed{}",
        spoken(Duration::from_millis(report.heartbeat_ms)),
        spoken(Duration::from_millis(report.last_good_ms)),
        report.beats_failed,
        report.beats,
        report.beats_heard.map(|n| format!(", {n} of other mounts counted")).unwrap_or_default()
    );
    if let Some(e) = &report.last_error {
        say!("  KMS said    {e}");
    }
    if report.provider == "aws" {
        let heartbeat = Duration::from_millis(report.heartbeat_ms);
        let shared =
            report.beats_heard.map_or("", |_| "; mounts that share heartbeats pay them once");
        say!("  cost        {}{shared}", cost::monthly(heartbeat));
    }
    print_calls(report);
    say!(
        "  data keys   {} cached, {} in the pool, {} fetched",
        report.keys_cached,
        report.keys_pooled,
        report.keys_fetched
    );
    say!(
        "  kernel      {} inodes, {} with pages; {} requests parked; over {}",
        report.inodes,
        report.inodes_paged,
        report.parked,
        report.transport
    );
    if let Some(at) = &report.metrics {
        say!("  metrics     http://{at}/");
    }
    if let Some(audit) = &report.audit {
        say!("  audit log   {}, {} entries lost", audit.log, audit.lost);
    }
    if report.unlocked_memory > 0 {
        say!("  warning     keys may be swapped out: raise RLIMIT_MEMLOCK (ulimit -l)");
    }
    if let Some(stranger) = &report.stranger {
        say!("  warning     not of this volume, and in the way of removals: {stranger}");
        say!("              folders with such entries: {}; see OPERATIONS", report.strangers);
    }
    if let Some(w) = &report.device_warning {
        say!("  warning     {w}");
    }
}

/// Has every mount of this name follow an order, then waits until each has.
fn order(path: &Path, question: Ask, wanted: impl Fn(&str) -> bool) -> Result<(), Failure> {
    let all = find(path)?;
    let tell = |target: &Target| match target.ask(question.clone()) {
        Ok(Some(Answer::Failed { why })) => {
            let text = format!("{}: {why}", target.mountpoint().display());
            Err(Failure::new(Exit::Failed, text))
        }
        Ok(Some(_)) => Ok(()),
        _ => report_of(target).map(drop),
    };
    // One that fails keeps no other from it.
    let told: Vec<_> = all.iter().map(tell).collect();
    told.into_iter().collect::<Result<(), _>>()?;
    all.iter().try_for_each(|target| wait(target, &wanted))
}

fn wait(target: &Target, wanted: impl Fn(&str) -> bool) -> Result<(), Failure> {
    for _ in 0..300 {
        if wanted(&report_of(target)?.state) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let (at, state) = (target.mountpoint().display(), report_of(target)?.state);
    Err(Failure::new(exit_of(&state), format!("{at}: it is still {state}")))
}

/// Runs `lock`: returns when nothing is readable any more.
///
/// # Errors
/// [`Failure`].
pub fn lock(path: &Path) -> Result<(), Failure> {
    order(path, Ask::Lock, |state| state != "open" && state != "draining")
}

/// Runs `unlock`: returns when the mount is open.
///
/// # Errors
/// [`Failure`].
pub fn unlock(path: &Path) -> Result<(), Failure> {
    order(path, Ask::Unlock, |state| state == "open")
}
