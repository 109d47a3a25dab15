//! A request for a key that is not at hand: which one, why it may fail, and who waits.

use super::answers::Ticket;
use super::phase::Reason;
use crate::clock::Moment;
use crate::ids::FileId;

/// What a parked request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyRequest {
    /// The data key of a file.
    File(FileId),
    /// A data key for a file that has none yet.
    Fresh,
    /// A heartbeat, after the process was stopped or the machine slept.
    Beat,
}

/// Why there is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFail {
    /// It has to be fetched: park the request.
    #[error("the key has to be fetched")]
    NotCached(KeyRequest),
    /// The mount is draining or locked, or the KMS refuses this file's master key.
    #[error("the mount is locked ({0:?})")]
    Closed(Reason),
    /// The KMS could not be reached in time.
    #[error("the KMS could not be reached in time")]
    Late,
    /// The wrapped keys of new files could not be written: the errno of the backing filesystem.
    #[error("the store takes no wrapped keys: {}", std::io::Error::from_raw_os_error(*.0))]
    Disk(i32),
    /// This file's wrapped key is missing, damaged, or another volume's.
    #[error("the file's wrapped key is missing, damaged or rejected")]
    Rejected,
}

/// Who waits, and until when.
#[derive(Clone, Copy)]
pub(super) struct Waiter {
    pub(super) ticket: Ticket,
    pub(super) deadline: Moment,
}
