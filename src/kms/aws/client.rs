//! The client: where it connects, how long it waits, and what it tries again.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_kms::Client;
use aws_sdk_kms::config::IdentityCache;
use aws_sdk_kms::config::http::HttpResponse;
use aws_sdk_kms::config::retry::RetryPartition;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_types::os_shim_internal::{Env, Fs};
use aws_types::service_config::ServiceConfigKey;
use tokio::runtime::Runtime;

use super::credentials::CredentialCache;
use super::errors;
use super::names::Names;
use super::network::{CALL, Network, timeouts};
use crate::kms::url::PlainHttp;
use crate::kms::{KmsError, Verdict};
use crate::secret::scrub_stack;

/// Tries of one call; a refusal is never tried again.
const TRIES: u32 = 3;
/// Between two tries: jittered, doubling from the first to the second.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(800);
/// Threads that drive the sockets. Calls themselves run on their caller's thread.
const WORKERS: usize = 2;

/// Which KMS, and as whom. What is `None` comes from the SDK's own chain: environment, profile
/// files, web identity, container and instance metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// A profile of the shared configuration files.
    pub profile: Option<String>,
    /// The region.
    pub region: Option<String>,
    /// The region in whose place it is asked, for its multi-Region keys: names of keys have this
    /// one in them above, and the region's own where it is asked.
    pub replica_of: Option<String>,
    /// The server's URL.
    pub endpoint: Option<String>,
    /// Whether that may be one without TLS.
    pub plain_http: PlainHttp,
    /// How long a call may take with all its tries.
    pub time_limit: Duration,
}

impl Default for Place {
    fn default() -> Self {
        Self {
            profile: None,
            region: None,
            replica_of: None,
            endpoint: None,
            plain_http: PlainHttp::default(),
            time_limit: CALL,
        }
    }
}

/// A client of AWS KMS. Each has connections and a retry budget of its own.
pub struct AwsKms {
    pub(super) client: Client,
    runtime: Arc<Runtime>,
    config: SdkConfig,
    network: Network,
    time_limit: Duration,
    credentials: CredentialCache,
    region: String,
    pub(super) names: Names,
}

impl AwsKms {
    /// A client for the work of a mount, or for administration. No KMS is asked yet, so a KMS
    /// that is out of reach is no error here.
    ///
    /// # Errors
    /// `Invalid` where no region is known or the runtime cannot be started; `Credentials` where
    /// the configuration of proxies or certificates is wrong.
    pub fn new(place: &Place) -> Result<Self, KmsError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .thread_name("kmsfs-aws")
            // What an answer left on its stack.
            .on_thread_park(scrub_stack)
            .on_thread_stop(scrub_stack)
            .enable_all()
            .build()
            .map_err(|e| invalid("RuntimeUnavailable", format!("no threads for the SDK: {e}")))?;
        if let Some(profile) = &place.profile {
            runtime.block_on(check_profile(profile))?;
        }
        let network = runtime.block_on(Network::load(place.profile.as_deref()))?;
        let config = runtime.block_on(load(place, &network));
        let Some(region) = config.region().map(ToString::to_string) else {
            let what = "no region is known: say --region, or set AWS_REGION";
            return Err(KmsError::new(Verdict::Credentials, "MissingRegion", what));
        };
        if let Some(url) = endpoint(&config) {
            place.plain_http.check(&url)?;
        }
        let credentials = CredentialCache::new(place.clone(), network.clone());
        let time_limit = place.time_limit;
        let client = client(&config, &network, time_limit, &credentials, "kmsfs-work");
        let runtime = Arc::new(runtime);
        let names = match place.replica_of.clone() {
            Some(home) => Names::Replica { home, region: region.clone() },
            None => Names::Same,
        };
        Ok(Self { client, runtime, config, network, time_limit, credentials, region, names })
    }

    /// Another client of the same place, for heartbeats: nothing that hangs, is throttled or
    /// queues on the first holds it up. The credentials are shared.
    #[must_use]
    pub fn sibling(&self) -> Self {
        Self {
            client: client(
                &self.config,
                &self.network,
                self.time_limit,
                &self.credentials,
                "kmsfs-beat",
            ),
            runtime: self.runtime.clone(),
            config: self.config.clone(),
            network: self.network.clone(),
            time_limit: self.time_limit,
            credentials: self.credentials.clone(),
            region: self.region.clone(),
            names: self.names.clone(),
        }
    }

    /// The region that it asks in.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// The error of a call; `what` says what was asked of which key.
    pub(super) fn error<E>(&self, what: &str, e: &SdkError<E, HttpResponse>) -> KmsError
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let error = errors::of(what, e);
        if matches!(error.verdict, Verdict::Credentials | Verdict::UnknownCaller) {
            self.run(self.credentials.invalidate());
        }
        error
    }

    /// Runs one call to its end on the caller's thread, which must not be the runtime's.
    pub(super) fn run<T>(&self, call: impl Future<Output = T>) -> T {
        self.runtime.block_on(call)
    }
}

