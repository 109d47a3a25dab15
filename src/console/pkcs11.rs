//! How a PKCS#11 token is reached: options and variables.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;

use super::options::words;

/// How a PKCS#11 token is reached. A PIN is in a file or a variable, and never typed.
#[derive(Args, Clone)]
pub struct Pkcs11Args {
    /// PKCS#11: the library of the token's maker
    #[arg(long, env = "KMSFS_PKCS11_MODULE", value_name = "FILE", global = true)]
    pub pkcs11_module: Option<PathBuf>,
    /// PKCS#11: the label of the token
    #[arg(long, env = "KMSFS_PKCS11_TOKEN", value_name = "LABEL", global = true)]
    pub pkcs11_token: Option<String>,
    /// PKCS#11: the file of the token's PIN [default: KMSFS_PKCS11_PIN, or the systemd credential
    /// kmsfs-pkcs11-pin]
    #[arg(long, env = "KMSFS_PKCS11_PIN_FILE", value_name = "FILE", global = true)]
    pub pkcs11_pin_file: Option<PathBuf>,
}

impl Pkcs11Args {
    /// The PIN in the environment.
    pub fn pin(&self) -> Option<OsString> {
        std::env::var_os("KMSFS_PKCS11_PIN").filter(|pin| !pin.is_empty())
    }

    /// The file of the systemd credential.
    pub fn credential(&self) -> Option<PathBuf> {
        let folder = std::env::var_os("CREDENTIALS_DIRECTORY")?;
        Some(Path::new(&folder).join("kmsfs-pkcs11-pin")).filter(|path| path.exists())
    }

    /// As they could be typed.
    pub fn words(&self) -> Vec<OsString> {
        let file = |value: &Option<PathBuf>| value.as_ref().map(OsString::from);
        words([
            ("--pkcs11-module", file(&self.pkcs11_module)),
            ("--pkcs11-token", self.pkcs11_token.as_ref().map(OsString::from)),
            ("--pkcs11-pin-file", file(&self.pkcs11_pin_file)),
        ])
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        pkcs11: Pkcs11Args,
    }

    /// The demo runs the other verbs with what it was given.
    #[test]
    fn every_option_can_be_typed_again() {
        let command = Line::command();
        let longs = command.get_arguments().filter_map(clap::Arg::get_long);
        let typed = longs
            .filter(|long| *long != "help")
            .flat_map(|long| [format!("--{long}"), "x".to_owned()]);
        let typed: Vec<_> = typed.map(OsString::from).collect();
        assert_eq!(typed.len(), 6);
        let line = Line::parse_from([&["kmsfs".into()], &typed[..]].concat());
        assert_eq!(line.pkcs11.words(), typed);
    }
}
