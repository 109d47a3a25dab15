//! The proxy that leads out to a KMS, as the environment names it for every program.

use super::{KmsError, NO_PROXY_VARIABLES, PROXY_VARIABLES, Verdict};

/// A proxy for what is asked with TLS. Plain HTTP never goes through one: what asks so is on this
/// machine (a server for tests, the metadata service), and a proxy would read data keys.
///
/// Never printed: the URL may hold a password.
pub(super) struct Proxy {
    /// Its URL.
    pub(super) url: String,
    /// The hosts that are asked without it, as `NO_PROXY` has them.
    pub(super) but_for: String,
}

impl Proxy {
    /// By the variables that name one.
    pub(super) fn of_environment() -> Option<Self> {
        Self::of(|name| std::env::var(name).ok())
    }

    fn of(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let variable = |name: &&str| variable(name).filter(|value| !value.is_empty());
        let url = PROXY_VARIABLES.iter().find_map(variable)?;
        // As curl and the AWS command line take it.
        let url = if url.contains("://") { url } else { format!("http://{url}") };
        Some(Self {
            url,
            but_for: NO_PROXY_VARIABLES.iter().find_map(variable).unwrap_or_default(),
        })
    }
}

/// The error of a URL that is no proxy's. What is wrong with it must not quote it.
pub(super) fn invalid(why: &str) -> KmsError {
    let what = format!("HTTPS_PROXY is no proxy's URL: {why}");
    KmsError::new(Verdict::Credentials, "ProxyInvalid", what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_taken_from_where_others_take_it() {
        let of = |set: &[(&str, &str)]| {
            let found =
                |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string());
            Proxy::of(found).map(|proxy| (proxy.url, proxy.but_for))
        };
        let named = |url: &str, but_for: &str| Some((url.to_owned(), but_for.to_owned()));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("HTTP_PROXY", "http://p:1")]), None, "nothing is asked without TLS");
        assert_eq!(of(&[("HTTPS_PROXY", "")]), None);
        for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
            assert_eq!(of(&[(name, "http://p:3128")]), named("http://p:3128", ""), "{name}");
        }
        let both = of(&[("HTTPS_PROXY", "p:3128"), ("NO_PROXY", "a,.b")]);
        assert_eq!(both, named("http://p:3128", "a,.b"));
    }
}
