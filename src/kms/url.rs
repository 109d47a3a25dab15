//! URLs of a KMS: where one without TLS may lead.

use std::net::IpAddr;

use super::{KmsError, Verdict};

/// Where a URL without TLS may lead: whoever is on the way reads data keys, and can lock the mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PlainHttp {
    /// Nowhere but to this machine.
    #[default]
    Loopback,
    /// Anywhere.
    Anywhere,
}

impl PlainHttp {
    /// Refuses a URL without TLS that leads to another machine, unless it may.
    ///
    /// # Errors
    /// `Invalid`.
    pub(super) fn check(self, url: &str) -> Result<(), KmsError> {
        if self == Self::Anywhere || !is_plain(url) || is_loopback(url) {
            return Ok(());
        }
        let what = format!(
            "{url} is not https: whoever is on the way could read data keys. Name an https:// \
             URL, or say --plain-http"
        );
        Err(KmsError::new(Verdict::Invalid, "PlainHttp", what))
    }
}

fn is_plain(url: &str) -> bool {
    url.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http:"))
}

/// Whether a URL names this machine itself, in a form that leaves no doubt.
fn is_loopback(url: &str) -> bool {
    let authority = url[5..].trim_start_matches('/').split(['/', '?', '#', '\\']).next();
    let authority = authority.unwrap_or_default();
    let host = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((six, "")) => six,
        Some((six, port)) if port.starts_with(':') => six,
        Some(_) => return false,
        None => authority.split(':').next().unwrap_or_default(),
    };
    let is_address = host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    !authority.contains('@') && (is_address || host.eq_ignore_ascii_case("localhost"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_asked_without_tls() {
        let fine = |url: &str| !is_plain(url) || is_loopback(url);
        for url in [
            "https://kms.example",
            "http://localhost:4566/",
            "http://127.0.0.1:1",
            "HTTP://127.8.9.1",
            "http://[::1]:4566",
        ] {
            assert!(fine(url), "{url}");
        }
        for url in [
            "http://kms.example",
            "http://127.0.0.1@kms.example",
            "http://localhost.kms.example",
            "http://10.0.0.1",
            "hTTp://kms.example/#@localhost",
            "http://",
            "http://[::1].kms.example",
        ] {
            assert!(!fine(url), "{url}");
        }
    }
}
