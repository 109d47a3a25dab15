//! Which server, and where in it: what is checked before anything is asked.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::client::proxy::matcher::Matcher;
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use ureq::ProxyProtocol;
use ureq::http::Uri;
use ureq::tls::{self, Certificate, PemItem, PrivateKey, RootCerts, TlsConfig};

use super::auth::Auth;
use crate::kms::proxy::{self, Proxy};
use crate::kms::url::PlainHttp;
use crate::kms::{KmsError, Verdict};

/// Files of the certificate that a client shows, and of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCert {
    /// The certificate, and those between it and its authority, as PEM.
    pub cert: PathBuf,
    /// Its private key, as PEM.
    pub key: PathBuf,
}

/// Which server, which Transit in it, and as whom.
#[derive(Clone, Debug)]
pub struct Place {
    /// The server's URL.
    pub address: String,
    /// The namespace, or nothing for the root's.
    pub namespace: String,
    /// The path that Transit is mounted at.
    pub mount: String,
    /// Whether the URL may be one without TLS.
    pub plain_http: PlainHttp,
    /// The authorities that the server's certificate may be of, as PEM; else the system's.
    pub ca_file: Option<PathBuf>,
    /// What the client shows of itself in TLS.
    pub client_cert: Option<ClientCert>,
    /// How long a call may take with all its tries.
    pub time_limit: Duration,
    /// How a token is had.
    pub auth: Auth,
}

/// Of the configuration, or of the files that it names.
pub(super) fn bad(code: &str, why: String) -> KmsError {
    KmsError::new(Verdict::Credentials, code, why)
}

/// A file that the configuration names.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, KmsError> {
    std::fs::read(path).map_err(|e| bad("VaultFile", format!("{}: {e}", path.display())))
}

impl Place {
    /// Whether it can be asked at all.
    ///
    /// # Errors
    /// `Invalid`, with what is wrong.
    pub(super) fn check(&self) -> Result<(), KmsError> {
        let url = &self.address;
        let parsed = url.parse::<Uri>().ok();
        let is_server = parsed.is_some_and(|url| {
            let has_scheme = matches!(url.scheme_str(), Some("https" | "http"));
            has_scheme && url.host().is_some_and(|host| !host.is_empty()) && url.query().is_none()
        });
        if !is_server {
            let why = format!("{url}: the address of a server is a URL: https://HOST:8200");
            return Err(KmsError::new(Verdict::Invalid, "VaultAddress", why));
        }
        self.plain_http.check(url)
    }

    /// Whether it is asked with TLS.
    pub(super) fn is_tls(&self) -> bool {
        self.address.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:"))
    }

    /// The URL of a path of the API.
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}/v1/{path}", self.address.trim_end_matches('/'))
    }

    /// What leads to the server, where that is not the network itself.
    ///
    /// # Errors
    /// `Credentials` where the environment names what is no proxy.
    pub(super) fn proxy(&self) -> Result<Option<ureq::Proxy>, KmsError> {
        let named = Proxy::of_environment().filter(|named| self.is_tls() && self.is_led_by(named));
        named.map(|named| of_url(&named.url)).transpose()
    }

    /// Whether a proxy leads to this server: the rules of `NO_PROXY` are those of curl, which the
    /// client's own are not.
    fn is_led_by(&self, named: &Proxy) -> bool {
        let matcher = Matcher::builder().https("http://any").no(named.but_for.as_str()).build();
        self.address.parse().is_ok_and(|url| matcher.intercept(&url).is_some())
    }

    /// How TLS is spoken, from the files as they are now.
    ///
    /// # Errors
    /// `Credentials` where one cannot be read or is no PEM.
    pub(super) fn tls(&self) -> Result<TlsConfig, KmsError> {
        let provider = Arc::new(ring::default_provider());
        let builder = TlsConfig::builder().unversioned_rustls_crypto_provider(provider);
        Ok(builder.root_certs(self.roots()?).client_cert(self.client_cert()?).build())
    }

    fn roots(&self) -> Result<RootCerts, KmsError> {
        let Some(file) = &self.ca_file else {
            // What cannot be read among them is missing at the handshake, which tells of it.
            let found = rustls_native_certs::load_native_certs().certs;
            return Ok(RootCerts::from(found.iter().map(|c| Certificate::from_der(c).to_owned())));
        };
        let certs = certificates(file)?.0;
        if certs.is_empty() {
            return Err(bad("VaultFile", format!("{}: no certificate in it", file.display())));
        }
        Ok(RootCerts::from(certs))
    }

    fn client_cert(&self) -> Result<Option<tls::ClientCert>, KmsError> {
        let Some(files) = &self.client_cert else { return Ok(None) };
        let lacks =
            |path: &Path, what: &str| bad("VaultFile", format!("{}: {what}", path.display()));
        let chain = certificates(&files.cert)?.0;
        if chain.is_empty() {
            return Err(lacks(&files.cert, "no certificate in it"));
        }
        let key = certificates(&files.key)?.1;
        let key = key.ok_or_else(|| lacks(&files.key, "no private key in it"))?;
        match_up(&chain, &key).map_err(|why| lacks(&files.key, &why))?;
        Ok(Some(tls::ClientCert::new_with_certs(&chain, key)))
    }
}

