//! What the verbs share: options, exit codes and errors, passphrases, and lines for the user.

pub mod failure;
pub mod options;
pub mod passphrase;
pub mod pkcs11;
pub(crate) mod printing;
pub mod vault;
