//! What the audit log is told of requests.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use super::shared::Shared;
use crate::fs::{Errno, Reading, Who};
use crate::ids::FileId;
use crate::keys::audit::{AuditQueue, By, Operation, Subject};
use crate::secret::scrub_stack;

/// What a request is about.
enum Target {
    Inode(u64),
    Entry(u64, OsString),
}

/// A request that the log may have to be told of, with who asked.
pub(super) struct Watch {
    shared: Arc<Shared>,
    audit_queue: Arc<AuditQueue>,
    operation: Operation,
    by: By,
    target: Target,
    /// What was gathered of it while the store could be waited for.
    gathered: Option<Subject>,
}

impl Shared {
    /// Watches a request about an inode; `None` where there is no log.
    pub(super) fn watch(
        self: &Arc<Self>,
        who: Who,
        operation: Operation,
        ino: u64,
    ) -> Option<Watch> {
        let audit_queue = self.audit_queue.as_ref()?;
        Some(self.watched(audit_queue, who, operation, Target::Inode(ino)))
    }

    /// Watches a request about a name.
    pub(super) fn watch_entry(
        self: &Arc<Self>,
        who: Who,
        operation: Operation,
        (parent, name): (u64, &OsStr),
    ) -> Option<Watch> {
        let audit_queue = self.audit_queue.as_ref()?;
        Some(self.watched(audit_queue, who, operation, Target::Entry(parent, name.to_owned())))
    }

    /// Watches a change of content that may give a file its key; `None` where it has one.
    pub(super) fn watch_write(self: &Arc<Self>, who: Who, ino: u64) -> Option<Watch> {
        let audit_queue = self.audit_queue.as_ref()?;
        match self.fs.known_file(ino, Reading::Store) {
            Some(_) => None,
            None => Some(self.watched(audit_queue, who, Operation::Write, Target::Inode(ino))),
        }
    }

    fn watched(
        self: &Arc<Self>,
        audit_queue: &Arc<AuditQueue>,
        who: Who,
        operation: Operation,
        target: Target,
    ) -> Watch {
        let by = By::Program { uid: who.uid, pid: who.pid };
        Watch {
            shared: self.clone(),
            audit_queue: audit_queue.clone(),
            operation,
            by,
            target,
            gathered: None,
        }
    }
}

impl Watch {
    /// Gathers what a refusal is told with. It may wait for the store.
    pub(super) fn gather(&mut self) {
        if self.gathered.is_none() {
            self.gathered = Some(self.subject(Reading::Store));
        }
    }

    /// The same, if this errno is one that the log is told of.
    pub(super) fn gather_for(&mut self, errno: Errno) {
        if is_of_a_key(errno) {
            self.gather();
        }
    }

    /// Tells the log, if a key was used or wanted for it. To be called before the reply, which
    /// lets the program rename what it asked about. A refusal is told with what was gathered, or
    /// with what memory holds: it may come from a thread that must not wait.
    pub(super) fn tell(&self, outcome: Result<(), Errno>) {
        let subject = match (outcome, &self.gathered) {
            (Err(errno), _) if !is_of_a_key(errno) => return,
            (Err(_), Some(gathered)) => gathered.clone(),
            (Err(_), None) => self.subject(Reading::Memory),
            (Ok(()), _) => {
                let file = self.file(Reading::Store);
                if file.is_none() && self.operation != Operation::Create {
                    return;
                }
                Subject { file, path: self.path(Reading::Store) }
            }
        };
        scrub_stack();
        let outcome = outcome.map_err(|e| (e.into(), e.name()));
        self.audit_queue.used(self.by, self.operation, subject, outcome);
    }

    fn subject(&self, reading: Reading) -> Subject {
        Subject { file: self.file(reading), path: self.path(reading) }
    }

    fn file(&self, reading: Reading) -> Option<FileId> {
        match &self.target {
            Target::Inode(ino) => self.shared.fs.known_file(*ino, reading),
            Target::Entry(..) => None,
        }
    }

    fn path(&self, reading: Reading) -> Option<Vec<u8>> {
        match &self.target {
            Target::Inode(ino) => self.shared.fs.path(*ino, reading),
            Target::Entry(parent, name) => self.shared.fs.path_in(*parent, name, reading),
        }
    }
}

/// Whether it says that a key was not to be had, or that content or name is not what it was
/// made under.
fn is_of_a_key(errno: Errno) -> bool {
    let all =
        [libc::EKEYREVOKED, libc::ENOKEY, libc::EKEYEXPIRED, libc::EKEYREJECTED, libc::EBADMSG];
    all.contains(&errno.0)
}
