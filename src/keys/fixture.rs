//! A keyring over a store in memory, for the tests of this folder.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::{Keyring, Limits, Phase, Services, StoreUse, Trust};
use crate::disk::sim::Sim;
use crate::ids::VolumeId;
use crate::kms::local::{LocalKms, Sealing};
use crate::kms::{
    Context, Generated, KeyAdmin, KeyRef, KeyService, KmsError, Rewrapped, Unwrapped, Verdict,
    Wrapped,
};
use crate::recovery::{Recipients, sample};
use crate::secret::Key;
use crate::store::{DataKeys, Names, Provider, Settings, Store};

const ALIAS: &str = "alias/test";

static KMS: LazyLock<Arc<LocalKms>> = LazyLock::new(|| {
    let kms = LocalKms::create_in(Sim::new().root(), &Sealing::Clear).expect("made");
    let key = kms.create("").expect("made");
    kms.set_alias(ALIAS, &KeyRef(key.id)).expect("set");
    Arc::new(kms)
});

static PER_FILE: LazyLock<Sim> = LazyLock::new(|| made(DataKeys::PerFile, None));
static BRANCH: LazyLock<Sim> = LazyLock::new(|| made(DataKeys::Branch, None));

fn made(data_keys: DataKeys, recovery: Option<Recipients>) -> Sim {
    let sim = Sim::new();
    let store = Store::init(sim.root()).expect("made");
    let mut settings = Settings::new(VolumeId([1; 16]), Names::Encrypted, data_keys);
    settings.recovery = recovery;
    let provider = Provider::Local { keystore: "/keystore".to_owned() };
    super::create(&store, &*kms(), provider, KeyRef(ALIAS.to_owned()), settings).expect("made");
    sim
}

/// The keystore of every keyring here.
pub(crate) fn kms() -> Arc<LocalKms> {
    KMS.clone()
}

/// A keyring without its threads, on a volume of its own, that asks `service`.
pub(crate) fn keyring(service: Arc<dyn KeyService>) -> Arc<Keyring> {
    keyring_over(&volume(), service)
}

/// An empty volume.
pub(crate) fn volume() -> Sim {
    PER_FILE.fork()
}

/// An empty volume whose data keys are wrapped by branch keys.
pub(crate) fn branch_volume() -> Sim {
    BRANCH.fork()
}

/// An empty volume that the sample's identity can recover.
pub(crate) fn recoverable_volume(data_keys: DataKeys) -> Sim {
    made(data_keys, Some(Recipients::new([sample::PUBLIC]).expect("one")))
}

/// A keyring without its threads, on this volume.
pub(crate) fn keyring_over(sim: &Sim, service: Arc<dyn KeyService>) -> Arc<Keyring> {
    opened(sim, service).1
}

/// As [`keyring_over`], with so many calls of the KMS a second.
pub(crate) fn keyring_with_rate(
    sim: &Sim,
    service: Arc<dyn KeyService>,
    rate: Option<NonZeroU32>,
) -> Arc<Keyring> {
    opened_with_rate(sim, service, rate).1
}

/// A keyring without its threads, on this volume, and the store that it is in.
pub(crate) fn opened(sim: &Sim, service: Arc<dyn KeyService>) -> (Arc<Store>, Arc<Keyring>) {
    opened_with_rate(sim, service, None)
}

fn opened_with_rate(
    sim: &Sim,
    service: Arc<dyn KeyService>,
    rate: Option<NonZeroU32>,
) -> (Arc<Store>, Arc<Keyring>) {
    let store = Arc::new(Store::open(sim.root()).expect("made above"));
    let (volume, names) =
        super::open(&store, &*kms(), &Trust::Authenticated).expect("the keystore's own");
    let limits = Limits {
        cache: NonZeroUsize::MIN.saturating_add(63),
        ttl: Duration::from_secs(900),
        rate,
        store_use: StoreUse::Writes { removed_keys: Duration::ZERO },
        patience: Duration::MAX,
    };
    let services = Services { work: service.clone(), beats: service };
    let keyring = Arc::new(Keyring::new(volume, names, store.clone(), services, limits));
    (store, keyring)
}

/// Closes the gate so far, as the monitor does.
pub(crate) fn close(keyring: &Keyring, phase: Phase) {
    keyring.close(phase);
}

/// The keystore, with something around each Decrypt: it is given the context and the call itself.
pub(crate) struct Around<F>(pub(crate) F);

impl<F> KeyService for Around<F>
where
    F: Fn(&Context, &dyn Fn() -> Result<Unwrapped, KmsError>) -> Result<Unwrapped, KmsError>
        + Send
        + Sync,
{
    fn generate(&self, key: &KeyRef, context: &Context) -> Result<Generated, KmsError> {
        kms().generate(key, context)
    }

    fn decrypt(
        &self,
        key: &KeyRef,
        wrapped: &Wrapped,
        context: &Context,
    ) -> Result<Unwrapped, KmsError> {
        (self.0)(context, &|| kms().decrypt(key, wrapped, context))
    }

    fn reencrypt(
        &self,
        wrapped: &Wrapped,
        from: (&KeyRef, &Context),
        to: (&KeyRef, &Context),
    ) -> Result<Rewrapped, KmsError> {
        kms().reencrypt(wrapped, from, to)
    }

    fn encrypt(&self, to: &KeyRef, plain: &Key, context: &Context) -> Result<Rewrapped, KmsError> {
        kms().encrypt(to, plain, context)
    }
}

/// A KMS that answers nothing else.
pub(crate) struct Says {
    pub(crate) verdict: Verdict,
    /// The code of its errors.
    pub(crate) code: &'static str,
    /// How many calls it takes side by side.
    pub(crate) calls: usize,
}

impl KeyService for Says {
    fn parallelism(&self) -> usize {
        self.calls
    }

    fn generate(&self, _: &KeyRef, _: &Context) -> Result<Generated, KmsError> {
        Err(KmsError::new(self.verdict, self.code, "why"))
    }

    fn decrypt(&self, _: &KeyRef, _: &Wrapped, _: &Context) -> Result<Unwrapped, KmsError> {
        Err(KmsError::new(self.verdict, self.code, "why"))
    }

    fn reencrypt(
        &self,
        _: &Wrapped,
        _: (&KeyRef, &Context),
        _: (&KeyRef, &Context),
    ) -> Result<Rewrapped, KmsError> {
        Err(KmsError::new(self.verdict, self.code, "why"))
    }

    fn encrypt(&self, _: &KeyRef, _: &Key, _: &Context) -> Result<Rewrapped, KmsError> {
        Err(KmsError::new(self.verdict, self.code, "why"))
    }
}
