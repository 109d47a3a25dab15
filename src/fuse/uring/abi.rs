//! The kernel's FUSE structures (linux/fuse.h, protocol 7.42) as they lie in a ring entry: taken
//! apart and put together byte by byte, in the machine's own order.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::disk::{FileKind, FsStat, Time};
use crate::fs::{Attr, Change, Errno, Found, Listed, SetTime, Who};
use crate::fuse::convert;
use crate::fuse::terms::{Opened, TTL};

/// `struct fuse_uring_req_header`: the request's or reply's own header, what the operation has
/// besides, and what the ring has to know.
pub(super) const HEADERS: usize = 288;
const OP: usize = 128;
pub(super) const COMMIT_ID: usize = 264;
/// No request has it: the kernel counts from 2.
pub(super) const NO_COMMIT_ID: u64 = 0;
const PAYLOAD: usize = 272;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    if let Some(found) = bytes.get(at..at + 4) {
        word.copy_from_slice(found);
    }
    u32::from_ne_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    if let Some(found) = bytes.get(at..at + 8) {
        word.copy_from_slice(found);
    }
    u64::from_ne_bytes(word)
}

fn i32_at(bytes: &[u8], at: usize) -> i32 {
    u32_at(bytes, at).cast_signed()
}

/// The number of a request, which its reply repeats.
pub(super) fn unique(headers: &[u8; HEADERS]) -> u64 {
    u64_at(headers, 8)
}

/// What the command that commits the reply to a request has to name.
pub(super) fn commit_id(headers: &[u8; HEADERS]) -> u64 {
    u64_at(headers, COMMIT_ID)
}

/// A request's headers, but for its numbers.
#[derive(Clone, Copy)]
pub(super) struct Head {
    pub(super) opcode: u32,
    pub(super) node: u64,
    pub(super) who: Who,
    op: [u8; 128],
    pub(super) payload: usize,
}

impl Head {
    pub(super) fn parse(bytes: &[u8; HEADERS]) -> Self {
        let mut op = [0; 128];
        op.copy_from_slice(&bytes[OP..OP + 128]);
        Self {
            opcode: u32_at(bytes, 4),
            node: u64_at(bytes, 16),
            who: Who { uid: u32_at(bytes, 24), gid: u32_at(bytes, 28), pid: u32_at(bytes, 32) },
            op,
            payload: u32_at(bytes, PAYLOAD) as usize,
        }
    }

    /// A 32-bit field of the operation's own structure.
    pub(super) fn u32(&self, at: usize) -> u32 {
        u32_at(&self.op, at)
    }

    /// A 32-bit field with a sign.
    pub(super) fn i32(&self, at: usize) -> i32 {
        i32_at(&self.op, at)
    }

    /// A 64-bit field.
    pub(super) fn u64(&self, at: usize) -> u64 {
        u64_at(&self.op, at)
    }

    /// `struct fuse_setattr_in`.
    pub(super) fn change(&self) -> Change {
        const MODE: u32 = 1 << 0;
        const UID: u32 = 1 << 1;
        const GID: u32 = 1 << 2;
        const SIZE: u32 = 1 << 3;
        const ATIME: u32 = 1 << 4;
        const MTIME: u32 = 1 << 5;
        const ATIME_NOW: u32 = 1 << 7;
        const MTIME_NOW: u32 = 1 << 8;
        let valid = self.u32(0);
        let has = |bit: u32| valid & bit != 0;
        let time = |given: u32, now: u32, secs: usize, nanos: usize| match (has(given), has(now)) {
            (false, _) => None,
            (true, true) => Some(SetTime::Now),
            (true, false) => Some(SetTime::To(Time {
                secs: self.u64(secs).cast_signed(),
                nanos: self.u32(nanos),
            })),
        };
        Change {
            mode: has(MODE).then(|| self.u32(68)),
            uid: has(UID).then(|| self.u32(76)),
            gid: has(GID).then(|| self.u32(80)),
            size: has(SIZE).then(|| self.u64(16)),
            atime: time(ATIME, ATIME_NOW, 32, 56),
            mtime: time(MTIME, MTIME_NOW, 40, 60),
            by: self.who,
        }
    }
}

/// The strings of a payload, each ended by a NUL; empty where there is none.
pub(super) fn names<const N: usize>(payload: &[u8]) -> [&OsStr; N] {
    let mut parts = payload.split(|b| *b == 0);
    [(); N].map(|()| OsStr::from_bytes(parts.next().unwrap_or_default()))
}

/// A name, its NUL, and the bytes behind it.
pub(super) fn name_and_rest(payload: &[u8]) -> (&OsStr, &[u8]) {
    let end = payload.iter().position(|b| *b == 0).unwrap_or(payload.len());
    let rest = payload.get(end + 1..).unwrap_or_default();
    (OsStr::from_bytes(&payload[..end]), rest)
}

