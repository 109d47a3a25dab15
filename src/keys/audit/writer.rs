//! The thread that writes the log.

use std::sync::Arc;
use std::time::Duration;

use super::entry::{By, Detail, LogEntry, Operation};
use super::file::LogFile;
use super::queue::AuditQueue;
use crate::secret::wipe;
use crate::threads::{Role, spawn};

/// How long entries gather before they are written: one write and one wake-up for many.
const GATHER: Duration = Duration::from_millis(5);

/// Starts it; it ends with the queue.
pub(super) fn start(audit_queue: Arc<AuditQueue>, file: LogFile) -> std::io::Result<()> {
    let writer = Writer { audit_queue, file, text: Vec::new(), failing: false };
    spawn(Role::Audit, move || writer.run()).map(drop)
}

struct Writer {
    audit_queue: Arc<AuditQueue>,
    file: LogFile,
    text: Vec<u8>,
    /// The last write failed, and the log of the daemon says so.
    failing: bool,
}

impl Writer {
    fn run(mut self) {
        while let Some(entries) = self.next() {
            self.write(&entries);
        }
        self.tell_lost();
        // The end of a line that found no room may find it now.
        self.text.clear();
        self.append();
        self.sync();
        self.audit_queue.queue.lock().ended = true;
        self.audit_queue.ended.notify_all();
    }

    /// Waits for entries; `None` when there will be no more.
    fn next(&self) -> Option<Vec<LogEntry>> {
        let mut queue = self.audit_queue.queue.lock();
        while queue.entries.is_empty() {
            if queue.stopping {
                return None;
            }
            self.audit_queue.work.wait(&mut queue);
        }
        if !queue.stopping {
            self.audit_queue.work.wait_for(&mut queue, GATHER);
        }
        Some(std::mem::take(&mut queue.entries))
    }

    fn write(&mut self, entries: &[LogEntry]) {
        self.tell_lost();
        self.text.clear();
        entries.iter().for_each(|entry| entry.add_to(&mut self.text));
        let lost = self.append();
        self.audit_queue.lose(lost);
        if entries.iter().any(LogEntry::is_kept) {
            self.sync();
        }
    }

    /// Tells in the log how many entries it lacks; where even that finds no room, the next time.
    fn tell_lost(&mut self) {
        let count = self.audit_queue.take_unreported();
        if count == 0 {
            return;
        }
        self.text.clear();
        let lost = self.audit_queue.entry(By::Daemon, Operation::Lost, Detail::Lost { count });
        lost.add_to(&mut self.text);
        if self.append() > 0 {
            self.audit_queue.restore_unreported(count);
        }
    }

    /// Appends the text and wipes it; answers how many lines were lost.
    fn append(&mut self) -> u64 {
        let done = self.file.append(&self.text);
        wipe(&mut self.text);
        let path = self.audit_queue.path().display();
        match done.error {
            Some(e) if !self.failing => {
                log::error!("{path}: the audit log cannot be written, entries are lost: {e}");
                self.failing = true;
            }
            None if self.failing => {
                log::warn!("{path}: the audit log is written again");
                self.failing = false;
            }
            _ => {}
        }
        done.lost
    }

    fn sync(&self) {
        if let Err(e) = self.file.sync() {
            log::warn!("{}: fdatasync: {e}", self.audit_queue.path().display());
        }
    }
}
