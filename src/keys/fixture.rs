//! A keyring over a store in memory, for the tests of this folder.

use std::num::NonZeroUsize;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::{Keyring, Limits, Services};
use crate::disk::sim::Sim;
use crate::ids::VolumeId;
use crate::kms::local::{LocalKms, Sealing};
use crate::kms::{KeyAdmin, KeyRef, KeyService};
use crate::store::{DataKeys, Names, Provider, Settings, Store};

static KMS: LazyLock<(Arc<LocalKms>, Sim)> = LazyLock::new(|| {
    let kms = LocalKms::create_in(Sim::new().root(), &Sealing::Clear).expect("made");
    let key = kms.create("").expect("made");
    let sim = Sim::new();
    let store = Store::init(sim.root()).expect("made");
    let settings = Settings::new(VolumeId([1; 16]), Names::Encrypted, DataKeys::PerFile);
    let provider = Provider::Local { keystore: "/keystore".to_owned() };
    super::create(&store, &kms, provider, KeyRef(key.id), settings).expect("made");
    (Arc::new(kms), sim)
});

/// The keystore of every keyring here.
pub(super) fn kms() -> Arc<LocalKms> {
    KMS.0.clone()
}

/// A keyring without its threads, on a volume of its own, that asks `service`.
pub(super) fn keyring(service: Arc<dyn KeyService>) -> Arc<Keyring> {
    keyring_over(&volume(), service)
}

/// An empty volume.
pub(super) fn volume() -> Sim {
    KMS.1.fork()
}

/// A keyring without its threads, on this volume.
pub(super) fn keyring_over(sim: &Sim, service: Arc<dyn KeyService>) -> Arc<Keyring> {
    let store = Arc::new(Store::open(sim.root()).expect("made above"));
    let (volume, names) = super::open(&store, &*kms()).expect("the keystore's own");
    let limits = Limits {
        cache: NonZeroUsize::MIN.saturating_add(63),
        ttl: Duration::from_secs(900),
        rate: None,
        patience: Duration::MAX,
    };
    let services = Services { work: service.clone(), beats: service };
    Arc::new(Keyring::new(volume, names, store, services, limits))
}
