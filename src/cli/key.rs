//! `kmsfs key`.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Subcommand;

use super::confirm::confirm;
use super::mount::open_keystore;
use super::{pkcs11, provider, usage, vault};
use crate::clock::date;
use crate::console::failure::Failure;
use crate::console::options::{KmsArg, KmsArgs, Output};
use crate::console::printing::{say, tell};
use crate::kms::local::LocalKms;
use crate::kms::{KeyAdmin, KeyInfo, KeyRef};

/// What to do with master keys. KEY is a key id, an ARN or alias/NAME.
#[derive(Subcommand)]
pub enum KeyCommand {
    /// Create a key
    Create {
        /// A description of the key
        #[arg(long, default_value = "")]
        description: String,
        /// An alias to create for it
        #[arg(long, value_name = "NAME")]
        alias: Option<String>,
    },
    /// List the keys
    List,
    /// Describe a key
    Describe {
        /// The key
        key: String,
    },
    /// Show which stores of this machine are under a key, and when its KMS saw it used last
    Usage {
        /// The key
        key: String,
        /// Further stores to look at, beside those that are mounted or that kmsfs.toml names
        #[arg(value_name = "STORE")]
        stores: Vec<PathBuf>,
        /// Output format
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Disable a key: mounts under it become unreadable within seconds
    Disable {
        /// The key
        key: String,
    },
    /// Enable a key
    Enable {
        /// The key
        key: String,
    },
    /// Give a key new material; what it wrapped before can still be unwrapped
    Rotate {
        /// The key
        key: String,
    },
    /// Schedule a key's deletion after a waiting period
    ScheduleDeletion {
        /// The key
        key: String,
        /// The waiting period in days: 7 to 30
        #[arg(long, default_value_t = 30)]
        pending_window_days: u32,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
    },
    /// Cancel a scheduled deletion; the key is disabled then
    CancelDeletion {
        /// The key
        key: String,
    },
    /// Manage aliases
    Alias {
        #[command(subcommand)]
        command: AliasCommand,
    },
}

/// What to do with aliases.
#[derive(Subcommand)]
pub enum AliasCommand {
    /// Create an alias, or point it to another key
    Set {
        /// alias/NAME
        name: String,
        /// The key
        key: String,
    },
    /// Remove an alias
    Remove {
        /// alias/NAME
        name: String,
    },
    /// List the aliases
    List,
}

fn key_ref(text: &str) -> KeyRef {
    KeyRef(text.to_owned())
}

/// NAME and alias/NAME both name an alias.
fn alias_name(text: &str) -> String {
    if text.starts_with("alias/") { text.to_owned() } else { format!("alias/{text}") }
}

impl KeyCommand {
    /// The key that it names.
    fn key(&self) -> Option<&str> {
        match self {
            Self::Create { .. } | Self::List => None,
            Self::Describe { key }
            | Self::Usage { key, .. }
            | Self::Disable { key }
            | Self::Enable { key }
            | Self::Rotate { key }
            | Self::ScheduleDeletion { key, .. }
            | Self::CancelDeletion { key }
            | Self::Alias { command: AliasCommand::Set { key, .. } } => Some(key),
            Self::Alias { .. } => None,
        }
    }

    /// Whether the embedded keystore has to be unsealed for it: where key material is made.
    fn makes_material(&self) -> bool {
        matches!(self, Self::Create { .. } | Self::Rotate { .. })
    }
}

fn open(command: &KeyCommand, kms: KmsArg, args: &KmsArgs) -> Result<Arc<dyn KeyAdmin>, Failure> {
    let keystore = args.keystore.path();
    Ok(match kms {
        KmsArg::Local if command.makes_material() => {
            Arc::new(open_keystore(&keystore, &args.keystore.passphrase())?)
        }
        KmsArg::Local => Arc::new(LocalKms::open_admin(&keystore)?),
        KmsArg::Aws => {
            let of_key = command.key().map(|key| provider::aws_for(key, &args.aws));
            provider::open_aws(of_key.as_ref().unwrap_or(&args.aws), None)?.0.admin
        }
        KmsArg::Vault => vault::open(&vault::provider(&args.vault)?, args)?.admin,
        KmsArg::Pkcs11 => pkcs11::open(&pkcs11::provider(&args.pkcs11)?, args)?.admin,
    })
}

/// Runs a `key` command.
///
/// # Errors
/// [`Failure`].
pub fn run(command: &KeyCommand, kms: KmsArg, args: &KmsArgs) -> Result<(), Failure> {
    let admin = open(command, kms, args)?;
    match command {
        KeyCommand::Create { description, alias } => {
            let key = match alias {
                Some(alias) => admin.create_as(&alias_name(alias), description)?,
                None => admin.create(description)?,
            };
            say!("{}", key.id);
        }
        KeyCommand::List => {
            for key in admin.list()? {
                say!("{}  {:<15}  {}", key.id, key.state.name(), key.aliases.join(" "));
            }
        }
        KeyCommand::Describe { key } => describe(&admin.describe(&key_ref(key))?),
        KeyCommand::Usage { key, stores, output } => usage::run(&*admin, key, stores, *output)?,
        KeyCommand::Disable { key } => {
            admin.disable(&key_ref(key))?;
            tell_usage(&*admin, key);
        }
        KeyCommand::Enable { key } => admin.enable(&key_ref(key))?,
        KeyCommand::Rotate { key } => admin.rotate(&key_ref(key))?,
        KeyCommand::ScheduleDeletion { key, pending_window_days, yes } => {
            let info = admin.describe(&key_ref(key))?;
            usage::tell(&*admin, &info);
            if !yes {
                ask_for(&info)?;
            }
            let at = admin.schedule_deletion(&key_ref(key), *pending_window_days)?;
            say!("{} will be deleted at {}", info.id, date(at));
        }
        KeyCommand::CancelDeletion { key } => admin.cancel_deletion(&key_ref(key))?,
        KeyCommand::Alias { command } => alias(command, &*admin)?,
    }
    Ok(())
}

/// What was cut off: told when that is done, and in the way of nothing.
fn tell_usage(admin: &dyn KeyAdmin, key: &str) {
    match admin.describe(&key_ref(key)) {
        Ok(info) => usage::tell(admin, &info),
        Err(e) => tell!("kmsfs: the key is disabled; where it is in use cannot be had: {e}"),
    }
}

fn alias(command: &AliasCommand, kms: &dyn KeyAdmin) -> Result<(), Failure> {
    match command {
        AliasCommand::Set { name, key } => kms.set_alias(&alias_name(name), &key_ref(key))?,
        AliasCommand::Remove { name } => kms.remove_alias(&alias_name(name))?,
        AliasCommand::List => {
            for alias in kms.aliases()? {
                say!("{}  {}", alias.name, alias.target);
            }
        }
    }
    Ok(())
}

fn describe(key: &KeyInfo) {
    say!("id           {}", key.id);
    say!("arn          {}", key.arn);
    say!("state        {}", key.state.name());
    say!("aliases      {}", key.aliases.join(" "));
    if key.created > 0 {
        say!("created      {}", date(key.created));
    }
    if !key.description.is_empty() {
        say!("description  {}", key.description);
    }
    if let Some(at) = key.deletion {
        say!("deletion     {}", date(at));
    }
    if let Some(n) = key.versions {
        say!("versions     {n}");
    }
}

fn ask_for(key: &KeyInfo) -> Result<(), Failure> {
    confirm(&key.id, "When it is deleted, everything under it is lost for good.", &key.id)
}
