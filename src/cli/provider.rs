//! From what a user says to the KMS that holds the master key.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use super::mount::open_keystore;
use super::{pkcs11, vault};
use crate::console::failure::{Exit, Failure};
use crate::console::options::{AwsArgs, VolumeKmsArgs};
use crate::console::passphrase::PassphraseSource;
use crate::control;
use crate::keys::{Services, SharedBeats};
use crate::kms::local::LocalKms;
use crate::kms::{KeyAdmin, KeyArn, KeyRef, region_of};
use crate::secret::Passphrase;
use crate::store::{Provider, Store};

/// An opened KMS.
pub(super) struct Kms {
    /// What a mount uses.
    pub(super) services: Services,
    /// What `kmsfs key` uses.
    pub(super) admin: Arc<dyn KeyAdmin>,
}

impl Kms {
    /// The embedded keystore.
    pub(super) fn local(kms: LocalKms) -> Self {
        let kms = Arc::new(kms);
        Self { services: Services::from(kms.clone()), admin: kms }
    }
}

/// Where a volume's master key is: as the user says, else as `volume.json` does.
pub(super) fn provider_of(path: &Path, args: &VolumeKmsArgs) -> Result<Provider, Failure> {
    let store = Store::open_path(path).map_err(|e| Failure::store(path, &e))?;
    let source = store.read_volume().map_err(|e| Failure::store(path, &e))?.wrap.source;
    if let Some(region) = &args.replica_region {
        replica(path, &source.master, region)?;
        return Ok(source.provider);
    }
    let (stored, args) = (source.provider, &args.options);
    Ok(match (&stored, &args.keystore.keystore, &args.aws.region) {
        (Provider::Local { .. }, Some(keystore), _) => {
            Provider::Local { keystore: keystore.to_string_lossy().into_owned() }
        }
        (Provider::Aws { .. }, _, Some(region)) => Provider::Aws { region: region.clone() },
        (Provider::Vault { address, namespace, mount }, ..) => Provider::Vault {
            address: vault::told(path, address, &args.vault)?,
            namespace: namespace.clone(),
            mount: mount.clone(),
        },
        (Provider::Pkcs11 { token }, ..) => {
            Provider::Pkcs11 { token: pkcs11::told(path, token, &args.pkcs11)? }
        }
        _ => stored,
    })
}

/// What the key of a volume is called where its replica is.
pub(super) fn replica(path: &Path, master: &KeyArn, region: &str) -> Result<KeyArn, Failure> {
    master.in_region(region).ok_or_else(|| {
        let why = format!(
            "{}: its master key {master} is no multi-Region key of AWS KMS, so {region} has no \
             replica of it",
            path.display()
        );
        Failure::new(Exit::Usage, why).hint(format!(
            "leave --replica-region out; for a volume that opens in two regions put it under a \
             multi-Region key: kmsfs rewrap {} --to ARN",
            path.display()
        ))
    })
}

/// The passphrase that opening a provider needs, asked for where it must be.
pub(super) fn passphrase_for(
    provider: &Provider,
    source: &PassphraseSource,
) -> Result<Option<Passphrase>, Failure> {
    match provider {
        Provider::Local { keystore } if LocalKms::is_sealed(Path::new(keystore))? => {
            source.passphrase("keystore passphrase").map(Some)
        }
        _ => Ok(None),
    }
}

/// Opens a provider; `passphrase` is what [`passphrase_for`] gave.
pub(super) fn open(
    provider: &Provider,
    passphrase: Option<&Passphrase>,
    args: &VolumeKmsArgs,
) -> Result<Kms, Failure> {
    let (args, replica) = (&args.options, args.replica_region.as_deref());
    match provider {
        Provider::Local { keystore } => {
            Ok(Kms::local(LocalKms::open(Path::new(keystore), passphrase)?))
        }
        Provider::Aws { region } => {
            if let Some(replica) = replica {
                log::warn!("{replica} is asked: disabling the key in {region} cuts nothing off");
            }
            let aws = AwsArgs { region: Some(region.clone()), ..args.aws.clone() };
            open_aws(&aws, replica).map(|(kms, _)| kms)
        }
        Provider::Vault { .. } => vault::open(provider, args),
        Provider::Pkcs11 { .. } => pkcs11::open(provider, args),
    }
}

