//! The mount's figures, taken for monitoring.

use super::Control;
use crate::clock::Moment;
use crate::web::{Figures, Source};

impl Source for Control {
    /// They wait neither for the store nor for the KMS.
    fn figures(&self) -> Option<Figures> {
        let status = self.monitor.lock().as_ref()?.status();
        let (fs, now) = (&self.shared.fs, Moment::now());
        let (inodes, inodes_paged) = fs.table().counts();
        let counted = &self.shared.counted;
        Some(Figures {
            now,
            up: now.since(self.started),
            phase: status.phase,
            phases: status.phases.into(),
            beats: status.history.into(),
            beats_by_outcome: status.outcomes,
            beats_heard: status.heard,
            heartbeat: self.settings.timing.heartbeat,
            last_good: status.last_good,
            provider: fs.keyring().volume().provider().name(),
            transport: self.transport,
            kms_calls: self.calls.snapshot(),
            kms_times: self.calls.times(),
            keys: fs.keyring().counts(),
            requests: counted.times().collect(),
            failures: counted.failures().collect(),
            read: counted.read.total(),
            written: counted.written.total(),
            parked: self.shared.parked(),
            open_files: fs.room().taken(),
            inodes,
            inodes_paged,
            audit_lost: self.shared.audit_queue.as_ref().map(|queue| queue.lost()),
            unlocked_memory: crate::secret::lock_failures(),
            strangers: fs.strangers().folders,
        })
    }

    fn name(&self) -> String {
        self.settings.mountpoint.display().to_string()
    }
}
