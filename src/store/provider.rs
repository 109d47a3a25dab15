//! Where a master key lives, as `volume.json` says.

use crate::escape::is_steering;
use crate::kms::{is_path, is_token_label};

/// Where the master key lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Provider {
    /// The embedded keystore in this folder.
    Local {
        /// An absolute path.
        keystore: String,
    },
    /// AWS KMS.
    Aws {
        /// The region that `init` used.
        region: String,
    },
    /// The Transit engine of OpenBao or HashiCorp Vault.
    Vault {
        /// The server's URL that `init` used. No mount sends a token there unless it is told to.
        address: String,
        /// The namespace, or nothing for the root's.
        namespace: String,
        /// The path that Transit is mounted at.
        mount: String,
    },
    /// A token that is reached through PKCS#11. Which library reaches it, and with which PIN, no
    /// store says.
    Pkcs11 {
        /// The token's label.
        token: String,
    },
}

/// The longest path of a keystore: Linux takes no longer one.
const MAX_PATH: usize = 4096;
/// Longer than the name of any region.
const MAX_REGION: usize = 64;
/// Longer than any URL of a server that is in use.
const MAX_PLACE: usize = 256;

impl Provider {
    /// Whether it may stand in `volume.json`: the store is not trusted, and what is read there is
    /// shown and opened.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        let is_of_region = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        match self {
            Self::Local { keystore } if !keystore.starts_with('/') => {
                Err("keystore: not an absolute path".to_owned())
            }
            Self::Local { keystore }
                if keystore.len() > MAX_PATH || keystore.contains(is_steering) =>
            {
                Err("keystore: a path that is too long, or has characters that do not print"
                    .to_owned())
            }
            Self::Aws { region }
                if region.len() > MAX_REGION || !region.bytes().all(is_of_region) =>
            {
                Err("region: not the name of one".to_owned())
            }
            Self::Vault { address, .. }
                if address.len() > MAX_PLACE || !address.bytes().all(|b| b.is_ascii_graphic()) =>
            {
                Err("address: not the URL of a server".to_owned())
            }
            Self::Vault { namespace, .. } if !namespace.is_empty() && !is_path(namespace) => {
                Err("namespace: not the path of one".to_owned())
            }
            Self::Vault { mount, .. } if !is_path(mount) => {
                Err("mount: not the path of a secrets engine".to_owned())
            }
            Self::Pkcs11 { token } if !is_token_label(token) => {
                Err("token: not the label of one".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Its name in `volume.json` and on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Local { .. } => "local",
            Self::Aws { .. } => "aws",
            Self::Vault { .. } => "vault",
            Self::Pkcs11 { .. } => "pkcs11",
        }
    }

    /// Where it is, for people.
    pub fn place(&self) -> String {
        match self {
            Self::Local { keystore } => keystore.clone(),
            Self::Aws { region } => region.clone(),
            Self::Vault { address, namespace, mount } if namespace.is_empty() => {
                format!("{address} {mount}")
            }
            Self::Vault { address, namespace, mount } => format!("{address} {namespace}/{mount}"),
            Self::Pkcs11 { token } => token.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transit_has_a_place_that_leads_nowhere_else() {
        let check = |address: &str, namespace: &str, mount: &str| {
            let [address, namespace, mount] = [address, namespace, mount].map(str::to_owned);
            Provider::Vault { address, namespace, mount }.check()
        };
        assert_eq!(check("https://bao.example:8200", "", "transit"), Ok(()));
        assert_eq!(check("https://bao.example:8200", "team/a", "kms/transit"), Ok(()));
        for bad in ["/x", "x/", "a//b", "..", "a/../b", "a b", "a?b", "a\x1b[2J", &"x".repeat(257)]
        {
            assert!(check("https://bao.example", bad, "transit").is_err(), "{bad:?}");
            assert!(check("https://bao.example", "", bad).is_err(), "{bad:?}");
        }
        assert!(check("https://bao.example", "", "").is_err());
        for bad in ["https://a\x1b[2J", "https://a b", &format!("https://{}", "x".repeat(256))] {
            assert!(check(bad, "", "transit").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_token_has_a_label() {
        let check = |token: &str| Provider::Pkcs11 { token: token.to_owned() }.check();
        assert_eq!(check("HSM 1"), Ok(()));
        for bad in ["", " x", "x ", "a\x1b[2J", "a\nb", &"x".repeat(33)] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }
}
