//! The queue between those who use keys and the thread that writes the log.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::{Condvar, Mutex};

use super::entry::{By, Detail, LogEntry, Operation, Verdict};
use super::file::{LogError, LogFile};
use super::origins::Origins;
use super::writer;
use crate::clock::Moment;
use crate::ids::{FileId, VolumeId};
use crate::kms::KmsError;

/// Entries that wait for the writer, at most; more are lost, and counted.
const MOST_QUEUED: usize = 4096;
/// How long the end waits for a disk that hangs.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct Queue {
    pub(super) entries: Vec<LogEntry>,
    pub(super) stopping: bool,
    /// The writer has written everything and is gone.
    pub(super) ended: bool,
}

/// What uses of keys are told to. Telling it never waits for the log's disk.
pub struct AuditQueue {
    volume: VolumeId,
    path: PathBuf,
    pub(super) queue: Mutex<Queue>,
    /// There is something to write, or the end has come.
    pub(super) work: Condvar,
    pub(super) ended: Condvar,
    /// Since the beginning.
    lost: AtomicU64,
    /// Those that the log does not tell of yet.
    unreported: AtomicU64,
    pub(super) origins: Origins,
}

/// Which file's key was used.
#[derive(Clone)]
pub struct Subject {
    /// The file's id, where it is known.
    pub file: Option<FileId>,
    /// Its path from the mount's root, where the names' keys were at hand.
    pub path: Option<Vec<u8>>,
}

impl AuditQueue {
    fn new(path: &Path, volume: VolumeId) -> Self {
        Self {
            volume,
            path: path.to_owned(),
            queue: Mutex::new(Queue::default()),
            work: Condvar::new(),
            ended: Condvar::new(),
            lost: AtomicU64::new(0),
            unreported: AtomicU64::new(0),
            origins: Origins::default(),
        }
    }

    /// The log's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many entries could not be written so far.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// An entry that says no more than who did it.
    pub fn note(&self, by: By, operation: Operation) {
        self.put(by, operation, Detail::Nothing {});
    }

    /// A use of a file's key; `errno` is the name of what it failed with.
    pub fn used(
        &self,
        by: By,
        operation: Operation,
        subject: Subject,
        outcome: Result<(), (Verdict, String)>,
    ) {
        let Subject { file, path } = subject;
        let (branch, key) = file.map_or((None, None), |file| self.origins.of(file));
        let (path, path_hex) = match path.map(String::from_utf8) {
            None => (None, None),
            Some(Ok(path)) => (Some(path), None),
            Some(Err(e)) => {
                let hex = data_encoding::HEXLOWER.encode(e.as_bytes());
                (Some(String::from_utf8_lossy(e.as_bytes()).into_owned()), Some(hex))
            }
        };
        let (outcome, errno) = match outcome {
            Ok(()) => (Verdict::Ok, None),
            Err((verdict, errno)) => (verdict, Some(errno)),
        };
        self.put(by, operation, Detail::Use { file, path, path_hex, branch, key, outcome, errno });
    }

    /// A change of the mount's state, and what the KMS said.
    pub fn state(&self, state: &'static str, why: Option<&KmsError>) {
        let code = why.map(|e| e.code.clone());
        self.put(By::Daemon, Operation::State, Detail::State { state, code });
    }

    pub(super) fn put(&self, by: By, operation: Operation, detail: Detail) {
        let mut queue = self.queue.lock();
        if queue.entries.len() >= MOST_QUEUED || queue.ended {
            drop(queue);
            return self.lose(1);
        }
        queue.entries.push(self.entry(by, operation, detail));
        // One that comes while others wait is taken along with them.
        if queue.entries.len() == 1 {
            self.work.notify_one();
        }
    }

    pub(super) fn entry(&self, by: By, operation: Operation, detail: Detail) -> LogEntry {
        LogEntry { time: SystemTime::now(), operation, volume: self.volume, by, detail }
    }

    pub(super) fn lose(&self, count: u64) {
        self.lost.fetch_add(count, Ordering::Relaxed);
        self.unreported.fetch_add(count, Ordering::Relaxed);
    }

