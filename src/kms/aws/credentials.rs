//! Credentials that keep loading when the call that wanted them has run out of time.
//!
//! Assuming a role or asking instance metadata may take longer than one try of a KMS call. The
//! SDK gives the load up with the try, so the next would start from nothing, for ever.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::future::ProvideCredentials as Loading;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use tokio::sync::Mutex;

/// What was loaded is handed to those who ask within this time; caching is the SDK's.
const SHARED: Duration = Duration::from_secs(10);
/// Unless it expires sooner than this.
const MARGIN: Duration = Duration::from_secs(30);
/// A load that takes longer is given up.
const LIMIT: Duration = Duration::from_secs(20);

/// See the module's description.
#[derive(Clone, Debug)]
pub(super) struct Detached {
    inner: SharedCredentialsProvider,
    last: Arc<Mutex<Option<(Instant, Credentials)>>>,
}

impl Detached {
    pub(super) fn new(inner: SharedCredentialsProvider) -> Self {
        Self { inner, last: Arc::default() }
    }

    async fn load(self) -> Result<Credentials, CredentialsError> {
        let mut last = self.last.lock().await;
        if let Some((at, found)) = &*last
            && at.elapsed() < SHARED
            && found.expiry().is_none_or(|end| end > SystemTime::now() + MARGIN)
        {
            return Ok(found.clone());
        }
        let load = tokio::time::timeout(LIMIT, self.inner.provide_credentials());
        let found =
            load.await.map_err(|_| CredentialsError::provider_timed_out(LIMIT)).flatten()?;
        *last = Some((Instant::now(), found.clone()));
        Ok(found)
    }
}

impl ProvideCredentials for Detached {
    fn provide_credentials<'a>(&'a self) -> Loading<'a>
    where
        Self: 'a,
    {
        let task = tokio::spawn(self.clone().load());
        Loading::new(
            async move { task.await.unwrap_or_else(|e| Err(CredentialsError::unhandled(e))) },
        )
    }
}
