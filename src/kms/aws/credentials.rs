//! Credentials: loaded apart from the calls that want them, kept while they are good, and
//! loaded afresh, profile files read again, when a KMS no longer accepts them.
//!
//! The SDK's own cache gives a load up with the try of a call that began it, so a role that takes
//! longer to assume would begin afresh at each try, for ever; and it keeps what it has until its
//! time is up, whatever the KMS says to it.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::future::ProvideCredentials as Loading;
use tokio::sync::Mutex;

use super::client::{Place, load};
use super::network::Network;

/// Those that never expire are loaded again after this time.
const LONGEST: Duration = Duration::from_secs(900);
/// Others, this long before they expire.
const MARGIN: Duration = Duration::from_secs(60);
/// Between two loads, where what was loaded is not accepted.
const SHORTEST: Duration = Duration::from_secs(3);
/// A load that takes longer is given up.
const LIMIT: Duration = Duration::from_secs(20);

struct Loaded {
    at: Instant,
    found: Credentials,
    stale: Stale,
}

/// Whether a KMS has refused to know them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stale {
    No,
    Yes,
}

impl Loaded {
    fn is_good(&self) -> bool {
        let age = self.at.elapsed();
        let lasts = |end| end > SystemTime::now() + MARGIN;
        match self.stale {
            Stale::Yes => age < SHORTEST,
            // Just loaded, they are what there is, however soon they expire.
            Stale::No => age < SHORTEST || age < LONGEST && self.found.expiry().is_none_or(lasts),
        }
    }
}

#[derive(Default)]
struct State {
    last: Option<Loaded>,
    /// When a load failed last, and why.
    failed: Option<(Instant, String)>,
}

/// Credentials that are loaded in a task of their own, and kept while they are good.
#[derive(Clone)]
pub(super) struct CredentialCache {
    place: Arc<Place>,
    network: Network,
    state: Arc<Mutex<State>>,
}

impl std::fmt::Debug for CredentialCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CredentialCache").field("place", &self.place).finish_non_exhaustive()
    }
}

impl CredentialCache {
    pub(super) fn new(place: Place, network: Network) -> Self {
        Self { place: Arc::new(place), network, state: Arc::default() }
    }

    /// Says that a KMS does not accept them.
    pub(super) async fn invalidate(&self) {
        if let Some(last) = &mut self.state.lock().await.last {
            last.stale = Stale::Yes;
        }
    }

    /// One load for all who ask at the same time.
    async fn get(self) -> Result<Credentials, CredentialsError> {
        let asked = Instant::now();
        let mut state = self.state.lock().await;
        if let Some(good) = state.last.as_ref().filter(|l| l.is_good()) {
            return Ok(good.found.clone());
        }
        // Those who waited for a load that failed do not each begin another.
        if let Some((_, why)) = state.failed.as_ref().filter(|(at, _)| *at > asked) {
            return Err(CredentialsError::provider_error(why.clone()));
        }
        let fresh = tokio::time::timeout(LIMIT, async {
            // A chain of its own: one that was used remembers what its files said.
            let config = load(&self.place, &self.network).await;
            match config.credentials_provider() {
                Some(chain) => chain.provide_credentials().await,
                None => Err(CredentialsError::not_loaded("no provider is configured")),
            }
        });
        let loaded =
            fresh.await.unwrap_or_else(|_| Err(CredentialsError::provider_timed_out(LIMIT)));
        match &loaded {
            Ok(found) => {
                let found = found.clone();
                state.last = Some(Loaded { at: Instant::now(), found, stale: Stale::No });
            }
            Err(e) => state.failed = Some((Instant::now(), e.to_string())),
        }
        loaded
    }
}

impl ProvideCredentials for CredentialCache {
    fn provide_credentials<'a>(&'a self) -> Loading<'a>
    where
        Self: 'a,
    {
        let held = self.state.try_lock().ok();
        let good = held.as_ref().and_then(|s| s.last.as_ref()).filter(|l| l.is_good());
        if let Some(good) = good {
            return Loading::ready(Ok(good.found.clone()));
        }
        drop(held);
        let task = tokio::spawn(self.clone().get());
        Loading::new(
            async move { task.await.unwrap_or_else(|e| Err(CredentialsError::unhandled(e))) },
        )
    }
}
