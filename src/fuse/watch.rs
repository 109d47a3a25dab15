//! What the audit log is told of requests.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use super::job::Shared;
use super::terms::Who;
use crate::fs::Errno;
use crate::keys::audit::{By, Operation, Subject, Trail};
use crate::secret::scrub_stack;

/// What a request is about.
enum Target {
    Inode(u64),
    Entry(u64, OsString),
}

/// A request that the log may have to be told of, with who asked.
pub(super) struct Watch {
    shared: Arc<Shared>,
    trail: Arc<Trail>,
    operation: Operation,
    by: By,
    target: Target,
}

impl Shared {
    /// Watches a request about an inode; `None` where there is no log.
    pub(super) fn watch(
        self: &Arc<Self>,
        who: Who,
        operation: Operation,
        ino: u64,
    ) -> Option<Watch> {
        let trail = self.trail.as_ref()?;
        Some(self.watched(trail, who, operation, Target::Inode(ino)))
    }

    /// Watches a request about a name.
    pub(super) fn watch_entry(
        self: &Arc<Self>,
        who: Who,
        operation: Operation,
        (parent, name): (u64, &OsStr),
    ) -> Option<Watch> {
        let trail = self.trail.as_ref()?;
        Some(self.watched(trail, who, operation, Target::Entry(parent, name.to_owned())))
    }

    /// Watches a change of content that may give a file its key; `None` where it has one.
    pub(super) fn watch_write(self: &Arc<Self>, who: Who, ino: u64) -> Option<Watch> {
        let trail = self.trail.as_ref()?;
        match self.fs.known_file(ino) {
            Some(_) => None,
            None => Some(self.watched(trail, who, Operation::Write, Target::Inode(ino))),
        }
    }

    fn watched(
        self: &Arc<Self>,
        trail: &Arc<Trail>,
        who: Who,
        operation: Operation,
        target: Target,
    ) -> Watch {
        let by = By::Program { uid: who.uid, pid: who.pid };
        Watch { shared: self.clone(), trail: trail.clone(), operation, by, target }
    }
}

impl Watch {
    /// Tells the log, if a key was used or wanted for it. To be called before the reply, which
    /// lets the program rename what it asked about.
    pub(super) fn tell(&self, outcome: Result<(), Errno>) {
        let fs = &self.shared.fs;
        let file = match &self.target {
            Target::Inode(ino) => fs.known_file(*ino),
            Target::Entry(..) => None,
        };
        let used = match outcome {
            Ok(()) => file.is_some() || self.operation == Operation::Create,
            Err(e) => is_of_a_key(e),
        };
        if !used {
            return;
        }
        let path = match &self.target {
            Target::Inode(ino) => fs.path(*ino),
            Target::Entry(parent, name) => fs.path_in(*parent, name),
        };
        scrub_stack();
        let outcome = outcome.map_err(|e| (e.into(), e.name()));
        self.trail.used(self.by, self.operation, Subject { file, path }, outcome);
    }
}

/// Whether it says that a key was not to be had, or that content or name is not what it was
/// made under.
fn is_of_a_key(errno: Errno) -> bool {
    let all =
        [libc::EKEYREVOKED, libc::ENOKEY, libc::EKEYEXPIRED, libc::EKEYREJECTED, libc::EBADMSG];
    all.contains(&errno.0)
}
