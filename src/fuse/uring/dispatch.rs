//! From a request in a slot to [`Requests`], by its opcode.

use std::cell::RefCell;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::Instant;

use super::abi::{self, Head, Out};
use super::slot::{Page, RingReply, Slot};
use crate::fs::{Attr, Detail, Found, SyncWhat};
use crate::fuse::content::WriteWords;
use crate::fuse::convert;
use crate::fuse::job::Start;
use crate::fuse::requests::{Asked, Requests, Soon};
use crate::fuse::terms::{Attribute, Opened};
use crate::secret::wipe;

/// `enum fuse_opcode` of linux/fuse.h: those that have an answer here. FORGET, INTERRUPT and
/// DESTROY come over /dev/fuse.
mod op {
    pub const LOOKUP: u32 = 1;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const SETXATTR: u32 = 21;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const REMOVEXATTR: u32 = 24;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const FSYNCDIR: u32 = 30;
    pub const CREATE: u32 = 35;
    pub const FALLOCATE: u32 = 43;
    pub const READDIRPLUS: u32 = 44;
    pub const RENAME2: u32 = 45;
    pub const LSEEK: u32 = 46;
    pub const COPY_FILE_RANGE: u32 = 47;
    pub const TMPFILE: u32 = 51;
}

/// Kinds of requests that take about as long as each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Waiting for a disk to have it all.
    Sync,
    /// Content to the store.
    Write,
    /// Content from the store, a little.
    Read,
    /// Much content to the store, for a program that waits.
    LargeWrite,
    /// Much content that the kernel reads ahead or saves on its own, several requests at once.
    Bulk,
    /// All else.
    Other,
}

impl Kind {
    pub(super) const COUNT: usize = 6;
}

/// The kind of a request.
pub(super) fn kind(head: &Head) -> Kind {
    match head.opcode {
        op::FSYNC | op::FSYNCDIR => Kind::Sync,
        op::WRITE if head.u32(16) >= LARGE && head.u32(20) & WriteWords::CACHE != 0 => Kind::Bulk,
        op::WRITE if head.u32(16) >= LARGE => Kind::LargeWrite,
        op::WRITE | op::FALLOCATE | op::COPY_FILE_RANGE => Kind::Write,
        op::READ if head.u32(16) >= LARGE => Kind::Bulk,
        op::READ => Kind::Read,
        _ => Kind::Other,
    }
}

/// As much as the kernel reads ahead at once, at least.
const LARGE: u32 = 128 << 10;

thread_local! {
    /// A request's names and values, copied out of the slot that its reply goes into.
    static BROUGHT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Has the request in a slot answered, which came at `now`: `None` where its reply comes later.
pub(super) fn dispatch<'a>(
    requests: &'a Requests,
    slot: Slot,
    start: Start<'a>,
    now: Instant,
) -> Soon<'a, RingReply> {
    let asked = requests.asked(slot.head().who, start, now);
    match slot.head().opcode {
        op::READ => read(asked, slot),
        op::WRITE => write(asked, slot),
        op::READDIR => list(asked, slot, Detail::Names),
        op::READDIRPLUS => list(asked, slot, Detail::Attributes),
        _ => BROUGHT.with_borrow_mut(|brought| {
            brought.clear();
            brought.extend_from_slice(slot.payload());
            let soon = by_name(asked, slot, brought);
            wipe(brought);
            soon
        }),
    }
}

