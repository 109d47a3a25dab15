//! A token: where it is found, and how it is logged in to.
//!
//! The login is the process's: it holds for all sessions. A PIN that was refused is remembered, and
//! not tried again: a token locks itself after a few.

use cryptoki::context::{Function, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::RawAuthPin;
use parking_lot::Mutex;

use super::errors::{self, NO_TOKEN};
use super::module::Inside;
use super::pin::{Pin, PinSource};
use crate::kms::{KmsError, Verdict};

/// What a session may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Use keys.
    Read,
    /// Make and change them too.
    Write,
}

/// A token of a module.
pub(super) struct Token {
    label: String,
    /// The PIN that it refused last. Held during a login: one is tried at a time.
    refused: Mutex<Option<Pin>>,
}

impl Token {
    pub(super) fn new(label: &str) -> Self {
        Self { label: label.to_owned(), refused: Mutex::new(None) }
    }

    /// A session that is logged in. It is not closed when it is dropped, for its handle may be
    /// another's by then.
    ///
    /// # Errors
    /// [`NO_TOKEN`] where the token is not there; `Credentials` where there is no PIN that it takes;
    /// else the module's.
    pub(super) fn open(
        &self,
        inside: &Inside<'_>,
        pin: &PinSource,
        access: Access,
    ) -> Result<(Session, Slot), KmsError> {
        let pkcs11 = inside.pkcs11();
        let (slot, info) = self.find(pkcs11)?;
        let session = match access {
            Access::Read => pkcs11.open_ro_session_no_drop(slot),
            Access::Write => pkcs11.open_rw_session_no_drop(slot),
        };
        let session = session.map_err(|e| self.said(&e))?;
        if info.login_required()
            && let Err(e) = self.log_in(&session, &info, pin)
        {
            // What fails here, the module forgets with the process.
            let _ = session.close();
            return Err(e);
        }
        Ok((session, slot))
    }

    /// Whether a session sees the token and its private objects: else what it does not find may
    /// be there.
    ///
    /// # Errors
    /// `Unavailable` where it does not.
    pub(super) fn check(
        &self,
        pkcs11: &Pkcs11,
        session: &Session,
        slot: Slot,
    ) -> Result<(), KmsError> {
        let info = pkcs11.get_token_info(slot).map_err(|_| self.gone())?;
        if info.label() != self.label {
            return Err(self.gone());
        }
        if info.login_required() && !is_user(session).map_err(|e| self.said(&e))? {
            let lost = Error::Pkcs11(RvError::UserNotLoggedIn, Function::GetSessionInfo);
            return Err(self.said(&lost));
        }
        Ok(())
    }

    fn find(&self, pkcs11: &Pkcs11) -> Result<(Slot, TokenInfo), KmsError> {
        let slots = pkcs11.get_slots_with_token().map_err(|e| self.said(&e))?;
        // Other tokens may be broken.
        let infos =
            slots.into_iter().filter_map(|slot| Some((slot, pkcs11.get_token_info(slot).ok()?)));
        let mut found = infos.filter(|(_, info)| info.label() == self.label);
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one),
            (None, _) => Err(self.gone()),
            (Some(_), Some(_)) => {
                let why = format!("two tokens have the label {}: give one another", self.label);
                Err(KmsError::new(Verdict::Invalid, "AmbiguousToken", why))
            }
        }
    }

    fn log_in(&self, session: &Session, info: &TokenInfo, pin: &PinSource) -> Result<(), KmsError> {
        let mut refused = self.refused.lock();
        if is_user(session).map_err(|e| self.said(&e))? {
            return Ok(());
        }
        let no = |why: &str| {
            let why = format!("the token {}: {why}", self.label);
            Err(KmsError::new(Verdict::Credentials, "Pkcs11Pin", why))
        };
        if info.user_pin_locked() {
            return no("its PIN is locked: its security officer sets another");
        }
        if info.user_pin_final_try() {
            return no("one more wrong PIN locks it: log in once with its own tool, and mend the \
                       PIN of kmsfs");
        }
        let pin = pin.pin()?;
        if refused.as_ref() == Some(&pin) {
            return no("it refused this PIN, which is not tried again: give another");
        }
        let raw = RawAuthPin::new(Box::new(pin.expose().to_vec()));
        match session.login_with_raw(UserType::User, &raw) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                *refused = None;
                Ok(())
            }
            Err(e) => {
                let e = self.said(&e);
                if e.verdict == Verdict::Credentials {
                    *refused = Some(pin);
                }
                Err(e)
            }
        }
    }

    fn gone(&self) -> KmsError {
        let why = format!("there is no token with the label {}", self.label);
        KmsError::new(Verdict::Unavailable, NO_TOKEN, why)
    }

    fn said(&self, e: &Error) -> KmsError {
        errors::of(&format!("the token {}", self.label), e)
    }
}

fn is_user(session: &Session) -> Result<bool, Error> {
    let state = session.get_session_info()?.session_state();
    Ok(matches!(state, SessionState::RoUser | SessionState::RwUser))
}
