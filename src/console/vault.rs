//! How OpenBao or HashiCorp Vault is reached: options, and the variables of its own command.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::failure::{Exit, Failure};
use super::options::words;

/// How a token is had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AuthArg {
    /// One that there is: BAO_TOKEN or VAULT_TOKEN, or a file.
    Token,
    /// AppRole.
    Approle,
    /// A service account of Kubernetes.
    Kubernetes,
    /// The client certificate of TLS.
    Cert,
}

/// How Vault is reached. What is not given comes from the variables of its own command, BAO_… or
/// VAULT_….
#[derive(Args, Clone)]
pub struct VaultArgs {
    /// Vault: the URL of the server [default: BAO_ADDR, VAULT_ADDR]
    #[arg(long, value_name = "URL", global = true)]
    pub vault_addr: Option<String>,
    /// Vault: the namespace [default: the volume's; BAO_NAMESPACE, VAULT_NAMESPACE]
    #[arg(long, value_name = "PATH", global = true)]
    pub vault_namespace: Option<String>,
    /// Vault: the path that Transit is mounted at [default: the volume's; transit]
    #[arg(long, value_name = "PATH", global = true)]
    pub vault_mount: Option<String>,
    /// Vault: the authorities of the server's certificate, as PEM [default: BAO_CACERT, VAULT_CACERT,
    /// or the system's]
    #[arg(long, value_name = "FILE", global = true)]
    pub vault_cacert: Option<PathBuf>,
    /// Vault: the certificate to show in TLS, as PEM [default: BAO_CLIENT_CERT, VAULT_CLIENT_CERT]
    #[arg(long, value_name = "FILE", global = true)]
    pub vault_client_cert: Option<PathBuf>,
    /// Vault: its private key, as PEM [default: BAO_CLIENT_KEY, VAULT_CLIENT_KEY]
    #[arg(long, value_name = "FILE", global = true)]
    pub vault_client_key: Option<PathBuf>,
    /// Vault: how a token is had [default: token]
    #[arg(long, value_enum, value_name = "METHOD", global = true)]
    pub vault_auth: Option<AuthArg>,
    /// Vault: the path that the auth method is mounted at [default: the method's name]
    #[arg(long, value_name = "PATH", global = true)]
    pub vault_auth_mount: Option<String>,
    /// Vault: the file of the token [default: BAO_TOKEN, VAULT_TOKEN, or ~/.vault-token]
    #[arg(long, value_name = "FILE", global = true)]
    pub vault_token_file: Option<PathBuf>,
    /// Vault: the role of the auth methods kubernetes and cert
    #[arg(long, value_name = "NAME", global = true)]
    pub vault_role: Option<String>,
    /// Vault: the role id of AppRole
    #[arg(long, value_name = "ID", global = true)]
    pub vault_role_id: Option<String>,
    /// Vault: the file of AppRole's secret id
    #[arg(long, value_name = "FILE", global = true)]
    pub vault_secret_id_file: Option<PathBuf>,
    /// Vault: the file of the service account's token [default: where Kubernetes puts it]
    #[arg(long, value_name = "FILE", global = true)]
    pub vault_jwt_file: Option<PathBuf>,
}

/// A variable of the server's own command, under its newer or its older name.
fn variable(name: &str) -> Option<OsString> {
    let of = |family: &str| std::env::var_os(format!("{family}_{name}"));
    of("BAO").or_else(|| of("VAULT")).filter(|value| !value.is_empty())
}

fn text(name: &str) -> Option<String> {
    variable(name).map(|value| value.to_string_lossy().into_owned())
}

fn file(given: Option<&PathBuf>, name: &str) -> Option<PathBuf> {
    given.cloned().or_else(|| variable(name).map(PathBuf::from))
}

impl VaultArgs {
    /// The URL that whoever runs this names: a token goes nowhere else.
    pub fn address(&self) -> Option<String> {
        self.vault_addr.clone().or_else(|| text("ADDR"))
    }

    /// The namespace for a volume that does not say one.
    pub fn namespace(&self) -> String {
        let told = self.vault_namespace.clone().or_else(|| text("NAMESPACE")).unwrap_or_default();
        told.trim_matches('/').to_owned()
    }

