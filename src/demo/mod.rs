//! `kmsfs demo`: ordinary programs on a mount while another process disables the master key.

mod map;
mod play;
mod postgres;
mod programs;
mod report;
mod role;
mod screen;
mod stage;
mod svg;
mod timeline;
mod verdict;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

pub use role::{Role, VERB, run as program};

use crate::console::failure::{Exit, Failure};
use crate::console::options::{AwsArgs, KmsArg, duration};
use crate::console::pkcs11::Pkcs11Args;
use crate::console::vault::VaultArgs;
use play::Play;
use report::Setting;
use stage::{Afterwards, Master, Stage};
use verdict::{Check, Facts, Since};

/// Arguments of `demo`.
#[derive(Args)]
pub struct Demo {
    /// The file to write the report to
    #[arg(long, value_name = "FILE.html", default_value = "kmsfs-demo.html")]
    report: PathBuf,
    /// Also run a PostgreSQL server under pgbench
    #[arg(long)]
    postgres: bool,
    /// The KMS of the key that is disabled: a keystore made for the demo, or one of yours (see
    /// --key)
    #[arg(long, value_enum, default_value_t = KmsArg::Local)]
    kms: KmsArg,
    /// AWS, Vault, PKCS#11: the key that is disabled and enabled; use one that nothing else needs
    #[arg(long, value_name = "KEY", required_if_eq_any([("kms", "aws"), ("kms", "vault"), ("kms", "pkcs11")]))]
    key: Option<String>,
    #[command(flatten)]
    aws: AwsArgs,
    #[command(flatten)]
    vault: VaultArgs,
    #[command(flatten)]
    pkcs11: Pkcs11Args,
    /// Keep the store after the demo
    #[arg(long)]
    keep: bool,
    /// Heartbeat of the mount
    #[arg(long, value_parser = duration, default_value = "2s")]
    heartbeat: Duration,
    /// Length of each part in seconds: at work, locked, at work again
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
}

impl Demo {
    fn master(&self) -> Result<Master, Failure> {
        match (self.kms, &self.key) {
            (KmsArg::Local, None) => Ok(Master::Embedded),
            (KmsArg::Local, Some(_)) => {
                Err(Failure::new(Exit::Usage, "the embedded keystore's key is made by the demo")
                    .hint("leave --key out, or say --kms aws"))
            }
            (KmsArg::Aws, key) => {
                let key = key.clone().unwrap_or_default();
                Ok(Master::Remote { kms: "aws", key, options: self.aws.words() })
            }
            (KmsArg::Vault, key) => {
                let key = key.clone().unwrap_or_default();
                let mut options = self.vault.words();
                options.extend(self.aws.plain_http.then(|| "--plain-http".into()));
                Ok(Master::Remote { kms: "vault", key, options })
            }
            (KmsArg::Pkcs11, key) => {
                let key = key.clone().unwrap_or_default();
                Ok(Master::Remote { kms: "pkcs11", key, options: self.pkcs11.words() })
            }
        }
    }
}

/// Runs `demo`; it ends well only if every promise held.
///
/// # Errors
/// [`Failure`]; `Failed` when a promise did not hold.
pub fn run(args: &Demo) -> Result<(), Failure> {
    let master = args.master()?;
    check_report(&args.report)?;
    let since = match master {
        Master::Embedded => Since::Disable,
        Master::Remote { .. } => Since::FirstRefusal,
    };
    let afterwards = if args.keep { Afterwards::Keep } else { Afterwards::Remove };
    let interrupts = play::Interrupts::catch()?;
    let stage = Stage::new(master, afterwards)?;
    let found = Play::new(stage, args, interrupts)?.run(args.postgres)?;
    let facts = Facts {
        timeline: &found.timeline,
        heartbeat: args.heartbeat,
        since,
        lines: found.lines,
        database: found.database,
    };
    let checks = verdict::judge(&facts);
    let page = report::page(&facts, &checks, &setting(args));
    std::fs::write(&args.report, page).map_err(|e| Failure::io(&args.report, &e))?;
    conclude(&checks, &args.report)
}

/// A report that cannot be written is told before, not after.
fn check_report(path: &Path) -> Result<(), Failure> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let writable = rustix::fs::access(folder, rustix::fs::Access::WRITE_OK);
    writable.map_err(|e| Failure::io(folder, &e.into()).hint("name another: --report FILE.html"))
}

fn setting(args: &Demo) -> Setting {
    let kms = match args.kms {
        KmsArg::Local => "the embedded keystore",
        KmsArg::Aws => "AWS KMS",
        KmsArg::Vault => "Vault",
        KmsArg::Pkcs11 => "a PKCS#11 token",
    };
    let system = rustix::system::uname();
    let word = |s: &std::ffi::CStr| s.to_string_lossy().into_owned();
    let machine = [word(system.sysname()), word(system.release()), word(system.machine())];
    Setting { kms: kms.to_owned(), machine: machine.join(" ") }
}

fn conclude(checks: &[Check], report: &Path) -> Result<(), Failure> {
    screen::say("");
    for check in checks {
        screen::say(&format!("{:>4}  {}", if check.held { "yes" } else { "NO" }, check.what));
    }
    screen::say("");
    screen::say(&format!("report: {}", report.display()));
    if checks.iter().all(|c| c.held) {
        screen::say("every promise held");
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, "a promise did not hold")
        .hint(format!("see what happened when: {}", report.display())))
}
