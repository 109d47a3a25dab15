//! What `kmsfs demo` is told, and what that says of its KMS.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::master::{Master, Remote};
use super::scenes::Also;
use super::stage::Permission;
use crate::console::failure::{Exit, Failure};
use crate::console::options::{AwsArgs, KmsArg, duration};
use crate::console::pkcs11::Pkcs11Args;
use crate::console::vault::VaultArgs;
use crate::kms::PROXY_VARIABLES;

/// Arguments of `demo`.
#[derive(Args)]
pub struct Demo {
    /// The file to write the report to
    #[arg(long, value_name = "FILE.html", default_value = "kmsfs-demo.html")]
    pub(super) report: PathBuf,
    /// Also run a PostgreSQL server under pgbench
    #[arg(long)]
    pub(super) postgres: bool,
    /// Further parts that are played afterwards, a few seconds each
    #[arg(long, value_enum, value_name = "PART", value_delimiter = ',')]
    pub(super) also: Vec<Also>,
    /// The KMS of the key that is disabled: a keystore made for the demo, or one of yours (see
    /// --key)
    #[arg(long, value_enum, default_value_t = KmsArg::Local)]
    pub(super) kms: KmsArg,
    /// AWS, Vault, PKCS#11: the key that is disabled and enabled; use one that nothing else needs
    #[arg(long, value_name = "KEY", required_if_eq_any([("kms", "aws"), ("kms", "vault"), ("kms", "pkcs11")]))]
    key: Option<String>,
    /// For --also permission: a shell command that takes the permission to use the key away from
    /// whoever the mount is to the KMS
    #[arg(long, value_name = "COMMAND", requires = "allow")]
    deny: Option<String>,
    /// For --also permission: a shell command that gives the permission back
    #[arg(long, value_name = "COMMAND", requires = "deny")]
    allow: Option<String>,
    #[command(flatten)]
    aws: AwsArgs,
    #[command(flatten)]
    vault: VaultArgs,
    #[command(flatten)]
    pkcs11: Pkcs11Args,
    /// Keep the store after the demo
    #[arg(long)]
    pub(super) keep: bool,
    /// Heartbeat of the mount
    #[arg(long, value_parser = duration, default_value = "2s")]
    pub(super) heartbeat: Duration,
    /// Length of each part in seconds: at work, locked, at work again
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(super) seconds: u64,
}

/// How the KMS is reached, as far as that can be cut.
#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    /// It is a folder.
    Keystore,
    /// Without TLS, at this host and port.
    Plain(String),
    /// With TLS, and by a proxy where one is named.
    Proxy,
    /// Nothing of it can be cut, and why.
    Uncut(&'static str),
}

impl Demo {
    /// The master key.
    ///
    /// # Errors
    /// A usage error.
    pub(super) fn master(&self) -> Result<Master, Failure> {
        let remote = |kms, options| {
            let key = self.key.clone().unwrap_or_default();
            Ok(Master::Remote(Remote { kms, key, options }))
        };
        match (self.kms, &self.key) {
            (KmsArg::Local, None) => Ok(Master::Embedded),
            (KmsArg::Local, Some(_)) => {
                Err(Failure::new(Exit::Usage, "the embedded keystore's key is made by the demo")
                    .hint("leave --key out, or say --kms aws"))
            }
            (KmsArg::Aws, _) => remote("aws", self.aws.words()),
            (KmsArg::Vault, _) => remote("vault", self.vault_words(&self.vault)),
            (KmsArg::Pkcs11, _) => remote("pkcs11", self.pkcs11.words()),
        }
    }

    fn vault_words(&self, vault: &VaultArgs) -> Vec<OsString> {
        let mut words = vault.words();
        words.extend(self.aws.plain_http.then(|| "--plain-http".into()));
        words
    }

    /// The commands that take a permission away and give it back.
    pub(super) fn permission(&self) -> Option<Permission> {
        let (deny, allow) = (self.deny.clone()?, self.allow.clone()?);
        Some(Permission { deny, allow })
    }

    /// How the KMS is reached.
    pub(super) fn route(&self) -> Route {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        match self.kms {
            KmsArg::Local => Route::Keystore,
            KmsArg::Aws => {
                let url = self.aws.endpoint_url.clone();
                let url = url.or_else(|| set("AWS_ENDPOINT_URL_KMS"));
                let url = url.or_else(|| set("AWS_ENDPOINT_URL"));
                let taken = PROXY_VARIABLES.iter().any(|name| set(name).is_some());
                match url.as_deref().and_then(plain) {
                    Some(upstream) => Route::Plain(upstream),
                    None if taken => Route::Uncut("a proxy of yours leads to the KMS"),
                    None => Route::Proxy,
                }
            }
            KmsArg::Vault => match self.vault.address().as_deref().and_then(plain) {
                Some(upstream) => Route::Plain(upstream),
                None => Route::Uncut(
                    "the server's certificate is for its own name, which a forwarder has not",
                ),
            },
            KmsArg::Pkcs11 => Route::Uncut("a token is reached by its module, not over a network"),
        }
    }

    /// What `mount` is told so that it reaches the KMS at this URL.
    pub(super) fn words_by(&self, url: &str) -> Vec<OsString> {
        let url = Some(url.to_owned());
        match self.kms {
            KmsArg::Aws => AwsArgs { endpoint_url: url, ..self.aws.clone() }.words(),
            KmsArg::Vault => self.vault_words(&VaultArgs { vault_addr: url, ..self.vault.clone() }),
            KmsArg::Local | KmsArg::Pkcs11 => Vec::new(),
        }
    }

    /// The KMS, for the report.
    pub(super) fn kms_name(&self) -> &'static str {
        match self.kms {
            KmsArg::Local => "the embedded keystore",
            KmsArg::Aws => "AWS KMS",
            KmsArg::Vault => "Vault",
            KmsArg::Pkcs11 => "a PKCS#11 token",
        }
    }
}

/// The host and port of a URL without TLS.
fn plain(url: &str) -> Option<String> {
    let rest = url.strip_prefix("http://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit_once(']').map_or(authority, |(_, port)| port);
    Some(if host.contains(':') { authority.to_owned() } else { format!("{authority}:80") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_a_url_without_tls() {
        for (url, place) in [
            ("http://127.0.0.1:4566", Some("127.0.0.1:4566")),
            ("http://localhost:8200/v1", Some("localhost:8200")),
            ("http://kms.example/", Some("kms.example:80")),
            ("http://[::1]:1?x", Some("[::1]:1")),
            ("http://[::1]/", Some("[::1]:80")),
            ("https://kms.example", None),
        ] {
            assert_eq!(plain(url).as_deref(), place, "{url}");
        }
    }
}