    /// The path of Transit for a volume that does not say one.
    pub fn mount(&self) -> String {
        let told = self.vault_mount.as_deref().unwrap_or("transit");
        told.trim_matches('/').to_owned()
    }

    /// The authorities of the server's certificate.
    ///
    /// # Errors
    /// Where the check of it is to be left out: a mount does not go without.
    pub fn ca_file(&self) -> Result<Option<PathBuf>, Failure> {
        let skip = text("SKIP_VERIFY").unwrap_or_default().to_lowercase();
        if !["", "0", "f", "false"].contains(&skip.as_str()) {
            let why = "VAULT_SKIP_VERIFY (or BAO_SKIP_VERIFY) is set, and kmsfs does not ask a server \
                       that may be anybody: it would be given the token, and data keys";
            return Err(Failure::new(Exit::Config, why)
                .hint("unset it, and name the server's authority: --vault-cacert FILE"));
        }
        Ok(file(self.vault_cacert.as_ref(), "CACERT"))
    }

    /// The client certificate and its key.
    ///
    /// # Errors
    /// Where there is one without the other.
    pub fn client_cert(&self) -> Result<Option<(PathBuf, PathBuf)>, Failure> {
        let cert = file(self.vault_client_cert.as_ref(), "CLIENT_CERT");
        match (cert, file(self.vault_client_key.as_ref(), "CLIENT_KEY")) {
            (Some(cert), Some(key)) => Ok(Some((cert, key))),
            (None, None) => Ok(None),
            _ => Err(Failure::new(Exit::Usage, "a client certificate goes with its private key")
                .hint("name both: --vault-client-cert FILE --vault-client-key FILE")),
        }
    }

    /// As they could be typed.
    pub fn words(&self) -> Vec<OsString> {
        let text = |value: &Option<String>| value.as_ref().map(OsString::from);
        let file = |value: &Option<PathBuf>| value.as_ref().map(OsString::from);
        let method = self.vault_auth.and_then(|method| method.to_possible_value());
        words([
            ("--vault-addr", text(&self.vault_addr)),
            ("--vault-namespace", text(&self.vault_namespace)),
            ("--vault-mount", text(&self.vault_mount)),
            ("--vault-cacert", file(&self.vault_cacert)),
            ("--vault-client-cert", file(&self.vault_client_cert)),
            ("--vault-client-key", file(&self.vault_client_key)),
            ("--vault-auth", method.map(|method| OsString::from(method.get_name()))),
            ("--vault-auth-mount", text(&self.vault_auth_mount)),
            ("--vault-token-file", file(&self.vault_token_file)),
            ("--vault-role", text(&self.vault_role)),
            ("--vault-role-id", text(&self.vault_role_id)),
            ("--vault-secret-id-file", file(&self.vault_secret_id_file)),
            ("--vault-jwt-file", file(&self.vault_jwt_file)),
        ])
    }

    /// The token in the environment.
    pub fn token(&self) -> Option<OsString> {
        variable("TOKEN")
    }

    /// The file of the token, where none was given: the one that `bao login` and `vault login`
    /// write.
    pub fn token_file(&self) -> Option<PathBuf> {
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        self.vault_token_file.clone().or_else(|| home.map(|home| home.join(".vault-token")))
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        vault: VaultArgs,
    }

    /// The demo runs the other verbs with what it was given.
    #[test]
    fn every_option_can_be_typed_again() {
        let command = Line::command();
        let options =
            command.get_arguments().filter_map(|arg| Some((arg.get_id(), arg.get_long()?)));
        let value = |id: &str| if id == "vault_auth" { "cert" } else { "x" };
        let typed = options
            .filter(|(id, _)| id.as_str() != "help")
            .flat_map(|(id, long)| [format!("--{long}"), value(id.as_str()).to_owned()]);
        let typed: Vec<_> = typed.map(OsString::from).collect();
        assert!(typed.len() > 20, "{}", typed.len());
        let line = Line::parse_from([&["kmsfs".into()], &typed[..]].concat());
        assert_eq!(line.vault.words(), typed);
    }
}
