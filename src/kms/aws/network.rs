//! The way to AWS: proxies, the certificates that are believed, and time limits.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_sdk_kms::config::SharedHttpClient;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, Connector};
use aws_types::os_shim_internal::{Env, Fs};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::kms::limits::Limits;
use crate::kms::proxy::{self, Proxy};
use crate::kms::{KmsError, Verdict};

/// The network's part of a client's configuration.
#[derive(Clone, Debug)]
pub(super) struct Network {
    proxy: ProxyConfig,
    trust: TrustStore,
}

impl Network {
    /// As the environment and the profile say: `HTTPS_PROXY`, `NO_PROXY`, `AWS_CA_BUNDLE`,
    /// `ca_bundle`.
    ///
    /// # Errors
    /// `Credentials`, as for other mistakes in the configuration: a proxy's URL that is none, and
    /// a file of certificates that cannot be read or holds none.
    pub(super) async fn load(profile: Option<&str>) -> Result<Self, KmsError> {
        let proxy = Proxy::of_environment().map_or(Ok(ProxyConfig::disabled()), proxy)?;
        Ok(Self { proxy, trust: trust(profile).await? })
    }

    /// A client with connections of its own.
    pub(super) fn http_client(&self) -> SharedHttpClient {
        let Self { proxy, trust } = self.clone();
        Builder::new().build_with_connector_fn(move |settings, components| {
            let tls = TlsContext::builder().with_trust_store(trust.clone()).build();
            // ring: the SDK's default, aws-lc, builds a whole C library first.
            let mut connector = Connector::builder()
                .proxy_config(proxy.clone())
                .tls_provider(Provider::Rustls(CryptoMode::Ring))
                .tls_context(tls.expect("a context of certificates that were looked at"));
            connector.set_connector_settings(settings.cloned());
            if let Some(components) = components {
                connector.set_sleep_impl(components.sleep_impl());
            }
            connector.build()
        })
    }
}

fn proxy(named: Proxy) -> Result<ProxyConfig, KmsError> {
    let proxy = ProxyConfig::https(named.url).map_err(|e| proxy::invalid(&e.to_string()))?;
    Ok(proxy.no_proxy(named.but_for))
}

/// The machine's certificates, or those of a bundle in their place.
async fn trust(profile: Option<&str>) -> Result<TrustStore, KmsError> {
    let named = std::env::var_os("AWS_CA_BUNDLE").filter(|path| !path.is_empty());
    let named = match named {
        Some(named) => Some(named),
        None => of_profile(profile).await,
    };
    match named.map(PathBuf::from) {
        None => Ok(TrustStore::default()),
        Some(path) => bundle(&path),
    }
}

/// `ca_bundle` of the profile. Files that cannot be read are the SDK's to tell of.
async fn of_profile(name: Option<&str>) -> Option<OsString> {
    let files = Default::default();
    let named = name.map(|name| name.to_owned().into());
    let profiles =
        aws_config::profile::load(&Fs::real(), &Env::real(), &files, named).await.ok()?;
    profiles.get("ca_bundle").map(OsString::from)
}

/// Each certificate is looked at here: the SDK takes for granted that they can be parsed.
fn bundle(path: &Path) -> Result<TrustStore, KmsError> {
    let wrong = |why: String| bad("CaBundleInvalid", format!("{}: {why}", path.display()));
    let text = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|e| wrong(e.to_string()))?;
        roots.add(certificate).map_err(|e| wrong(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(wrong("there is no certificate in it".to_owned()));
    }
    Ok(TrustStore::empty().with_pem_certificate(text))
}

fn bad(code: &str, what: String) -> KmsError {
    KmsError::new(Verdict::Credentials, code, what)
}

/// For a call that may take so long.
pub(super) fn timeouts(call: Duration) -> TimeoutConfig {
    let Limits { connect, attempt } = Limits::of(call);
    TimeoutConfig::builder()
        .connect_timeout(connect)
        .operation_attempt_timeout(attempt)
        .operation_timeout(call)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_is_no_proxys_is_not_quoted() {
        let named = |url: &str| Proxy { url: url.to_owned(), but_for: String::new() };
        assert!(proxy(named("http://p:3128")).is_ok_and(|proxy| !proxy.is_disabled()));
        let said = proxy(named("http://user:secret@:x:/")).expect_err("no URL");
        assert!(!said.message.contains("secret"), "{said}");
    }

    #[test]
    fn a_bundle_that_holds_no_certificate_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("ca.pem");
        let said = |text: &str| {
            std::fs::write(&file, text).expect("written");
            bundle(&file).err().map(|e| e.message)
        };
        assert!(said("").is_some_and(|e| e.contains("no certificate")));
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(said(garbage).is_some());
        assert!(said("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n").is_some());
        assert!(bundle(&folder.path().join("absent")).is_err());
    }
}