/// A proxy that is asked to CONNECT.
fn of_url(url: &str) -> Result<ureq::Proxy, KmsError> {
    let proxy = ureq::Proxy::new(url).map_err(|e| proxy::invalid(&e.to_string()))?;
    match proxy.protocol() {
        ProxyProtocol::Http | ProxyProtocol::Https => Ok(proxy),
        other => Err(proxy::invalid(&format!("{other} is neither http nor https"))),
    }
}

/// The certificates of a PEM file, and its first private key.
type Pem = (Vec<Certificate<'static>>, Option<PrivateKey<'static>>);

fn certificates(path: &Path) -> Result<Pem, KmsError> {
    let text = zeroize::Zeroizing::new(read(path)?);
    let (mut certs, mut key) = (Vec::new(), None);
    for item in tls::parse_pem(&text) {
        match item.map_err(|e| bad("VaultFile", format!("{}: {e}", path.display())))? {
            PemItem::Certificate(cert) => certs.push(cert),
            PemItem::PrivateKey(found) => key = key.or(Some(found)),
            _ => {}
        }
    }
    Ok((certs, key))
}

/// The client takes for granted that they belong together.
fn match_up(chain: &[Certificate<'static>], key: &PrivateKey<'static>) -> Result<(), String> {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let chain = chain.iter().map(|c| CertificateDer::from(c.der().to_vec())).collect();
    let key = PrivateKeyDer::try_from(key.der()).map_err(str::to_owned)?.clone_key();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(RootCertStore::empty());
    builder.with_client_auth_cert(chain, key).map(drop).map_err(|e| e.to_string())
}

#[cfg(test)]
impl Place {
    /// One for tests, which nobody asks.
    pub(super) fn sample() -> Self {
        Self {
            address: "https://127.0.0.1:8200".to_owned(),
            namespace: String::new(),
            mount: "transit".to_owned(),
            plain_http: PlainHttp::Loopback,
            ca_file: None,
            client_cert: None,
            time_limit: crate::kms::CALL,
            auth: Auth::Token(super::Token::new(b"x")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_url_that_leads_to_nobody_in_between() {
        let checked = |address: &str| {
            let place = Place { address: address.to_owned(), ..Place::sample() };
            place.check().map_err(|e| e.code)
        };
        assert_eq!(checked("https://bao.example:8200/"), Ok(()));
        assert_eq!(checked("http://127.0.0.1:8200"), Ok(()));
        assert_eq!(checked("http://bao.example:8200"), Err("PlainHttp".to_owned()));
        for bad in [
            "",
            "bao.example:8200",
            "ftp://bao.example",
            "unix:///run/bao.sock",
            "https://",
            "https:///v1",
            "https://:8200",
            "https://bao.example?x",
            "https://bao example",
        ] {
            assert_eq!(checked(bad), Err("VaultAddress".to_owned()), "{bad}");
        }
    }

    #[test]
    fn a_proxy_leads_to_all_but_those_that_it_does_not() {
        let leads = |address: &str, but_for: &str| {
            let named = Proxy { url: "http://p".to_owned(), but_for: but_for.to_owned() };
            Place { address: address.to_owned(), ..Place::sample() }.is_led_by(&named)
        };
        assert!(
            leads("https://bao.example:8200", "") && leads("https://bao.example", "example.org")
        );
        for but_for in ["*", "bao.example", "example", ".example", "a, bao.example"] {
            assert!(!leads("https://bao.example:8200", but_for), "{but_for}");
        }
        assert!(!leads("https://10.1.2.3:8200", "10.0.0.0/8") && !leads("https://[::1]", "::1"));
    }

    #[test]
    fn a_proxy_is_asked_to_connect() {
        for url in ["http://p:3128", "https://user:secret@p"] {
            assert!(of_url(url).is_ok(), "{url}");
        }
        for url in ["socks5://user:secret@p", "ftp://user:secret@p", "http://user:secret@:x:/"] {
            let said = of_url(url).expect_err("none");
            assert!(!said.message.contains("secret"), "{said}");
        }
    }

    #[test]
    fn files_that_hold_nothing_of_use_are_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let empty = folder.path().join("empty");
        std::fs::write(&empty, "").expect("written");
        let absent = folder.path().join("absent");
        for file in [&empty, &absent] {
            let place = Place { ca_file: Some(file.clone()), ..Place::sample() };
            let e = place.tls().expect_err("no certificate");
            assert!(e.message.starts_with(&file.display().to_string()), "{e}");
            assert_eq!(e.verdict, Verdict::Credentials);
        }
    }
}
