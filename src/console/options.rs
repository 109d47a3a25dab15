//! Options that several verbs share. Where they belong to a family of verbs (`kmsfs key …`), they are
//! accepted before and after the verb: `global`.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::passphrase::PassphraseSource;
use super::pkcs11::Pkcs11Args;
use super::vault::VaultArgs;
use crate::kms::local;
use crate::store::Provider;

/// Where the embedded keystore is, and how to open it.
#[derive(Args, Clone)]
pub struct KeystoreArgs {
    /// The embedded keystore's folder [default: the XDG data folder]
    #[arg(long, env = "KMSFS_KEYSTORE", value_name = "DIR", global = true)]
    pub keystore: Option<PathBuf>,
    /// Read the keystore's passphrase from this file
    #[arg(long, env = "KMSFS_PASSPHRASE_FILE", value_name = "FILE", global = true)]
    pub passphrase_file: Option<PathBuf>,
}

impl KeystoreArgs {
    /// The keystore's folder.
    pub fn path(&self) -> PathBuf {
        self.keystore.clone().unwrap_or_else(local::default_path)
    }

    /// Where its passphrase comes from.
    pub fn passphrase(&self) -> PassphraseSource {
        PassphraseSource::from_option(self.passphrase_file.clone())
    }
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// The KMS that holds the master key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KmsArg {
    /// The embedded keystore.
    Local,
    /// AWS KMS.
    Aws,
    /// The Transit engine of OpenBao or HashiCorp Vault.
    Vault,
    /// A token that is reached through PKCS#11: an HSM.
    Pkcs11,
}

/// How AWS KMS is reached. What is not given comes from the SDK's own chain.
#[derive(Args, Clone)]
pub struct AwsArgs {
    /// AWS: a profile of the shared configuration [default: AWS_PROFILE]
    #[arg(long, value_name = "NAME", global = true)]
    pub profile: Option<String>,
    /// AWS: the region [default: the volume's, the key's, or AWS_REGION]
    #[arg(long, value_name = "REGION", global = true)]
    pub region: Option<String>,
    /// AWS: the URL of the KMS [default: AWS_ENDPOINT_URL_KMS, or the region's]
    #[arg(long, value_name = "URL", global = true)]
    pub endpoint_url: Option<String>,
    /// Accept a URL of a KMS without TLS (http://) that leads to another machine
    #[arg(long, global = true)]
    pub plain_http: bool,
    /// AWS and Vault: how long a call may take with its three tries, from 1s to 10s. A slow line
    /// needs more than the default; a refusal that takes so long is noticed so much later
    #[arg(long, env = "KMSFS_KMS_TIMEOUT", value_name = "TIME", value_parser = time_limit, default_value = "3s", global = true)]
    pub kms_timeout: Duration,
}

impl AwsArgs {
    /// The same, in this region unless one was named.
    pub fn in_region(&self, region: &str) -> Self {
        let region = self.region.clone().unwrap_or_else(|| region.to_owned());
        Self { region: Some(region), ..self.clone() }
    }

    /// As they could be typed.
    pub fn words(&self) -> Vec<OsString> {
        let text = |value: &Option<String>| value.as_ref().map(OsString::from);
        let mut all = words([
            ("--profile", text(&self.profile)),
            ("--region", text(&self.region)),
            ("--endpoint-url", text(&self.endpoint_url)),
        ]);
        all.extend(self.plain_http.then(|| "--plain-http".into()));
        all
    }
}

/// Options with their values, of those that are given: words of a command line.
pub(super) fn words<'a>(
    options: impl IntoIterator<Item = (&'a str, Option<OsString>)>,
) -> Vec<OsString> {
    let given = options.into_iter().filter_map(|(option, value)| Some((option, value?)));
    given.flat_map(|(option, value)| [OsString::from(option), value]).collect()
}

