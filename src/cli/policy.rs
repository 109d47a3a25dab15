//! `kmsfs policy`.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};

use super::provider;
use crate::console::failure::{Exit, Failure};
use crate::console::options::Output;
use crate::console::options::{AwsArgs, VolumeKmsArgs};
use crate::console::printing::{say, tell};
use crate::keys::{self, OpenError, Trust};
use crate::kms::policy::{self, Audience, Finding, Keys, Policy, Roles, Severity};
use crate::kms::{Context, KeyArn, KeyRef, KmsError, Verdict};
use crate::store::{Store, VolumeFile};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AudienceArg {
    /// The key's own policy
    Key,
    /// The IAM policy of the role that mounts
    Mount,
    /// The IAM policy of the role that rewraps
    Rewrap,
    /// The IAM policy of the role that audits
    Audit,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SeverityArg {
    Note,
    Warning,
    Danger,
}

/// Arguments of `policy generate`.
#[derive(Args)]
pub struct Generate {
    /// The store, whose volume and key it is for
    store: PathBuf,
    /// Which policy to print
    #[arg(long = "for", value_enum, default_value_t = AudienceArg::Key)]
    audience: AudienceArg,
    /// The ARN of the key that it is for. Without it, the volume key has to prove what the store
    /// says, so this identity must be allowed to Decrypt with it
    #[arg(long, value_name = "ARN")]
    master_key: Option<String>,
    /// The ARN of a role that administers the key and cannot use it
    #[arg(long, value_name = "ARN", required_if_eq("audience", "key"))]
    administrator: Vec<String>,
    /// The ARN of a role that mounts the volume
    #[arg(long, value_name = "ARN", required_if_eq("audience", "key"))]
    mount: Vec<String>,
    /// The ARN of a role that rewraps it
    #[arg(long, value_name = "ARN")]
    rewrap: Vec<String>,
    /// The ARN of a role that audits it
    #[arg(long, value_name = "ARN")]
    auditor: Vec<String>,
    /// The ARN of the role that alone disables the key and deletes it
    #[arg(long, value_name = "ARN", required_if_eq("audience", "key"))]
    break_glass: Vec<String>,
}

/// Arguments of `policy lint`.
#[derive(Args)]
pub struct Lint {
    /// The store, whose key's policy is read
    #[arg(required_unless_present_any = ["key", "file"])]
    store: Option<PathBuf>,
    /// The key whose policy is read
    #[arg(long, value_name = "KEY", conflicts_with = "file")]
    key: Option<String>,
    /// Read the policy from this file; `-` is stdin
    #[arg(long)]
    file: Option<PathBuf>,
    /// Exit with code 1 if there are findings of this severity or above
    #[arg(long, value_enum, default_value_t = SeverityArg::Danger)]
    fail_on: SeverityArg,
    /// Output format
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Arguments of `policy test`.
#[derive(Args)]
pub struct Test {
    /// The store
    store: PathBuf,
}

/// What to do with key policies.
#[derive(Subcommand)]
pub enum PolicyCommand {
    /// Print a policy for a volume's key
    Generate(Generate),
    /// List what is dangerous in a key's policy
    Lint(Lint),
    /// Test what the current identity may do with a volume's key
    Test(Test),
}

/// Runs a `policy` command.
///
/// # Errors
/// [`Failure`].
pub fn run(command: &PolicyCommand, kms: &VolumeKmsArgs) -> Result<(), Failure> {
    match command {
        PolicyCommand::Generate(args) => generate(args, kms),
        PolicyCommand::Lint(args) => lint(args, kms),
        PolicyCommand::Test(args) => test(args, kms),
    }
}

fn volume_file(path: &Path) -> Result<VolumeFile, Failure> {
    let store = Store::open_path(path).map_err(|e| Failure::store(path, &e))?;
    store.read_volume().map_err(|e| Failure::store(path, &e))
}

/// The volume file of a store whose key is in AWS KMS.
fn aws_volume(path: &Path) -> Result<VolumeFile, Failure> {
    let file = volume_file(path)?;
    if file.wrap.source.provider.name() == "aws" {
        return Ok(file);
    }
    let why = match file.wrap.source.provider.name() {
        "vault" => "its key is in Vault, whose policies this verb does not know",
        "pkcs11" => "its key is on a PKCS#11 token, which has no policies",
        _ => "its key is in the embedded keystore, which has no policies",
    };
    Err(Failure::new(Exit::Usage, format!("{}: {why}", path.display())))
}

/// The master key of a store, as somebody says who knows it or has the volume key. A policy for any
/// other would let a mount use the key of whoever can write the store.
fn proven_master(
    args: &Generate,
    file: &VolumeFile,
    kms: &VolumeKmsArgs,
) -> Result<KeyArn, Failure> {
    let said = &file.wrap.source.master;
    let name = || format!("name the key: kmsfs policy generate … --master-key {said}");
    if let Some(named) = &args.master_key {
        let why = || format!("{}: it says {said}, not {named}", args.store.display());
        return match *named == said.0 {
            true => Ok(said.clone()),
            false => Err(Failure::new(Exit::Refused, why()).hint("see: kmsfs info STORE")),
        };
    }
    let work = provider::open_for(&args.store, kms)?.services.work;
    match keys::open_file(file.clone(), &*work, &Trust::Authenticated) {
        Ok(_) => Ok(said.clone()),
        Err(OpenError::Kms(e)) => {
            let why = format!("{}: nothing proves its master key: {e}", args.store.display());
            Err(Failure::new(Exit::Refused, why).hint(name()))
        }
        Err(e) => Err(Failure::open(&args.store, &e)),
    }
}

fn generate(args: &Generate, kms: &VolumeKmsArgs) -> Result<(), Failure> {
    let file = aws_volume(&args.store)?;
    let master = proven_master(args, &file, kms)?;
    let audience = match args.audience {
        AudienceArg::Key => Audience::Key,
        AudienceArg::Mount => Audience::Mount,
        AudienceArg::Rewrap => Audience::Rewrap,
        AudienceArg::Audit => Audience::Audit,
    };
    let roles = Roles {
        administrators: args.administrator.clone(),
        mount: args.mount.clone(),
        rewrap: args.rewrap.clone(),
        audit: args.auditor.clone(),
        break_glass: args.break_glass.clone(),
    };
    let replica = kms.replica_region.as_ref();
    let replica = replica.map(|region| provider::replica(&args.store, &master, region));
    let keys = Keys { master, replica: replica.transpose()? };
    let made = policy::generate(audience, &keys, file.settings.volume(), &roles);
    format!("{made:#}").lines().for_each(|line| say!("{line}"));
    if audience == Audience::Key {
        let key = keys.replica.as_ref().unwrap_or(&keys.master);
        tell!("next: aws kms put-key-policy --key-id {key} --policy file://…");
    }
    Ok(())
}

fn read_file(path: &Path) -> Result<String, Failure> {
    let read = if path == Path::new("-") {
        std::io::read_to_string(std::io::stdin())
    } else {
        fs::read_to_string(path)
    };
    read.map_err(|e| Failure::io(path, &e))
}

#[cfg(feature = "aws")]
fn fetch(key: &KeyRef, aws: &AwsArgs, replica: Option<&str>) -> Result<String, Failure> {
    Ok(provider::open_aws_client(&provider::aws_for(&key.0, aws), replica)?.policy(key)?)
}

#[cfg(not(feature = "aws"))]
fn fetch(_key: &KeyRef, aws: &AwsArgs, replica: Option<&str>) -> Result<String, Failure> {
    provider::open_aws(aws, replica).map(|_| String::new())
}

fn lint(args: &Lint, kms: &VolumeKmsArgs) -> Result<(), Failure> {
    let file = args.store.as_deref().map(aws_volume).transpose()?;
    let of_volume = file.as_ref().map(|f| KeyRef::from(&f.wrap.source.master));
    let asked = args.key.clone().map(KeyRef).or(of_volume);
    let replica = kms.replica_region.as_deref();
    let key = asked.as_ref().map(|key| KeyArn(key.0.clone()));
    let key = key.map(|key| replica.and_then(|region| key.in_region(region)).unwrap_or(key));
    let text = match (&args.file, asked) {
        (Some(path), _) => read_file(path)?,
        (None, Some(key)) => fetch(&key, &kms.options.aws, replica)?,
        (None, None) => return Err(Failure::new(Exit::Usage, "name a STORE, a --key or a --file")),
    };
    let parsed = Policy::parse(&text)
        .map_err(|e| Failure::new(Exit::Failed, format!("the policy cannot be read: {e}")))?;
    let mut found = policy::lint(&parsed, key.as_ref(), file.as_ref().map(|f| f.settings.volume()));
    found.extend(file.and_then(|file| around(file.settings.recipients().len())));
    print(&found, args.output);
    let limit = match args.fail_on {
        SeverityArg::Note => Severity::Note,
        SeverityArg::Warning => Severity::Warning,
        SeverityArg::Danger => Severity::Danger,
    };
    if found.iter().any(|f| f.severity >= limit) {
        return Err(Failure::already_reported(Exit::Failed));
    }
    Ok(())
}

/// What no policy of the key holds up.
fn around(recipients: usize) -> Option<Finding> {
    let message = format!(
        "the volume has a recovery: {recipients} age recipients can read it whatever this policy \
         says, and disabling the key does not stop them"
    );
    let finding = Finding { severity: Severity::Note, rule: "recovery", statement: None, message };
    (recipients > 0).then_some(finding)
}

fn print(found: &[Finding], output: Output) {
    if output == Output::Json {
        let text = serde_json::to_string(found).expect("strings have a JSON form");
        return say!("{text}");
    }
    for f in found {
        let severity = match f.severity {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Danger => "danger",
        };
        let at = f.statement.as_ref().map_or_else(String::new, |s| format!(" in {s}"));
        say!("{severity:<8} {}{at}: {}", f.rule, f.message);
    }
    if found.is_empty() {
        say!("nothing was found");
    }
}

/// Prints one line, and gives back why not.
fn try_call<T>(what: &str, why: &str, answer: Result<T, KmsError>) -> Option<KmsError> {
    let Err(e) = answer else {
        say!("{what:<16} yes  {why}");
        return None;
    };
    let word = if e.verdict == Verdict::Refused { "no" } else { "?" };
    say!("{what:<16} {word:<3}  {why}; {}", e.code);
    Some(e)
}

/// Tries each call as a mount or a rewrap would make it. What it makes is thrown away, and what
/// would change the key is not tried.
fn test(args: &Test, kms: &VolumeKmsArgs) -> Result<(), Failure> {
    let file = volume_file(&args.store)?;
    let kms = provider::open_for(&args.store, kms)?;
    let (service, volume) = (&kms.services.work, file.settings.volume());
    let master = KeyRef::from(&file.wrap.source.master);
    let (canary, context) = (&file.wrap.canary, Context::canary(volume));
    let made = service.generate(&file.wrap.source.asked, &context).map(|g| g.master);
    moved(&made, &file.wrap.source.master);
    let no_generate = try_call("GenerateDataKey", "to mount and write", made);
    let opened = service.decrypt(&master, canary, &context);
    let key = opened.as_ref().ok().map(|opened| opened.key.clone());
    let no_decrypt = try_call("Decrypt", "to mount and read", opened);
    if service.has_reencrypt() {
        let side = (&master, &context);
        try_call("ReEncrypt", "to rewrap", service.reencrypt(canary, side, side));
    } else if let Some(key) = key {
        let wrapped = service.encrypt(&master, &key, &context);
        try_call("Encrypt", "to rewrap, with Decrypt", wrapped);
    }
    try_call("DescribeKey", "to administer", kms.admin.describe(&master));
    let Some(e) = no_generate.or(no_decrypt) else { return Ok(()) };
    let wanted = match file.wrap.source.provider.name() {
        "aws" => {
            format!("see what it needs: kmsfs policy generate {} --for mount", args.store.display())
        }
        _ => "see docs/OPERATIONS.md for what its policy has to say".to_owned(),
    };
    match e.verdict {
        Verdict::Refused => {
            Err(Failure::new(Exit::Refused, format!("this identity cannot mount the volume: {e}"))
                .hint(wanted))
        }
        _ => Err(e.into()),
    }
}

fn moved(made: &Result<KeyArn, KmsError>, master: &KeyArn) {
    if let Ok(now) = made
        && now != master
    {
        tell!("kmsfs: the alias points to {now} now; the volume key is under {master}");
    }
}
