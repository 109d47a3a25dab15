//! The kernel's requests, by kind: how many, how long each took, and which failed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::counter::Counter;
use super::histogram::{Histogram, Times};

/// Defines an enum of unit variants with their names.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$note:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)] // Each is what its name says.
        pub enum $name { $($(#[$note])* $variant),+ }

        impl $name {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The value of the label that tells them apart.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}

named! {
    /// A kind of request, named as `enum fuse_opcode` of linux/fuse.h names it.
    RequestKind {
        Lookup = "lookup",
        Getattr = "getattr",
        Setattr = "setattr",
        Readlink = "readlink",
        Symlink = "symlink",
        Mknod = "mknod",
        Mkdir = "mkdir",
        Unlink = "unlink",
        Rmdir = "rmdir",
        Rename = "rename",
        Link = "link",
        Open = "open",
        Create = "create",
        Tmpfile = "tmpfile",
        Read = "read",
        Write = "write",
        Release = "release",
        Fsync = "fsync",
        Fallocate = "fallocate",
        Lseek = "lseek",
        CopyFileRange = "copy_file_range",
        Opendir = "opendir",
        Readdir = "readdir",
        Releasedir = "releasedir",
        Fsyncdir = "fsyncdir",
        Statfs = "statfs",
        Setxattr = "setxattr",
        Getxattr = "getxattr",
        Listxattr = "listxattr",
        Removexattr = "removexattr",
        /// Any that has no answer here.
        Other = "other",
    }
}

named! {
    /// An errno that says that something is wrong with the key, the store or the disk. Others,
    /// such as ENOENT, are answers like any other.
    Failure {
        NotAuthentic = "EBADMSG",
        KeyRevoked = "EKEYREVOKED",
        KeyExpired = "EKEYEXPIRED",
        KeyRejected = "EKEYREJECTED",
        NoKey = "ENOKEY",
        Io = "EIO",
        NoSpace = "ENOSPC",
        OverQuota = "EDQUOT",
        ReadOnly = "EROFS",
    }
}

impl Failure {
    /// What an errno says, if it is one of these.
    pub fn of(errno: i32) -> Option<Self> {
        Some(match errno {
            libc::EBADMSG => Self::NotAuthentic,
            libc::EKEYREVOKED => Self::KeyRevoked,
            libc::EKEYEXPIRED => Self::KeyExpired,
            libc::EKEYREJECTED => Self::KeyRejected,
            libc::ENOKEY => Self::NoKey,
            libc::EIO => Self::Io,
            libc::ENOSPC => Self::NoSpace,
            libc::EDQUOT => Self::OverQuota,
            libc::EROFS => Self::ReadOnly,
            _ => return None,
        })
    }
}

#[derive(Debug, Default)]
struct OfKind {
    times: Histogram,
    failures: [AtomicU64; Failure::ALL.len()],
}

/// All requests of a mount.
#[derive(Debug)]
pub struct Requests {
    kinds: Box<[OfKind]>,
    /// Content that programs, and the kernel for them, were given: bytes.
    pub read: Counter,
    /// Content that was taken: bytes.
    pub written: Counter,
}

impl Default for Requests {
    fn default() -> Self {
        let kinds = RequestKind::ALL.iter().map(|_| OfKind::default()).collect();
        Self { kinds, read: Counter::default(), written: Counter::default() }
    }
}

/// How long the requests of a kind took, from their arrival to the reply.
pub type TimesOf = (RequestKind, Times);

/// How many requests of a kind failed so.
pub type FailuresOf = (RequestKind, Failure, u64);

impl Requests {
    /// A request was answered.
    pub fn answered(&self, kind: RequestKind, took: Duration) {
        self.kinds[kind as usize].times.record(took);
    }

    /// A request was answered with an errno.
    pub fn failed(&self, kind: RequestKind, errno: i32) {
        if let Some(failure) = Failure::of(errno) {
            self.kinds[kind as usize].failures[failure as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The kinds of which there were any.
    pub fn times(&self) -> impl Iterator<Item = TimesOf> + '_ {
        let all =
            RequestKind::ALL.iter().zip(&self.kinds).map(|(kind, of)| (*kind, of.times.times()));
        all.filter(|(_, times)| times.count() > 0)
    }

    /// The failures of which there were any.
    pub fn failures(&self) -> impl Iterator<Item = FailuresOf> + '_ {
        let of_kind = |(kind, of): (&RequestKind, &'_ OfKind)| {
            let counts = of.failures.each_ref().map(|n| n.load(Ordering::Relaxed));
            let kind = *kind;
            Failure::ALL.iter().zip(counts).map(move |(failure, n)| (kind, *failure, n))
        };
        let all = RequestKind::ALL.iter().zip(&self.kinds).flat_map(of_kind);
        all.filter(|(.., n)| *n > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_kind_and_failures_by_errno() {
        let requests = Requests::default();
        requests.answered(RequestKind::Removexattr, Duration::from_millis(2));
        requests.answered(RequestKind::Read, Duration::from_millis(2));
        requests.failed(RequestKind::Read, libc::EBADMSG);
        requests.failed(RequestKind::Lookup, libc::ENOENT);
        let counts: Vec<_> = requests.times().map(|(kind, times)| (kind, times.count())).collect();
        assert_eq!(counts, [(RequestKind::Read, 1), (RequestKind::Removexattr, 1)]);
        let failures: Vec<_> = requests.failures().collect();
        assert_eq!(failures, [(RequestKind::Read, Failure::NotAuthentic, 1)]);
    }

    #[test]
    fn every_failure_is_known_by_the_errno_of_its_name() {
        let codes = (1..200).filter_map(|code| Some((code, Failure::of(code)?)));
        let mut found: Vec<_> = codes.map(|(_, failure)| failure.name()).collect();
        let mut all: Vec<_> = Failure::ALL.iter().map(|failure| failure.name()).collect();
        found.sort_unstable();
        all.sort_unstable();
        assert_eq!(found, all);
    }
}
