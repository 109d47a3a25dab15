//! The master key that a volume is put under, by `init` and `recover`.

use std::path::Path;

use clap::Args;

use super::provider::{self, Kms};
use super::{pkcs11, place, vault};
use crate::console::failure::{Exit, Failure};
use crate::console::options::{KmsArg, KmsArgs};
use crate::console::printing::tell;
use crate::kms::local::{LocalKms, Sealing};
use crate::kms::{KeyAdmin, KeyRef};
use crate::store::Provider;

/// The alias that is made when no key is named.
const DEFAULT_ALIAS: &str = "alias/kmsfs";

/// Which master key, and where it is.
#[derive(Args)]
pub struct MasterArgs {
    /// The master key: an id, an ARN or alias/NAME [default: alias/kmsfs, made if absent]
    #[arg(long, value_name = "KEY")]
    master_key: Option<String>,
    /// The KMS that holds the master key
    #[arg(long, env = "KMSFS_KMS", value_enum, default_value_t = KmsArg::Local)]
    kms: KmsArg,
    #[command(flatten)]
    args: KmsArgs,
    /// Create the keystore without a passphrase: its keys are then stored unencrypted
    #[arg(long, conflicts_with = "passphrase_file")]
    no_passphrase: bool,
}

/// A master key, as it was named.
pub(super) struct Master {
    /// The KMS that holds it.
    pub(super) kms: Kms,
    /// Where that is.
    pub(super) provider: Provider,
    /// What the user named, or the default.
    pub(super) asked: KeyRef,
}

impl MasterArgs {
    /// Opens its KMS. The embedded keystore and a key in it are made, where they are not there and
    /// none was named.
    ///
    /// # Errors
    /// [`Failure`].
    pub(super) fn open(&self) -> Result<Master, Failure> {
        match self.kms {
            KmsArg::Local => open_local(self),
            KmsArg::Aws => open_aws(self),
            KmsArg::Vault => open_vault(self),
            KmsArg::Pkcs11 => open_pkcs11(self),
        }
    }
}

fn open_local(args: &MasterArgs) -> Result<Master, Failure> {
    let path = place::absolute(&args.args.keystore.path())?;
    let keystore = path.to_str().map(str::to_owned).ok_or_else(|| {
        Failure::new(Exit::Usage, format!("{}: the path is not UTF-8", path.display()))
    })?;
    let provider = Provider::Local { keystore };
    provider.check().map_err(|why| Failure::new(Exit::Usage, why))?;
    let kms = open_keystore(args, &path)?;
    let asked = master_key(args, &kms)?;
    Ok(Master { kms: Kms::local(kms), provider, asked })
}

/// In a KMS of others no key is made unasked: it would cost a dollar a month, or be nobody's.
fn named_key<'a>(args: &'a MasterArgs, kms: &str) -> Result<&'a String, Failure> {
    args.master_key.as_ref().ok_or_else(|| {
        let why = format!("with --kms {kms}, a --master-key KEY is needed");
        Failure::new(Exit::Usage, why)
            .hint(format!("make one: kmsfs key --kms {kms} create --alias kmsfs"))
    })
}

fn open_vault(args: &MasterArgs) -> Result<Master, Failure> {
    let key = named_key(args, "vault")?;
    let provider = vault::provider(&args.args.vault)?;
    let kms = vault::open(&provider, &args.args)?;
    Ok(Master { kms, provider, asked: KeyRef(key.clone()) })
}

fn open_pkcs11(args: &MasterArgs) -> Result<Master, Failure> {
    let key = named_key(args, "pkcs11")?;
    let provider = pkcs11::provider(&args.args.pkcs11)?;
    let kms = pkcs11::open(&provider, &args.args)?;
    Ok(Master { kms, provider, asked: KeyRef(key.clone()) })
}

fn open_aws(args: &MasterArgs) -> Result<Master, Failure> {
    let key = named_key(args, "aws")?;
    let (kms, region) = provider::open_aws(&provider::aws_for(key, &args.args.aws), None)?;
    Ok(Master { kms, provider: Provider::Aws { region }, asked: KeyRef(key.clone()) })
}

fn open_keystore(args: &MasterArgs, path: &Path) -> Result<LocalKms, Failure> {
    if path.join("keystore.json").exists() {
        return super::mount::open_keystore(path, &args.args.keystore.passphrase());
    }
    let sealing = if args.no_passphrase {
        Sealing::Clear
    } else {
        Sealing::Passphrase(
            args.args.keystore.passphrase().new_passphrase("new keystore passphrase")?,
        )
    };
    let kms = LocalKms::create(path, &sealing)?;
    tell!("made the keystore {}", path.display());
    Ok(kms)
}

fn master_key(args: &MasterArgs, kms: &LocalKms) -> Result<KeyRef, Failure> {
    if let Some(key) = &args.master_key {
        let key = KeyRef(key.clone());
        kms.describe(&key)?;
        return Ok(key);
    }
    let alias = KeyRef(DEFAULT_ALIAS.to_owned());
    if kms.describe(&alias).is_err() {
        let key = kms.create("kmsfs")?;
        kms.set_alias(DEFAULT_ALIAS, &KeyRef(key.id.clone()))?;
        tell!("made the master key {} ({DEFAULT_ALIAS})", key.id);
    }
    Ok(alias)
}
