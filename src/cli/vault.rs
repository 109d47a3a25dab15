//! From options and variables to a server of OpenBao or HashiCorp Vault.

use std::path::Path;

use super::provider::Kms;
use crate::console::failure::{Exit, Failure};
use crate::console::vault::VaultArgs;
use crate::store::Provider;

/// The server's URL for a volume, as whoever runs this says. What `volume.json` says is not
/// enough: who can write the store would be sent the token.
pub(super) fn told(store: &Path, stored: &str, args: &VaultArgs) -> Result<String, Failure> {
    args.address().ok_or_else(|| {
        let why = format!(
            "{}: its keys are with Vault, and volume.json says at {stored}; a token goes only where \
             you say",
            store.display()
        );
        Failure::new(Exit::Config, why)
            .hint(format!("if that is your server: --vault-addr {stored}, or set VAULT_ADDR"))
    })
}

/// Where a volume that does not say yet, or a verb without one, finds Transit.
pub(super) fn provider(args: &VaultArgs) -> Result<Provider, Failure> {
    let address = args.address().ok_or_else(|| {
        Failure::new(Exit::Config, "no server is named")
            .hint("name it: --vault-addr https://HOST:8200, or set VAULT_ADDR")
    })?;
    let provider = Provider::Vault { address, namespace: args.namespace(), mount: args.mount() };
    provider.check().map_err(|why| Failure::new(Exit::Usage, why))?;
    Ok(provider)
}

#[cfg(feature = "vault")]
mod client {
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;
    use std::sync::Arc;

    use super::Kms;
    use crate::cli::place::absolute;
    use crate::console::failure::{Exit, Failure};
    use crate::console::options::KmsArgs;
    use crate::console::vault::{AuthArg, VaultArgs};
    use crate::keys::Services;
    use crate::kms::vault::{Auth, ClientCert, Place, PlainHttp, Token, VaultKms};
    use crate::store::Provider;

    /// Where Kubernetes puts a service account's token.
    const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

    /// Opens Transit.
    pub(in crate::cli) fn open(provider: &Provider, args: &KmsArgs) -> Result<Kms, Failure> {
        let kms = Arc::new(VaultKms::new(&place(provider, args)?)?);
        let services = Services { work: kms.clone(), beats: Arc::new(kms.sibling()) };
        Ok(Kms { services, admin: kms })
    }

    fn place(provider: &Provider, args: &KmsArgs) -> Result<Place, Failure> {
        let Provider::Vault { address, namespace, mount } = provider else {
            return Err(Failure::new(Exit::Failed, "the keys are not with Vault"));
        };
        let vault = &args.vault;
        let client_cert = match vault.client_cert()? {
            Some((cert, key)) => Some(ClientCert { cert: absolute(&cert)?, key: absolute(&key)? }),
            None => None,
        };
        Ok(Place {
            address: address.clone(),
            namespace: namespace.clone(),
            mount: mount.clone(),
            plain_http: if args.aws.plain_http { PlainHttp::Anywhere } else { PlainHttp::Loopback },
            ca_file: vault.ca_file()?.as_deref().map(absolute).transpose()?,
            client_cert,
            time_limit: args.aws.kms_timeout,
            auth: auth(vault)?,
        })
    }

    fn auth(args: &VaultArgs) -> Result<Auth, Failure> {
        let method = args.vault_auth.unwrap_or(AuthArg::Token);
        let lacks = |what: &str, option: &str| {
            Failure::new(Exit::Usage, format!("this auth method wants {what}"))
                .hint(format!("name it: {option}"))
        };
        let role = args.vault_role.clone();
        let mount = |usual: &str| {
            let told = args.vault_auth_mount.as_deref().unwrap_or(usual);
            told.trim_matches('/').to_owned()
        };
        Ok(match method {
            AuthArg::Token => return token(args),
            AuthArg::Approle => Auth::AppRole {
                mount: mount("approle"),
                role_id: args
                    .vault_role_id
                    .clone()
                    .ok_or_else(|| lacks("the role's id", "--vault-role-id ID"))?,
                secret_id_file: args.vault_secret_id_file.as_deref().map(absolute).transpose()?,
            },
            AuthArg::Kubernetes => Auth::Kubernetes {
                mount: mount("kubernetes"),
                role: role.ok_or_else(|| lacks("a role", "--vault-role NAME"))?,
                jwt_file: absolute(
                    args.vault_jwt_file.as_deref().unwrap_or(Path::new(SERVICE_ACCOUNT)),
                )?,
            },
            AuthArg::Cert => Auth::Certificate { mount: mount("cert"), role },
        })
    }

    /// A file that was named comes before the environment.
    fn token(args: &VaultArgs) -> Result<Auth, Failure> {
        let given = args.token().filter(|_| args.vault_token_file.is_none());
        if let Some(token) = given {
            return Ok(Auth::Token(Token::new(token.as_bytes())));
        }
        let nowhere = || {
            Failure::new(Exit::Config, "there is no token for Vault")
                .hint("name one: --vault-token-file FILE, or set VAULT_TOKEN")
        };
        let file = args.token_file().ok_or_else(nowhere)?;
        if args.vault_token_file.is_none() && !file.exists() {
            return Err(
                nowhere().hint("log in: bao login; or set VAULT_TOKEN; or see --vault-auth")
            );
        }
        Ok(Auth::TokenFile(absolute(&file)?))
    }
}

#[cfg(feature = "vault")]
pub(super) use client::open;

/// This build has no Vault.
#[cfg(not(feature = "vault"))]
pub(super) fn open(
    _provider: &Provider,
    _args: &crate::console::options::KmsArgs,
) -> Result<Kms, Failure> {
    Err(Failure::new(Exit::Config, "this build of kmsfs has no Vault (feature `vault` is off)")
        .hint("build one that has: cargo build --locked --release"))
}
