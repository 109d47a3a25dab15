//! One request over HTTP: how long it may take, how much it may answer, and what is tried again.

use std::io::Read;

use parking_lot::RwLock;
use ureq::Agent;
use ureq::config::Config;
use ureq::http::{HeaderValue, Method, Request, Response};
use zeroize::Zeroizing;

use super::auth::Token;
use super::errors;
use super::place::{Place, bad};
use crate::kms::limits::{Limits, TRIES};
use crate::kms::{KmsError, Verdict};
use crate::secret::random_bytes;

/// A longer answer is none of a server's: a list of a thousand keys has 64 KiB.
const LONGEST: u64 = 1 << 20;
/// Connections that wait for the next call.
const IDLE: usize = 64;

/// An answer, whatever it says.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Zeroizing<Vec<u8>>,
}

/// What is asked.
#[derive(Clone, Copy)]
pub(super) enum Ask<'a> {
    Get,
    Delete,
    Post(&'a [u8]),
}

/// Connections to a server.
pub(super) struct Http {
    config: Config,
    agent: RwLock<Agent>,
    namespace: Option<HeaderValue>,
    place: Place,
}

impl Http {
    /// None is made yet: a server that is out of reach is no error here.
    ///
    /// # Errors
    /// `Credentials` where a file of the configuration cannot be used.
    pub(super) fn new(place: &Place) -> Result<Self, KmsError> {
        let Limits { connect, attempt } = Limits::of(place.time_limit);
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(connect))
            .timeout_global(Some(attempt))
            // A token goes to nobody whom the user did not name.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .https_only(place.is_tls())
            .proxy(place.proxy()?)
            .max_idle_connections(IDLE)
            .max_idle_connections_per_host(IDLE)
            .tls_config(place.tls()?)
            .user_agent(concat!("kmsfs/", env!("CARGO_PKG_VERSION")))
            .build();
        let namespace = Some(place.namespace.as_str()).filter(|n| !n.is_empty());
        let namespace = namespace.map(HeaderValue::from_str).transpose();
        let namespace = namespace.map_err(|e| bad("VaultPath", format!("the namespace: {e}")))?;
        let agent = RwLock::new(Agent::new_with_config(config.clone()));
        Ok(Self { config, agent, namespace, place: place.clone() })
    }

    /// The same place, by connections of its own.
    pub(super) fn sibling(&self) -> Self {
        let agent = RwLock::new(Agent::new_with_config(self.config.clone()));
        let (config, place) = (self.config.clone(), self.place.clone());
        Self { config, agent, namespace: self.namespace.clone(), place }
    }

    /// Closes the connections that wait, and later those in use: their buffers hold the last
    /// answer.
    pub(super) fn forget(&self) {
        *self.agent.write() = Agent::new_with_config(self.config.clone());
    }

    /// Asks for `path`, again where there is no answer that counts; `what` says what is asked of
    /// which key.
    ///
    /// # Errors
    /// [`KmsError`] of whatever is no good answer.
    pub(super) fn ask(
        &self,
        what: &str,
        (path, ask): (&str, Ask<'_>),
        token: Option<&Token>,
    ) -> Result<Reply, KmsError> {
        let call = self.place.time_limit;
        // Once before the second try, twice before the third: what the tries leave of the call.
        let mut pause = (call - Limits::of(call).attempt * TRIES) / 3;
        let mut tries = 1;
        loop {
            let outcome = self.once(what, (path, ask), token);
            let is_outage =
                |e: &KmsError| e.verdict == Verdict::Unavailable && e.code != errors::UNKNOWN;
            if !outcome.as_ref().is_err_and(is_outage) || tries == TRIES {
                return outcome;
            }
            // Between half of it and all, so that those who failed together do not come together.
            let [jitter] = random_bytes::<1>();
            std::thread::sleep(pause / 2 + pause / 2 * u32::from(jitter) / 255);
            pause *= 2;
            tries += 1;
        }
    }

    fn once(
        &self,
        what: &str,
        (path, ask): (&str, Ask<'_>),
        token: Option<&Token>,
    ) -> Result<Reply, KmsError> {
        let agent = self.agent.read().clone();
        let mut request = Request::builder().uri(self.place.url(path));
        request = request.header("X-Vault-Request", "true");
        if let Some(namespace) = &self.namespace {
            request = request.header("X-Vault-Namespace", namespace);
        }
        if let Some(token) = token {
            request = request.header("X-Vault-Token", header(token)?);
        }
        let wrong = |e: ureq::http::Error| errors::unreachable(what, &e.into());
        let answer = match ask {
            Ask::Get => agent.run(request.method(Method::GET).body(()).map_err(wrong)?),
            Ask::Delete => agent.run(request.method(Method::DELETE).body(()).map_err(wrong)?),
            Ask::Post(body) => {
                let request =
                    request.method(Method::POST).header("Content-Type", "application/json");
                agent.run(request.body(body).map_err(wrong)?)
            }
        };
        let reply = read(answer.map_err(|e| errors::unreachable(what, &e))?)
            .map_err(|e| errors::unreachable(what, &ureq::Error::Io(e)))?;
        if (200..300).contains(&reply.status) { Ok(reply) } else { Err(errors::of(what, &reply)) }
    }
}

/// The token as a header that is left out of logs.
fn header(token: &Token) -> Result<HeaderValue, KmsError> {
    let value = HeaderValue::from_bytes(token.expose());
    let mut value = value
        .map_err(|_| bad("VaultToken", "the token has characters that none has".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn read(answer: Response<ureq::Body>) -> std::io::Result<Reply> {
    let status = answer.status().as_u16();
    let mut body = Zeroizing::new(Vec::with_capacity(8 << 10));
    let mut reader = answer.into_body().into_with_config().limit(LONGEST).reader();
    reader.read_to_end(&mut body)?;
    Ok(Reply { status, body })
}