fn invalid(code: &str, what: String) -> KmsError {
    KmsError::new(Verdict::Invalid, code, what)
}

/// A profile that was named must be there: the SDK would go on to the next in its chain, and
/// the mount would run as somebody else.
async fn check_profile(name: &str) -> Result<(), KmsError> {
    let bad = |why: String| KmsError::new(Verdict::Credentials, "ProfileInvalid", why);
    let found =
        aws_config::profile::load(&Fs::real(), &Env::real(), &Default::default(), None).await;
    let found = found.map_err(|e| bad(format!("the profile files cannot be read: {e}")))?;
    if found.get_profile(name).is_some() {
        return Ok(());
    }
    Err(bad(format!("there is no profile {name:?} in the shared configuration files")))
}

/// What the SDK's chain says now: environment and profile files are read again.
pub(super) async fn load(place: &Place, network: &Network) -> SdkConfig {
    let http = network.http_client();
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12()).http_client(http);
    if let Some(profile) = &place.profile {
        loader = loader.profile_name(profile);
    }
    if let Some(region) = &place.region {
        loader = loader.region(Region::new(region.clone()));
    }
    if let Some(endpoint) = &place.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    loader.load().await
}

/// The URL that the SDK will ask, where there is one beside the region's: what was named, else the
/// service's own setting, else the general one, of the environment or the profile.
fn endpoint(config: &SdkConfig) -> Option<String> {
    let general = config.endpoint_url().map(str::to_owned);
    if config.get_origin("endpoint_url").is_client_config() {
        return general;
    }
    let key = ServiceConfigKey::builder()
        .service_id("KMS")
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url")
        .build()
        .expect("all three are given");
    config.service_config().and_then(|settings| settings.load_config(key)).or(general)
}

fn client(
    config: &SdkConfig,
    network: &Network,
    time_limit: Duration,
    credentials: &CredentialCache,
    partition: &'static str,
) -> Client {
    // Not adaptive: that would go on holding calls back, past their time, when the throttling
    // is over. The budget of calls is the caller's to keep.
    let retry = RetryConfig::standard()
        .with_max_attempts(TRIES)
        .with_initial_backoff(FIRST_PAUSE)
        .with_max_backoff(LONGEST_PAUSE);
    // A client of its own has a connection pool of its own too.
    let http = network.http_client();
    let builder = aws_sdk_kms::config::Builder::from(config)
        .http_client(http)
        .timeout_config(timeouts(time_limit))
        .retry_partition(RetryPartition::new(partition))
        .retry_config(retry)
        .identity_cache(IdentityCache::no_cache())
        .credentials_provider(credentials.clone());
    Client::from_conf(builder.build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_name_a_url_is_seen() {
        let place = |url: &str, plain_http| Place {
            region: Some("eu-west-1".to_owned()),
            endpoint: Some(url.to_owned()),
            plain_http,
            ..Place::default()
        };
        let refused = AwsKms::new(&place("http://kms.example", PlainHttp::Loopback));
        assert_eq!(refused.err().map(|e| e.code), Some("PlainHttp".to_owned()));
        assert!(AwsKms::new(&place("http://kms.example", PlainHttp::Anywhere)).is_ok());
        assert!(AwsKms::new(&place("http://[::1]:4566", PlainHttp::Loopback)).is_ok());
    }
}