/// Writes a reply's headers: `struct fuse_out_header` and the payload's length. No commit id is
/// left there: the next one is of the entry's next request.
pub(super) fn reply(headers: &mut [u8; HEADERS], unique: u64, outcome: Result<usize, Errno>) {
    let (error, payload) = match outcome {
        Ok(n) => (0, n),
        Err(e) => (-e.0, 0),
    };
    let payload = u32::try_from(payload).expect("a payload fits its entry, of about a megabyte");
    headers[0..4].copy_from_slice(&(16 + payload).to_ne_bytes());
    headers[4..8].copy_from_slice(&error.to_ne_bytes());
    headers[8..16].copy_from_slice(&unique.to_ne_bytes());
    headers[COMMIT_ID..COMMIT_ID + 8].copy_from_slice(&NO_COMMIT_ID.to_ne_bytes());
    headers[PAYLOAD..PAYLOAD + 4].copy_from_slice(&payload.to_ne_bytes());
}

/// The 80 bytes of a command: `struct fuse_uring_cmd_req`.
pub(super) fn command(queue: u16, commit_id: u64) -> [u8; 80] {
    let mut bytes = [0; 80];
    bytes[8..16].copy_from_slice(&commit_id.to_ne_bytes());
    bytes[16..18].copy_from_slice(&queue.to_ne_bytes());
    bytes
}

/// A reply's payload as it is put together.
pub(super) struct Out<'a> {
    room: &'a mut [u8],
    len: usize,
}

impl<'a> Out<'a> {
    pub(super) fn new(room: &'a mut [u8]) -> Self {
        Self { room, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds bytes, or nothing where they find no room.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> bool {
        let Some(to) = self.room.get_mut(self.len..self.len + bytes.len()) else { return false };
        to.copy_from_slice(bytes);
        self.len += bytes.len();
        true
    }

    pub(super) fn u32(&mut self, n: u32) {
        self.bytes(&n.to_ne_bytes());
    }

    /// `struct fuse_write_out` and `struct fuse_getxattr_out`: a number, and its padding.
    pub(super) fn number(&mut self, n: u32) {
        self.u32(n);
        self.u32(0);
    }

    pub(super) fn u64(&mut self, n: u64) {
        self.bytes(&n.to_ne_bytes());
    }

    /// `struct fuse_attr`.
    fn attr(&mut self, attr: &Attr) {
        let s = &attr.0;
        let times = [s.atime, s.mtime, s.ctime];
        [s.ino, s.size, s.blocks].into_iter().for_each(|n| self.u64(n));
        times.into_iter().for_each(|t| self.u64(t.secs.cast_unsigned()));
        times.into_iter().for_each(|t| self.u32(t.nanos));
        let nlink = u32::try_from(s.nlink).unwrap_or(u32::MAX);
        let rdev = convert::rdev_out(s.rdev);
        for n in [s.mode, nlink, s.uid, s.gid, rdev, s.blksize, 0] {
            self.u32(n);
        }
    }

    /// `struct fuse_attr_out`.
    pub(super) fn attributes(&mut self, attr: &Attr) {
        self.u64(TTL.as_secs());
        self.u64(0);
        self.attr(attr);
    }

    /// `struct fuse_entry_out`.
    pub(super) fn entry(&mut self, found: &Found) {
        let (ino, generation) = (found.attr.0.ino, found.generation.into());
        [ino, generation, TTL.as_secs(), TTL.as_secs(), 0].into_iter().for_each(|n| self.u64(n));
        self.attr(&found.attr);
    }

    /// `struct fuse_open_out`.
    pub(super) fn opened(&mut self, opened: Opened) {
        self.u64(opened.handle);
        self.u32(opened.flags);
        self.u32(0);
    }

    /// `struct fuse_statfs_out`.
    pub(super) fn statfs(&mut self, s: &FsStat) {
        let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        [s.blocks, s.bfree, s.bavail, s.files, s.ffree].into_iter().for_each(|n| self.u64(n));
        [small(s.bsize), small(s.namemax), small(s.frsize)].into_iter().for_each(|n| self.u32(n));
        (0..7).for_each(|_| self.u32(0));
    }

    /// `struct fuse_dirent`, padded, behind a `struct fuse_entry_out` where `found` is given;
    /// `false` where it finds no room of `limit`.
    pub(super) fn listed(&mut self, e: &Listed, found: Option<&Found>, limit: usize) -> bool {
        let (name, head) = (e.name.as_bytes(), if found.is_some() { 128 } else { 0 });
        let size = head + (24 + name.len()).next_multiple_of(8);
        if self.len + size > limit.min(self.room.len()) {
            return false;
        }
        let end = self.len + size;
        if let Some(found) = found {
            self.entry(found);
        }
        self.u64(e.ino);
        self.u64(e.next);
        self.u32(u32::try_from(name.len()).unwrap_or(u32::MAX));
        self.u32(kind(e.kind));
        self.bytes(name);
        self.room[self.len..end].fill(0);
        self.len = end;
        true
    }
}

/// `DT_*` of readdir(3): the type bits of a mode.
fn kind(kind: FileKind) -> u32 {
    kind.mode_bits() >> 12
}
