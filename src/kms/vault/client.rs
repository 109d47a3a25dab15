//! A client of one Transit: a door of its own to a server, and a token that all doors share.

use std::sync::Arc;

use super::answer;
use super::auth::Token;
use super::errors::ACCESS_DENIED;
use super::http::{Ask, Http, Reply};
use super::names::Names;
use super::place::Place;
use super::session::Session;
use crate::kms::KmsError;

/// A client of Transit.
pub struct VaultKms {
    pub(super) http: Http,
    pub(super) names: Names,
    mount: String,
    session: Arc<Session>,
}

impl VaultKms {
    /// A client for the work of a mount, or for administration. No server is asked yet, so one
    /// that is out of reach is no error here.
    ///
    /// # Errors
    /// `Invalid` for an address, namespace or mount that can be none; `Credentials` where a file
    /// of TLS cannot be used.
    pub fn new(place: &Place) -> Result<Self, KmsError> {
        place.check()?;
        Ok(Self {
            http: Http::new(place)?,
            names: Names::of(place)?,
            mount: place.mount.clone(),
            session: Arc::new(Session::new(place.clone())),
        })
    }

    /// Another client of the same place, for heartbeats: nothing that hangs or queues at the
    /// first holds it up. The token is shared.
    #[must_use]
    pub fn sibling(&self) -> Self {
        Self {
            http: self.http.sibling(),
            names: self.names.clone(),
            mount: self.mount.clone(),
            session: self.session.clone(),
        }
    }

    /// Asks Transit, with a new token where the server does not know the last one any more.
    pub(super) fn ask(&self, what: &str, path: &str, ask: Ask<'_>) -> Result<Reply, KmsError> {
        let path = format!("{}/{path}", self.mount);
        let call = |token: &Token| self.http.ask(what, (&path, ask), Some(token));
        let token = self.session.token()?;
        match call(&token) {
            Err(e) if e.code == ACCESS_DENIED => {
                self.session.instead_of(&token)?.map_or(Err(e), |next| call(&next))
            }
            other => other,
        }
    }

    /// Asks Transit with a body.
    pub(super) fn post(
        &self,
        what: &str,
        path: &str,
        request: &impl serde::Serialize,
    ) -> Result<Reply, KmsError> {
        self.ask(what, path, Ask::Post(&answer::body(request)))
    }
}