fn read(asked: Asked<'_>, slot: Slot) -> Soon<'_, RingReply> {
    let (node, offset, size) = (slot.head().node, slot.head().u64(8), slot.head().u32(16));
    asked.read(node, offset, size, slot)
}

fn write(asked: Asked<'_>, slot: Slot) -> Soon<'_, RingReply> {
    let head = slot.head();
    let words = WriteWords { request: head.u32(20), open: head.i32(32) };
    asked.write_from((head.node, head.u64(8)), words, slot)
}

fn list(asked: Asked<'_>, slot: Slot, detail: Detail) -> Soon<'_, RingReply> {
    let head = slot.head();
    let (handle, from, limit) = (head.u64(0), head.u64(8), head.u32(16) as usize);
    asked.list(handle, from, Page { slot, detail, limit, len: 0 })
}

fn entry(out: &mut Out, found: Found) {
    out.entry(&found);
}

fn attributes(out: &mut Out, attr: Attr) {
    out.attributes(&attr);
}

fn opened(out: &mut Out, opened: Opened) {
    out.opened(opened);
}

fn created(out: &mut Out, (found, opened): (Found, Opened)) {
    out.entry(&found);
    out.opened(opened);
}

fn done(_: &mut Out, (): ()) {}

fn attribute(out: &mut Out, answer: Attribute) {
    match answer {
        Attribute::Size(n) => out.number(n),
        Attribute::Bytes(bytes) => {
            out.bytes(&bytes);
        }
    }
}

fn written(out: &mut Out, n: u32) {
    out.number(n);
}

/// Replies through a slot.
macro_rules! to {
    ($slot:ident, $fill:expr) => {
        move |outcome| $slot.answer(outcome, $fill)
    };
}

/// Requests that make, find and remove names.
fn by_name<'a>(asked: Asked<'a>, slot: Slot, brought: &[u8]) -> Soon<'a, RingReply> {
    let head = *slot.head();
    let node = head.node;
    let [name, other] = abi::names(brought);
    match head.opcode {
        op::LOOKUP => asked.lookup(node, name, to!(slot, entry)),
        op::SYMLINK => asked.symlink((node, name), other, to!(slot, entry)),
        op::MKNOD => {
            let what = (head.u32(0), head.u32(8), convert::rdev_in(head.u32(4)));
            asked.mknod((node, name), what, to!(slot, entry))
        }
        op::MKDIR => asked.mkdir((node, name), (head.u32(0), head.u32(4)), to!(slot, entry)),
        op::UNLINK => asked.unlink(node, name, to!(slot, done)),
        op::RMDIR => asked.rmdir(node, name, to!(slot, done)),
        op::RENAME | op::RENAME2 => {
            let flags = if head.opcode == op::RENAME2 { head.u32(8) } else { 0 };
            asked.rename((node, name), (head.u64(0), other), flags, to!(slot, done))
        }
        op::LINK => asked.link(head.u64(0), (node, name), to!(slot, entry)),
        op::CREATE => {
            let how = (head.u32(4), head.u32(8), head.i32(0));
            asked.create((node, name), how, to!(slot, created))
        }
        op::TMPFILE => asked.tmpfile(node, (head.u32(4), head.u32(8)), to!(slot, created)),
        op::GETXATTR => asked.getxattr(node, name, head.u32(0), to!(slot, attribute)),
        op::REMOVEXATTR => asked.removexattr(node, name, to!(slot, done)),
        op::SETXATTR => {
            let (name, value) = abi::name_and_rest(brought);
            let value = &value[..value.len().min(head.u32(0) as usize)];
            asked.setxattr(node, (name, value), head.i32(4), to!(slot, done))
        }
        _ => by_node(asked, slot),
    }
}

/// Requests about an inode or what is open.
fn by_node(asked: Asked<'_>, slot: Slot) -> Soon<'_, RingReply> {
    let head = *slot.head();
    let node = head.node;
    match head.opcode {
        op::GETATTR => asked.getattr(node, to!(slot, attributes)),
        op::SETATTR => asked.setattr(node, head.change(), to!(slot, attributes)),
        op::READLINK => {
            let fill = |out: &mut Out, target: OsString| {
                out.bytes(target.as_bytes());
            };
            asked.readlink(node, to!(slot, fill))
        }
        op::OPEN => asked.open(node, head.i32(0), to!(slot, opened)),
        op::OPENDIR => asked.opendir(node, to!(slot, opened)),
        op::RELEASE => asked.release(node, head.u64(0), to!(slot, done)),
        op::RELEASEDIR => asked.releasedir(head.u64(0), to!(slot, done)),
        op::FSYNC => {
            let what = if head.u32(8) & 1 != 0 { SyncWhat::Data } else { SyncWhat::All };
            asked.fsync(node, what, to!(slot, done))
        }
        op::FSYNCDIR => asked.fsyncdir(node, to!(slot, done)),
        op::STATFS => asked.statfs(to!(slot, |out: &mut Out, s| out.statfs(&s))),
        op::LISTXATTR => asked.listxattr(node, head.u32(0), to!(slot, attribute)),
        op::FALLOCATE => {
            let what = (head.u64(8), head.u64(16), head.i32(24));
            asked.fallocate(node, what, to!(slot, done))
        }
        op::LSEEK => {
            let (offset, whence) = (head.u64(8).cast_signed(), head.i32(16));
            let fill = |out: &mut Out, at: i64| out.u64(at.cast_unsigned());
            asked.lseek(node, offset, whence, to!(slot, fill))
        }
        op::COPY_FILE_RANGE => {
            let (from, to) = ((node, head.u64(8)), (head.u64(16), head.u64(32)));
            asked.copy_file_range(from, to, head.u64(40), to!(slot, written))
        }
        // FLUSH among them: see the other adapter.
        _ => asked.unknown(to!(slot, done)),
    }
}