/// With whom a mount shares its heartbeats: mounts that ask the same KMS as the same caller, as far
/// as options and the environment say who that is. Only calls of AWS KMS cost anything.
pub(super) fn shared_beats(provider: &Provider, args: &VolumeKmsArgs) -> Option<SharedBeats> {
    let Provider::Aws { region } = provider else {
        log::info!("heartbeats are not shared: those of {} cost nothing", provider.name());
        return None;
    };
    let (aws, replica) = (&args.options.aws, &args.replica_region);
    let environment: BTreeMap<_, _> = std::env::vars_os()
        .filter(|(name, _)| name == "HOME" || name.as_bytes().starts_with(b"AWS_"))
        // The id of an access key says whose it is.
        .filter(|(name, _)| name != "AWS_SECRET_ACCESS_KEY" && name != "AWS_SESSION_TOKEN")
        .collect();
    let caller = (region, replica, &aws.profile, &aws.endpoint_url, environment);
    Some(SharedBeats::new(control::folder(), &format!("{caller:?}")))
}

/// Opens the provider of a volume, asking for a passphrase where it must.
pub(super) fn open_for(path: &Path, args: &VolumeKmsArgs) -> Result<Kms, Failure> {
    let provider = provider_of(path, args)?;
    match &provider {
        Provider::Local { keystore } => {
            let source = args.options.keystore.passphrase();
            Ok(Kms::local(open_keystore(Path::new(keystore), &source)?))
        }
        Provider::Aws { .. } | Provider::Vault { .. } | Provider::Pkcs11 { .. } => {
            open(&provider, None, args)
        }
    }
}

/// Opens AWS KMS, or the region of a replica in its place, and says in which region.
#[cfg(feature = "aws")]
pub(super) fn open_aws(args: &AwsArgs, replica: Option<&str>) -> Result<(Kms, String), Failure> {
    let kms = Arc::new(open_aws_client(args, replica)?);
    let region = kms.region().to_owned();
    let services = Services { work: kms.clone(), beats: Arc::new(kms.sibling()) };
    Ok((Kms { services, admin: kms }, region))
}

/// Opens AWS KMS for what only it has.
#[cfg(feature = "aws")]
pub(super) fn open_aws_client(
    args: &AwsArgs,
    replica: Option<&str>,
) -> Result<crate::kms::aws::AwsKms, Failure> {
    use crate::kms::aws::{AwsKms, Place, PlainHttp};
    let place = Place {
        profile: args.profile.clone(),
        region: replica.map(str::to_owned).or_else(|| args.region.clone()),
        replica_of: replica.and_then(|_| args.region.clone()),
        endpoint: args.endpoint_url.clone(),
        plain_http: if args.plain_http { PlainHttp::Anywhere } else { PlainHttp::Loopback },
        time_limit: args.kms_timeout,
    };
    Ok(AwsKms::new(&place)?)
}

/// This build has no AWS KMS.
#[cfg(not(feature = "aws"))]
pub(super) fn open_aws(_args: &AwsArgs, _replica: Option<&str>) -> Result<(Kms, String), Failure> {
    Err(Failure::new(Exit::Config, "this build of kmsfs has no AWS KMS (feature `aws` is off)")
        .hint("build one that has: cargo build --locked --release"))
}

/// How AWS KMS is reached for a key: in the region that its ARN names, where it is one.
pub(super) fn aws_for(key: &str, args: &AwsArgs) -> AwsArgs {
    region_of(key).map_or_else(|| args.clone(), |region| args.in_region(region))
}

/// The ARN of the key that `--master-key` names.
pub(super) fn master_key(wanted: &str, kms: &Kms) -> Result<KeyArn, Failure> {
    // A key's ARN needs no DescribeKey, which a mount's role need not have.
    let is_arn = ["arn:", "vault:", "pkcs11:"].iter().any(|scheme| wanted.starts_with(scheme));
    if is_arn && wanted.contains(":key/") {
        return Ok(KeyArn(wanted.to_owned()));
    }
    Ok(kms.admin.describe(&KeyRef(wanted.to_owned()))?.arn)
}
