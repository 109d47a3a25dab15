//! From options and variables to a PKCS#11 token.

use std::path::Path;

use super::provider::Kms;
use crate::console::failure::{Exit, Failure};
use crate::console::pkcs11::Pkcs11Args;
use crate::store::Provider;

/// The token's label for a volume, as whoever runs this says. What `volume.json` says is not enough:
/// who can write the store would have the PIN tried on another token, which locks itself.
pub(super) fn told(store: &Path, stored: &str, args: &Pkcs11Args) -> Result<String, Failure> {
    args.pkcs11_token.clone().ok_or_else(|| {
        let why = format!(
            "{}: its keys are on a PKCS#11 token, {stored:?} as volume.json says; a PIN goes only to \
             the token that you name",
            store.display()
        );
        Failure::new(Exit::Config, why)
            .hint(format!("if that is your token: --pkcs11-token {stored:?}"))
    })
}

/// The token for a volume that does not say one yet, or for a verb without one.
pub(super) fn provider(args: &Pkcs11Args) -> Result<Provider, Failure> {
    let token = args.pkcs11_token.clone().ok_or_else(|| {
        Failure::new(Exit::Config, "no token is named")
            .hint("name it: --pkcs11-token LABEL, or set KMSFS_PKCS11_TOKEN")
    })?;
    let provider = Provider::Pkcs11 { token };
    provider.check().map_err(|why| Failure::new(Exit::Usage, why))?;
    Ok(provider)
}

#[cfg(feature = "pkcs11")]
mod client {
    use std::os::unix::ffi::OsStrExt;
    use std::path::PathBuf;
    use std::sync::Arc;

    use super::Kms;
    use crate::cli::place::absolute;
    use crate::console::failure::{Exit, Failure};
    use crate::console::options::KmsArgs;
    use crate::console::pkcs11::Pkcs11Args;
    use crate::keys::Services;
    use crate::kms::pkcs11::{Pin, PinSource, Pkcs11Kms, Place};
    use crate::store::Provider;

    /// Opens a token.
    pub(in crate::cli) fn open(provider: &Provider, args: &KmsArgs) -> Result<Kms, Failure> {
        let Provider::Pkcs11 { token } = provider else {
            return Err(Failure::new(Exit::Failed, "the keys are not on a PKCS#11 token"));
        };
        let args = &args.pkcs11;
        let place = Place { module: module(args)?, token: token.clone(), pin: pin(args)? };
        let kms = Arc::new(Pkcs11Kms::new(&place)?);
        let services = Services { work: kms.clone(), beats: Arc::new(kms.sibling()) };
        Ok(Kms { services, admin: kms })
    }

    fn module(args: &Pkcs11Args) -> Result<PathBuf, Failure> {
        let hint = "name the library of the token's maker: --pkcs11-module FILE, or set \
                    KMSFS_PKCS11_MODULE";
        let Some(module) = &args.pkcs11_module else {
            return Err(Failure::new(Exit::Config, "no PKCS#11 module is named").hint(hint));
        };
        let module = absolute(module)?;
        match module.metadata() {
            Ok(file) if file.is_file() => Ok(module),
            Ok(_) => {
                let why = format!("{}: it is no file", module.display());
                Err(Failure::new(Exit::Config, why).hint(hint))
            }
            Err(e) => {
                let why = format!("{}: {e}", module.display());
                Err(Failure::new(Exit::Config, why).hint(hint))
            }
        }
    }

    /// A file that was named comes before the environment.
    fn pin(args: &Pkcs11Args) -> Result<PinSource, Failure> {
        if let Some(file) = &args.pkcs11_pin_file {
            return absolute(file).map(PinSource::File);
        }
        if let Some(pin) = args.pin() {
            return Ok(PinSource::Given(Pin::new(pin.as_bytes())));
        }
        args.credential().map(PinSource::File).ok_or_else(|| {
            Failure::new(Exit::Config, "there is no PIN for the PKCS#11 token")
                .hint("name its file: --pkcs11-pin-file FILE, or set KMSFS_PKCS11_PIN")
        })
    }
}

#[cfg(feature = "pkcs11")]
pub(super) use client::open;

/// This build knows no tokens.
#[cfg(not(feature = "pkcs11"))]
pub(super) fn open(
    _provider: &Provider,
    _args: &crate::console::options::KmsArgs,
) -> Result<Kms, Failure> {
    let why = "this build of kmsfs has no PKCS#11 (feature `pkcs11` is off)";
    Err(Failure::new(Exit::Config, why).hint("build one that has: cargo build --locked --release"))
}
