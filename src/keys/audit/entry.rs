//! One line of the log.

use std::fmt::Display;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Serialize, Serializer};

use crate::clock::rfc3339;
use crate::escape::escape;
use crate::ids::{BranchId, FileId, VolumeId};
use crate::kms;

/// What was done. Calls of the KMS have the names of its API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// A fresh data key.
    #[serde(rename = "GenerateDataKey")]
    GenerateDataKey,
    /// A wrapped key unwrapped.
    #[serde(rename = "Decrypt")]
    Decrypt,
    /// A key of another KMS wrapped.
    #[serde(rename = "Encrypt")]
    Encrypt,
    /// A wrapped key put under another master key.
    #[serde(rename = "ReEncrypt")]
    ReEncrypt,
    /// A name looked up; told only where that is refused: the program gets no further.
    Lookup,
    /// A file that has a key opened.
    Open,
    /// A file made and opened; it has no key yet.
    Create,
    /// The write, or the allocation, that gives a file its key.
    Write,
    /// The size of a file that has a key set.
    Truncate,
    /// A file's wrapped key removed.
    Shred,
    /// An operator's lock.
    Lock,
    /// Its end.
    Unlock,
    /// A rewrapped `volume.json` taken over, as a rewrap asks.
    Rewrap,
    /// A change of the mount's state.
    State,
    /// The mount answers.
    Mount,
    /// The mount has ended.
    Unmount,
    /// Entries that could not be written.
    Lost,
}

/// On whose behalf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "by", rename_all = "lowercase")]
pub enum By {
    /// The daemon's own: keys made and fetched ahead of use, or for several who wait; heartbeats.
    Daemon,
    /// A program that works on the mount.
    Program {
        /// Its user id for files.
        uid: u32,
        /// The thread's id, which is the process's where it has one thread; 0 for the kernel.
        pid: u32,
    },
    /// Whoever asked at the control socket.
    Operator {
        /// The user id.
        uid: u32,
        /// The process id.
        pid: u32,
    },
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It was done.
    Ok,
    /// The KMS refuses the master key, or an operator has locked the mount.
    Refused,
    /// No answer of the KMS that counts.
    Unavailable,
    /// This wrapped key, or the request itself, was refused.
    Rejected,
    /// Anything else.
    Failed,
}

impl From<kms::Verdict> for Verdict {
    fn from(verdict: kms::Verdict) -> Self {
        match verdict {
            kms::Verdict::Refused => Self::Refused,
            verdict if verdict.is_inconclusive() => Self::Unavailable,
            _ => Self::Rejected,
        }
    }
}

/// What a line says beyond who did what when.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Detail {
    /// A call of the KMS.
    Call {
        /// What the key is for: file, volume, canary, branch or heartbeat.
        purpose: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        file: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        branch: Option<String>,
        /// What the wrapped key was under before a ReEncrypt.
        #[serde(skip_serializing_if = "Option::is_none")]
        from: Option<String>,
        key: String,
        outcome: Verdict,
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<String>,
    },
    /// A use of a file's key.
    Use {
        #[serde(serialize_with = "shown")]
        file: Option<FileId>,
        path: Option<String>,
        /// The bytes of a path that is not UTF-8, in hex.
        #[serde(skip_serializing_if = "Option::is_none")]
        path_hex: Option<String>,
        /// The branch key that the file's key is wrapped by, where one is.
        #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shown")]
        branch: Option<BranchId>,
        #[serde(serialize_with = "shown")]
        key: Option<Arc<str>>,
        outcome: Verdict,
        #[serde(skip_serializing_if = "Option::is_none")]
        errno: Option<String>,
    },
    /// Where the mount stands.
    State {
        state: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<String>,
    },
    /// How many entries were lost.
    Lost { count: u64 },
    /// Nothing more.
    Nothing {},
}

/// One line. It holds no key and no content, but paths in clear: it has no `Debug`.
#[derive(Serialize)]
pub(super) struct LogEntry {
    #[serde(serialize_with = "time")]
    pub(super) time: SystemTime,
    pub(super) operation: Operation,
    #[serde(serialize_with = "shown_id")]
    pub(super) volume: VolumeId,
    #[serde(flatten)]
    pub(super) by: By,
    #[serde(flatten)]
    pub(super) detail: Detail,
}

impl LogEntry {
    /// Whether it must survive a power cut: what comes after it may be long in coming.
    pub(super) fn is_kept(&self) -> bool {
        matches!(self.operation, Operation::State | Operation::Shred | Operation::Unmount)
    }

    /// Adds it to `text`, with its newline.
    pub(super) fn add_to(&self, text: &mut Vec<u8>) {
        let line = serde_json::to_string(self).expect("strings and numbers have a JSON form");
        // JSON leaves some controls (U+009B, U+202E) as they are.
        text.extend_from_slice(escape(&line).as_bytes());
        text.push(b'\n');
    }
}

fn time<S: Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&rfc3339(*time))
}

fn shown_id<S: Serializer>(id: &impl Display, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(id)
}

fn shown<S: Serializer>(what: &Option<impl Display>, to: S) -> Result<S::Ok, S::Error> {
    match what {
        Some(what) => to.collect_str(what),
        None => to.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(by: By, operation: Operation, detail: Detail) -> String {
        let time = SystemTime::UNIX_EPOCH;
        let mut text = Vec::new();
        LogEntry { time, operation, volume: VolumeId([1; 16]), by, detail }.add_to(&mut text);
        String::from_utf8(text).expect("JSON")
    }

    #[test]
    fn a_line_says_who_did_what_and_what_came_of_it() {
        let detail = Detail::Use {
            file: None,
            path: Some("/a\n\"b".to_owned()),
            path_hex: None,
            branch: None,
            key: None,
            outcome: Verdict::Refused,
            errno: Some("EKEYREVOKED".to_owned()),
        };
        let by = By::Program { uid: 7, pid: 8 };
        let wanted = "{\"time\":\"1970-01-01T00:00:00.000Z\",\"operation\":\"lookup\",\
             \"volume\":\"01010101010101010101010101010101\",\"by\":\"program\",\"uid\":7,\"pid\":8,\
             \"file\":null,\"path\":\"/a\\n\\\"b\",\"key\":null,\"outcome\":\"refused\",\
             \"errno\":\"EKEYREVOKED\"}\n";
        assert_eq!(line(by, Operation::Lookup, detail), wanted);
        let lost = line(By::Daemon, Operation::Lost, Detail::Lost { count: 3 });
        assert!(lost.ends_with("\"by\":\"daemon\",\"count\":3}\n"), "{lost}");
        let nothing = line(By::Daemon, Operation::GenerateDataKey, Detail::Nothing {});
        assert!(nothing.contains("\"operation\":\"GenerateDataKey\""), "{nothing}");
        assert!(nothing.ends_with("\"by\":\"daemon\"}\n"), "{nothing}");
    }
}