/// How the KMS of a volume is reached.
#[derive(Args, Clone)]
pub struct KmsArgs {
    /// The embedded keystore
    #[command(flatten)]
    pub keystore: KeystoreArgs,
    /// AWS KMS
    #[command(flatten)]
    pub aws: AwsArgs,
    /// OpenBao or HashiCorp Vault
    #[command(flatten)]
    pub vault: VaultArgs,
    /// A token that is reached through PKCS#11
    #[command(flatten)]
    pub pkcs11: Pkcs11Args,
}

/// How the KMS is reached of a volume that there is.
#[derive(Args, Clone)]
pub struct VolumeKmsArgs {
    /// As for any other verb
    #[command(flatten)]
    pub options: KmsArgs,
    /// AWS: ask the replica that the volume's multi-Region key has in this region, in place of the
    /// key that the store names. Each has a state of its own: to cut access off, disable both
    #[arg(long, value_name = "REGION", value_parser = region, global = true)]
    pub replica_region: Option<String>,
}

/// The name of a region.
fn region(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    Provider::Aws { region: text.to_owned() }.check().map(|()| text.to_owned())
}

/// A duration such as `500ms`, `10s`, `15m`, `2h`, or `0`.
///
/// # Errors
/// What is wrong with the text.
pub fn duration(text: &str) -> Result<Duration, String> {
    // A number alone is seconds, as in fstab and in systemd's files.
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    let parsed = humantime::parse_duration(text);
    parsed.map_err(|e| format!("{e}; write a duration as 10s, 500ms or 1h 30m"))
}

/// A beat takes two calls of the KMS or more, each of which may take a second: closer to each
/// other, beats would tell nothing more and only burden the KMS.
const SHORTEST_HEARTBEAT: Duration = Duration::from_secs(1);

/// A duration that a heartbeat can have.
///
/// # Errors
/// As [`duration`]; where it is too short.
pub fn heartbeat(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        beat if beat < SHORTEST_HEARTBEAT => {
            Err("a heartbeat is at least 1s long, for the KMS has to answer in between".to_owned())
        }
        beat => Ok(beat),
    }
}

/// How long a call of the KMS may take.
fn time_limit(text: &str) -> Result<Duration, String> {
    /// Beats are a second apart at least, and nobody waits much longer for `unlock`.
    const LIMITS: std::ops::RangeInclusive<Duration> =
        Duration::from_secs(1)..=Duration::from_secs(10);
    let limit = duration(text)?;
    LIMITS.contains(&limit).then_some(limit).ok_or_else(|| "it is from 1s to 10s".to_owned())
}

/// Where a server listens: a port of 127.0.0.1, or an address with a port.
///
/// # Errors
/// Why a text is neither.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse::<u16>() {
        return Ok(SocketAddr::from(([127, 0, 0, 1], port)));
    }
    text.parse().map_err(|_| {
        "it is neither a port nor an address with a port: 9464, 10.0.0.1:9464, \
         [::1]:9464"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_of_this_machine_alone() {
        let of = |text| address(text).map(|at| at.to_string());
        assert_eq!(of("9464").as_deref(), Ok("127.0.0.1:9464"));
        assert_eq!(of("0.0.0.0:1").as_deref(), Ok("0.0.0.0:1"));
        assert_eq!(of("[::1]:9464").as_deref(), Ok("[::1]:9464"));
        for wrong in ["", "localhost:1", "10.0.0.1", "70000", ":9464"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_heartbeat_is_not_shorter_than_a_second() {
        assert!(["0", "1ms", "999ms"].iter().all(|short| heartbeat(short).is_err()));
        assert_eq!(heartbeat("1s"), Ok(Duration::from_secs(1)));
        assert!(heartbeat("soon").is_err());
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("15m"), Ok(Duration::from_secs(900)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5400)));
        for wrong in ["", "s", "-1s", "10x", "99999999999999999999s"] {
            assert!(duration(wrong).is_err_and(|e| e.contains("10s, 500ms")), "{wrong}");
        }
    }
}