    /// How many entries were lost since this was last asked.
    pub(super) fn take_unreported(&self) -> u64 {
        self.unreported.swap(0, Ordering::Relaxed)
    }

    /// Takes back that the log told of them.
    pub(super) fn restore_unreported(&self, count: u64) {
        self.unreported.fetch_add(count, Ordering::Relaxed);
    }
}

/// The open log of a mount. Dropping it writes what is queued.
pub struct Log(Arc<AuditQueue>);

impl Log {
    /// Opens the log at `path`, and starts its writer. It must not lie in one of the folders
    /// `apart`, each with what it is.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn open(
        path: &Path,
        apart: &[(&'static str, &Path)],
        volume: VolumeId,
    ) -> Result<Self, LogError> {
        let file = LogFile::open(path, apart)?;
        let audit_queue = Arc::new(AuditQueue::new(path, volume));
        writer::start(audit_queue.clone(), file)
            .map_err(|e| LogError { path: path.to_owned(), why: e.into() })?;
        Ok(Self(audit_queue))
    }

    /// What to tell it through.
    pub fn audit_queue(&self) -> &Arc<AuditQueue> {
        &self.0
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        queue.stopping = true;
        self.0.work.notify_one();
        let end = Moment::now() + PATIENCE;
        while !queue.ended {
            let left = end.since(Moment::now());
            if left.is_zero() {
                log::error!("{}: the disk of the audit log does not answer", self.0.path.display());
                return;
            }
            self.0.ended.wait_for(&mut queue, left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::BranchId;
    use crate::kms::KeyArn;

    fn lines(path: &Path) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(path).expect("readable");
        text.lines().map(|line| serde_json::from_str(line).expect("whole lines of JSON")).collect()
    }

    /// More than the queue takes while the writer is held up: the rest is counted, and the count
    /// is in the log before what did find room.
    #[test]
    fn what_finds_no_room_is_counted_and_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let file = LogFile::open(&path, &[]).expect("opened");
        let audit_queue = Arc::new(AuditQueue::new(&path, VolumeId([1; 16])));
        for _ in 0..MOST_QUEUED + 3 {
            audit_queue.note(By::Daemon, Operation::Mount);
        }
        assert_eq!(audit_queue.lost(), 3);
        writer::start(audit_queue.clone(), file).expect("a thread");
        drop(Log(audit_queue.clone()));
        let lines = lines(&path);
        assert_eq!(lines.len(), MOST_QUEUED + 1);
        assert_eq!((&lines[0]["operation"], &lines[0]["count"]), (&"lost".into(), &3.into()));
        audit_queue.note(By::Daemon, Operation::Mount);
        assert_eq!(audit_queue.lost(), 4, "the log has ended");
    }

    #[test]
    fn a_use_names_the_master_key_that_the_kms_answered() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let log = Log::open(&path, &[], VolumeId([1; 16])).expect("opened");
        let file = FileId([7; 16]);
        let (branched, branch) = (FileId([9; 16]), BranchId([3; 16]));
        let master = KeyArn("arn:x:key/1".to_owned());
        log.audit_queue().origins.file_under(file, &master);
        log.audit_queue().origins.file_by(branched, branch);
        log.audit_queue().origins.branch_under(branch, &master);
        let by = By::Program { uid: 1, pid: 2 };
        for (file, path) in [
            (file, b"/caf\xc3\xa9".to_vec()),
            (FileId([8; 16]), b"/\xff".to_vec()),
            (branched, b"/b".to_vec()),
        ] {
            let subject = Subject { file: Some(file), path: Some(path) };
            log.audit_queue().used(by, Operation::Open, subject, Ok(()));
        }
        drop(log);
        let lines = lines(&path);
        assert_eq!((&lines[0]["key"], &lines[0]["path"]), (&"arn:x:key/1".into(), &"/café".into()));
        assert_eq!(lines[0].get("path_hex"), None);
        assert!(lines[1]["key"].is_null());
        let path = (&lines[1]["path"], &lines[1]["path_hex"]);
        assert_eq!(path, (&"/\u{fffd}".into(), &"2fff".into()));
        let key = (&lines[2]["branch"], &lines[2]["key"]);
        assert_eq!(key, (&branch.to_string().into(), &"arn:x:key/1".into()));
    }
}
