//! What `status` is told of a mount.

use super::Control;
use crate::clock::{Moment, millis};
use crate::control::{self, LinesUnder, Report};
use crate::fs::Access;
use crate::keys::Accepted;
use crate::kms::KeyArn;
use crate::store::Counts;

impl Control {
    /// `None` before the monitor runs.
    pub(super) fn tell(&self) -> Option<Report> {
        let status = self.monitor.lock().as_ref()?.status();
        let keyring = self.shared.fs.keyring();
        let keys = keyring.counts();
        let (inodes, paged) = self.shared.fs.table().counts();
        let counts = self.counting.current(&self.store);
        let strangers = self.shared.fs.strangers();
        Some(Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: status.phase.word().to_owned(),
            volume: keyring.volume().id().to_string(),
            store: self.settings.store.display().to_string(),
            mountpoint: self.settings.mountpoint.display().to_string(),
            pid: std::process::id(),
            provider: keyring.volume().provider().name().to_owned(),
            key_asked: keyring.volume().asked().0,
            master_key: keyring.volume().master().0,
            key_target: keyring.volume().target().0,
            pinned_key: self.settings.master.as_ref().map(|key| key.0.clone()),
            replica_region: self.settings.replica_region.clone(),
            only_current_key: keyring.volume().accepted() == Accepted::Target,
            recovery: keyring.volume().settings().recipients(),
            read_only: self.settings.fs.access == Access::ReadOnly,
            lines_damaged: counts.as_ref().map(|c| c.damaged),
            lines: counts.map(|c| lines_under(&c)),
            heartbeat_ms: millis(self.settings.timing.heartbeat),
            last_good_ms: millis(status.last_good),
            beats: status.beats(),
            beats_failed: status.beats_failed(),
            beats_heard: self.settings.shared_beats.as_ref().map(|_| status.heard),
            last_error: status.last_error,
            up_ms: millis(Moment::now().since(self.started)),
            kms_calls: self.calls.snapshot(),
            keys_cached: keys.cached,
            keys_pooled: keys.pooled,
            keys_fetched: keys.fetched,
            transport: self.transport.to_owned(),
            inodes,
            inodes_paged: paged,
            audit: self.shared.audit_queue.as_ref().map(|audit_queue| control::Audit {
                log: audit_queue.path().display().to_string(),
                lost: audit_queue.lost(),
            }),
            parked: self.shared.parked(),
            metrics: self.web.map(|at| at.to_string()),
            unlocked_memory: crate::secret::lock_failures(),
            strangers: strangers.folders,
            stranger: (strangers.folders > 0).then(|| strangers.last.display().to_string()),
            device_warning: self.device.tearing.clone(),
        })
    }
}

fn lines_under(counts: &Counts) -> Vec<LinesUnder> {
    let under = |(key, lines): (Option<&KeyArn>, u64)| {
        let key = key.map_or_else(|| "branch keys that cannot be read".to_owned(), |k| k.0.clone());
        LinesUnder { key, lines }
    };
    let mut all: Vec<_> = counts.by_master().into_iter().map(under).collect();
    if counts.others > 0 {
        all.push(LinesUnder { key: "others".to_owned(), lines: counts.others });
    }
    all
}
