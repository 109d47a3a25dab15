//! What requests and answers are made of, whatever they travel over.

use std::time::Duration;

use crate::disk::Counted;
use crate::fs::{OpenFor, Outcome, errno};

/// Only the mount changes the store, so what the kernel knows stays true.
pub(super) const TTL: Duration = Duration::from_secs(60);

/// Of open(2) as the kernel's FUSE takes it (`FOPEN_*` of linux/fuse.h).
const DIRECT_IO: u32 = 1 << 0;
const KEEP_CACHE: u32 = 1 << 1;
const NOFLUSH: u32 = 1 << 5;

/// How file content passes through the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageCache {
    /// Cached, writes go through at once.
    WriteThrough,
    /// Cached, writes wait in the kernel (`--writeback`).
    WriteBack,
    /// Not cached (`--direct-io`).
    Direct,
}

impl PageCache {
    /// `FOPEN_*` of a file that is opened so. The kernel tells nobody of what it reads from its
    /// cache: where each read counts, an open begins without.
    pub(super) fn open_flags(self, how: OpenFor, times: Counted) -> u32 {
        let flags = match (self, times) {
            (Self::Direct, _) => DIRECT_IO,
            (_, Counted::Always) => 0,
            (_, Counted::Relative | Counted::Never) => KEEP_CACHE,
        };
        if how == OpenFor::Reading { flags | NOFLUSH } else { flags }
    }
}

/// How a file is open: what its handle says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opened {
    pub(super) handle: u64,
    /// `FOPEN_*`.
    pub(super) flags: u32,
}

const READING: u64 = 0;
const WRITING: u64 = 1;

pub(super) fn handle(how: OpenFor) -> u64 {
    if how == OpenFor::Writing { WRITING } else { READING }
}

/// A handle that says whose it is, too.
pub(super) fn of_user(handle: u64, user: u32) -> u64 {
    u64::from(user) << 32 | handle
}

/// Who opened it.
pub(super) fn user_of(handle: u64) -> u32 {
    u32::try_from(handle >> 32).expect("half of its bits")
}

pub(super) fn opened_for(handle: u64) -> OpenFor {
    if handle & WRITING != 0 { OpenFor::Writing } else { OpenFor::Reading }
}

/// What getxattr(2) and listxattr(2) answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Attribute {
    /// How long it is, which is all that was asked.
    Size(u32),
    /// It.
    Bytes(Vec<u8>),
}

pub(super) fn attribute(bytes: Vec<u8>, room: u32) -> Outcome<Attribute> {
    if room == 0 {
        Ok(Attribute::Size(u32::try_from(bytes.len()).unwrap_or(u32::MAX)))
    } else if bytes.len() > room as usize {
        Err(errno(libc::ERANGE))
    } else {
        Ok(Attribute::Bytes(bytes))
    }
}
