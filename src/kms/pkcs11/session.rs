//! A session with what is known in it, and how it is opened again when it is lost.

use std::collections::BTreeMap;
use std::sync::Arc;

use cryptoki::context::Pkcs11;
use cryptoki::session::Session;
use cryptoki::slot::Slot;

use super::errors::NO_TOKEN;
use super::keys::Found;
use super::module::{Inside, Module};
use super::pin::PinSource;
use super::token::{Access, Token};
use crate::kms::{KmsError, Verdict};

/// How a session is had.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) module: Arc<Module>,
    pub(super) token: Arc<Token>,
    pub(super) pin: PinSource,
    pub(super) access: Access,
}

/// An open session.
pub(super) struct Open {
    pub(super) session: Session,
    /// Objects that were found by their id: handles are those of this generation of the module.
    pub(super) known: BTreeMap<String, Found>,
    pkcs11: Pkcs11,
    token: Arc<Token>,
    slot: Slot,
    generation: u64,
}

impl Open {
    /// Whether what is not found is not there.
    ///
    /// # Errors
    /// `Unavailable` where the session does not see the token any more.
    pub(super) fn check(&self) -> Result<(), KmsError> {
        self.token.check(&self.pkcs11, &self.session, self.slot)
    }
}

/// What a thread that makes calls has: a session, from its first call on.
pub(super) struct Line {
    way: Way,
    open: Option<Open>,
}

impl Line {
    pub(super) fn new(way: Way) -> Self {
        Self { way, open: None }
    }

    /// Makes a call; once more in a new session, where the last was lost.
    pub(super) fn call<T>(
        &mut self,
        make: &mut dyn FnMut(&mut Open) -> Result<T, KmsError>,
    ) -> Result<T, KmsError> {
        match self.once(make) {
            Err((e, seen)) if e.verdict == Verdict::Unavailable => {
                log::info!("{e}; it is tried in a new session");
                if e.code == NO_TOKEN {
                    self.way.module.renew(seen)?;
                }
                self.once(make).map_err(|(e, _)| e)
            }
            other => other.map_err(|(e, _)| e),
        }
    }

    /// Makes a call; an error comes with the generation of the module that it is of.
    fn once<T>(
        &mut self,
        make: &mut dyn FnMut(&mut Open) -> Result<T, KmsError>,
    ) -> Result<T, (KmsError, u64)> {
        let module = self.way.module.clone();
        let inside = module.enter().map_err(|e| (e, 0))?;
        let outcome = self.opened(&inside).and_then(make);
        if outcome.as_ref().is_err_and(|e| e.verdict == Verdict::Unavailable) {
            self.close_in(&inside);
        }
        outcome.map_err(|e| (e, inside.generation()))
    }

    fn opened(&mut self, inside: &Inside<'_>) -> Result<&mut Open, KmsError> {
        let generation = inside.generation();
        let open = match self.open.take().filter(|open| open.generation == generation) {
            Some(open) => open,
            None => {
                let Way { token, pin, access, .. } = &self.way;
                let (session, slot) = token.open(inside, pin, *access)?;
                let (known, pkcs11) = (BTreeMap::new(), inside.pkcs11().clone());
                Open { session, known, pkcs11, token: token.clone(), slot, generation }
            }
        };
        Ok(self.open.insert(open))
    }

    fn close_in(&mut self, inside: &Inside<'_>) {
        let ours = self.open.take().filter(|open| open.generation == inside.generation());
        // One that is lost cannot be closed; nothing is left of it.
        let _ = ours.map(|open| open.session.close());
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let module = self.way.module.clone();
        if self.open.is_some()
            && let Ok(inside) = module.enter()
        {
            self.close_in(&inside);
        }
    }
}
