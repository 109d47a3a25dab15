//! A client of one token.

use std::path::PathBuf;

use super::callers::Callers;
use super::module::Module;
use super::names::Names;
use super::pin::PinSource;
use super::session::Way;
use super::token::Access;
use crate::kms::KmsError;
use crate::threads::Role;

/// Which token, and as whom.
#[derive(Clone, Debug)]
pub struct Place {
    /// The library of the token's maker: an absolute path.
    pub module: PathBuf,
    /// The token's label.
    pub token: String,
    /// Where the PIN is had from.
    pub pin: PinSource,
}

/// How a client comes by what it knows of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// At every call anew: what a heartbeat is told is what is.
    Fresh,
    /// Once in a session; the token itself says no where the key has changed.
    Remembered,
}

/// A client of a token.
pub struct Pkcs11Kms {
    pub(super) names: Names,
    pub(super) look: Look,
    pub(super) callers: Callers,
    /// For what changes keys.
    pub(super) changers: Callers,
}

impl Pkcs11Kms {
    /// A client for the work of a mount, or for administration. The module is loaded, and the token
    /// looked for, at the first call: a token that is not there is no error here.
    ///
    /// # Errors
    /// `Invalid` for a label that no token has.
    pub fn new(place: &Place) -> Result<Self, KmsError> {
        let names = Names::of(&place.token)?;
        let module = Module::at(&place.module);
        let token = module.token(&place.token);
        let way = Way { module, token, pin: place.pin.clone(), access: Access::Read };
        Ok(Self::with(names, Look::Remembered, (way, Role::Module)))
    }

    /// Another client of the same token, for heartbeats: with threads and sessions of its own.
    #[must_use]
    pub fn sibling(&self) -> Self {
        let way = self.callers.way().clone();
        Self::with(self.names.clone(), Look::Fresh, (way, Role::ModuleBeat))
    }

    fn with(names: Names, look: Look, (way, role): (Way, Role)) -> Self {
        let changing = Way { access: Access::Write, ..way.clone() };
        let (callers, changers) = (Callers::new(way, role), Callers::new(changing, role));
        Self { names, look, callers, changers }
    }
}
