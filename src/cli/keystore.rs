//! `kmsfs keystore`.

use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::mount::open_keystore;
use crate::console::failure::Failure;
use crate::console::passphrase::PassphraseSource;
use crate::console::printing::say;
use crate::kms::local::{LocalKms, Sealing};

/// What to do with the embedded keystore.
#[derive(Subcommand)]
pub enum KeystoreCommand {
    /// Change its passphrase
    Passphrase {
        /// Read the new passphrase from this file
        #[arg(long, value_name = "FILE")]
        new_passphrase_file: Option<PathBuf>,
        /// Remove the passphrase: the keys are then stored unencrypted
        #[arg(long, conflicts_with = "new_passphrase_file")]
        no_passphrase: bool,
    },
    /// Copy it to a new folder
    Backup {
        /// The folder: absent or empty
        dest: PathBuf,
    },
}

/// Runs a `keystore` command.
///
/// # Errors
/// [`Failure`].
pub fn run(
    command: &KeystoreCommand,
    keystore: &Path,
    source: &PassphraseSource,
) -> Result<(), Failure> {
    match command {
        KeystoreCommand::Passphrase { new_passphrase_file, no_passphrase } => {
            let kms = open_keystore(keystore, source)?;
            let sealing = if *no_passphrase {
                Sealing::Clear
            } else {
                let new = PassphraseSource::from_option(new_passphrase_file.clone());
                Sealing::Passphrase(new.new_passphrase("new keystore passphrase")?)
            };
            kms.change_passphrase(&sealing)?;
        }
        KeystoreCommand::Backup { dest } => {
            LocalKms::open_admin(keystore)?.backup(dest)?;
            say!("{}", dest.display());
        }
    }
    Ok(())
}
