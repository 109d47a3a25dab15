//! Where a keystore's passphrase comes from: a file, a systemd credential, or the terminal.

use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use zeroize::Zeroize;

use super::failure::{Exit, Failure};
use crate::secret::Passphrase;

/// A source of passphrases.
#[derive(Clone, Debug)]
pub enum PassphraseSource {
    /// A file (`--passphrase-file`), or a systemd credential named `kmsfs-passphrase`.
    File(PathBuf),
    /// The terminal.
    Prompt,
}

impl PassphraseSource {
    /// The file that the user named, else the credential, else the terminal.
    pub fn from_option(file: Option<PathBuf>) -> Self {
        let credential = || {
            let folder = std::env::var_os("CREDENTIALS_DIRECTORY")?;
            let path = Path::new(&folder).join("kmsfs-passphrase");
            path.exists().then_some(path)
        };
        file.or_else(credential).map_or(Self::Prompt, Self::File)
    }

    /// The passphrase of a keystore that is there.
    ///
    /// # Errors
    /// An unreadable file, or no terminal to ask at.
    pub fn passphrase(&self, what: &str) -> Result<Passphrase, Failure> {
        match self {
            Self::File(path) => read(path),
            Self::Prompt => prompt(&format!("{what}: ")),
        }
    }

    /// A new passphrase: at a terminal it is asked for twice.
    ///
    /// # Errors
    /// As [`PassphraseSource::passphrase`]; an empty one; two that differ.
    pub fn new_passphrase(&self, what: &str) -> Result<Passphrase, Failure> {
        let first = self.passphrase(what)?;
        if first.expose().is_empty() {
            return Err(Failure::new(
                Exit::Usage,
                format!("the {what} is empty, nothing was done"),
            ));
        }
        if matches!(self, Self::Prompt) {
            let again = prompt(&format!("{what}, again: "))?;
            if first.expose() != again.expose() {
                return Err(Failure::new(Exit::Usage, "the two differ, nothing was done"));
            }
        }
        Ok(first)
    }
}

fn read(path: &Path) -> Result<Passphrase, Failure> {
    let mut bytes = fs::read(path)
        .map_err(|e| Failure::new(Exit::Config, format!("{}: {e}", path.display())))?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    Ok(Passphrase::new(bytes))
}

fn prompt(text: &str) -> Result<Passphrase, Failure> {
    if !std::io::stdin().is_terminal() && fs::File::open("/dev/tty").is_err() {
        return Err(Failure::new(
            Exit::Config,
            "the keystore is sealed, and there is no terminal to ask for its passphrase",
        )
        .hint("name a --passphrase-file FILE"));
    }
    let mut typed = rpassword::prompt_password(text)
        .map_err(|e| Failure::new(Exit::Config, format!("the passphrase cannot be read: {e}")))?;
    let passphrase = Passphrase::new(typed.as_bytes().to_vec());
    typed.zeroize();
    Ok(passphrase)
}
