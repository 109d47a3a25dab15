//! Wiring of the audit log.

use std::sync::Arc;

use super::{DaemonError, Settings};
use crate::control::Peer;
use crate::fs::{Errno, Fs, Reading};
use crate::keys::Services;
use crate::keys::audit::{Audited, By, Door, Log, Operation, Subject, Trail};
use crate::kms::{Counted, Counters, KeyService};
use crate::store::Store;

/// The log that the settings name, opened.
pub(super) fn open(settings: &Settings, store: &Store) -> Result<Option<Log>, DaemonError> {
    let Some(path) = &settings.audit_log else { return Ok(None) };
    let volume = store.read_volume()?.settings.volume();
    let (store, at) = (settings.store.as_path(), settings.mountpoint.as_path());
    Ok(Some(Log::open(path, &[("the store", store), ("the mountpoint", at)], volume)?))
}

/// The KMS with its calls counted, and told to the log where there is one.
pub(super) fn observed(
    services: Services,
    calls: &Arc<Counters>,
    trail: Option<&Arc<Trail>>,
) -> Services {
    let door = |service: Arc<dyn KeyService>, door| match trail {
        Some(trail) => Counted::new(Audited::new(service, trail, door), calls),
        None => Counted::new(service, calls),
    };
    Services { work: door(services.work, Door::Work), beats: door(services.beats, Door::Beats) }
}

/// Tells what an operator asked for.
pub(super) fn order(trail: Option<&Arc<Trail>>, by: Peer, operation: Operation) {
    if let Some(trail) = trail {
        trail.note(operator(by), operation);
    }
}

/// Tells what came of a shred.
pub(super) fn shredded(
    trail: Option<&Arc<Trail>>,
    by: Peer,
    (fs, ino): (&Fs, u64),
    outcome: Result<(), Errno>,
) {
    let Some(trail) = trail else { return };
    let subject =
        Subject { file: fs.known_file(ino, Reading::Store), path: fs.path(ino, Reading::Store) };
    let outcome = outcome.map_err(|e| (e.into(), e.name()));
    trail.used(operator(by), Operation::Shred, subject, outcome);
}

fn operator(by: Peer) -> By {
    By::Operator { uid: by.uid, pid: by.pid }
}
