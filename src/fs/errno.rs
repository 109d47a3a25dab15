//! The one table from what went wrong to the errno that an application sees.

use std::io;

use crate::content::Unauthentic;
use crate::keys::audit::Verdict;
use crate::keys::{KeyFail, KeyRequest, Reason};

/// An errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

/// Why an operation did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fail {
    /// Nothing was done, for a key has to be fetched first: run it again when it is there.
    Park(KeyRequest),
    /// A piece was done and there is more to do: run it again. Its progress lies in the operation
    /// that is run. No lock is held meanwhile, and the gate is passed anew.
    Unfinished,
    /// It failed.
    Errno(Errno),
}

impl Fail {
    /// What a program is answered where the operation is not run again: EIO for what should be.
    pub fn errno(self) -> Errno {
        match self {
            Self::Errno(errno) => errno,
            Self::Park(_) | Self::Unfinished => Errno(libc::EIO),
        }
    }
}

/// The result of an operation.
pub type Outcome<T> = Result<T, Fail>;

/// A failure with this errno.
pub fn errno(code: i32) -> Fail {
    Fail::Errno(Errno(code))
}

/// Those that a mount answers with, by their names in errno(3).
const NAMES: &[(i32, &str)] = &[
    (libc::EPERM, "EPERM"),
    (libc::ENOENT, "ENOENT"),
    (libc::EIO, "EIO"),
    (libc::EACCES, "EACCES"),
    (libc::EEXIST, "EEXIST"),
    (libc::EINVAL, "EINVAL"),
    (libc::EFBIG, "EFBIG"),
    (libc::ENOSPC, "ENOSPC"),
    (libc::EROFS, "EROFS"),
    (libc::EDQUOT, "EDQUOT"),
    (libc::EBADMSG, "EBADMSG"),
    (libc::ESTALE, "ESTALE"),
    (libc::ENOKEY, "ENOKEY"),
    (libc::EKEYEXPIRED, "EKEYEXPIRED"),
    (libc::EKEYREVOKED, "EKEYREVOKED"),
    (libc::EKEYREJECTED, "EKEYREJECTED"),
];

impl Errno {
    /// Its name, or its number where the name is not known here.
    pub fn name(self) -> String {
        let known = NAMES.iter().find(|(code, _)| *code == self.0);
        known.map_or_else(|| self.0.to_string(), |(_, name)| (*name).to_owned())
    }
}

impl From<Errno> for Verdict {
    fn from(errno: Errno) -> Self {
        match errno.0 {
            libc::EKEYREVOKED | libc::ENOKEY => Self::Refused,
            libc::EKEYEXPIRED => Self::Unavailable,
            libc::EKEYREJECTED => Self::Rejected,
            _ => Self::Failed,
        }
    }
}

impl From<Reason> for Errno {
    fn from(reason: Reason) -> Self {
        Self(match reason {
            Reason::Refused => libc::EKEYREVOKED,
            Reason::Unreachable => libc::EKEYEXPIRED,
            Reason::Operator => libc::ENOKEY,
        })
    }
}

impl From<KeyFail> for Fail {
    fn from(fail: KeyFail) -> Self {
        match fail {
            KeyFail::NotCached(want) => Self::Park(want),
            KeyFail::Closed(reason) => Self::Errno(reason.into()),
            KeyFail::Late => errno(libc::EKEYEXPIRED),
            KeyFail::Disk(code) => errno(code),
            KeyFail::Rejected => errno(libc::EKEYREJECTED),
        }
    }
}

impl From<io::Error> for Fail {
    fn from(e: io::Error) -> Self {
        // An error without an errno comes from our own checks: the store is not what it was.
        errno(e.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl From<Unauthentic> for Fail {
    fn from(_: Unauthentic) -> Self {
        errno(libc::EBADMSG)
    }
}
