//! Wiring of the audit log.

use std::sync::Arc;

use super::{DaemonError, Settings};
use crate::control::Peer;
use crate::fs::{Errno, Fs, Reading};
use crate::keys::Services;
use crate::keys::audit::{AuditQueue, Audited, By, ClientRole, Log, Operation, Subject};
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
    audit_queue: Option<&Arc<AuditQueue>>,
) -> Services {
    let door = |service: Arc<dyn KeyService>, door| match audit_queue {
        Some(audit_queue) => Counted::new(Audited::new(service, audit_queue, door), calls),
        None => Counted::new(service, calls),
    };
    Services {
        work: door(services.work, ClientRole::Work),
        beats: door(services.beats, ClientRole::Beats),
    }
}

/// Tells what an operator asked for.
pub(super) fn order(audit_queue: Option<&Arc<AuditQueue>>, by: Peer, operation: Operation) {
    if let Some(audit_queue) = audit_queue {
        audit_queue.note(operator(by), operation);
    }
}

/// Tells what came of a shred.
pub(super) fn shredded(
    audit_queue: Option<&Arc<AuditQueue>>,
    by: Peer,
    (fs, ino): (&Fs, u64),
    outcome: Result<(), Errno>,
) {
    let Some(audit_queue) = audit_queue else { return };
    let subject =
        Subject { file: fs.known_file(ino, Reading::Store), path: fs.path(ino, Reading::Store) };
    let outcome = outcome.map_err(|e| (e.into(), e.name()));
    audit_queue.used(operator(by), Operation::Shred, subject, outcome);
}

fn operator(by: Peer) -> By {
    By::Operator { uid: by.uid, pid: by.pid }
}
