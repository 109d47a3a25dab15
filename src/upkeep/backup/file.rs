//! One entry of the tree: whether it has changed, and copying it whole.

use std::ffi::OsStr;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::xattrs;
use crate::content::PAGE;
use crate::disk::{
    Dir, Directory, File, FileKind, Open, OpenFile, Replace, Stat, Time, TimeChange,
};

/// What is written aside before it takes its name. The next run removes what a kill left of it, for
/// no store has an entry of this name.
const TEMPORARY: &str = ".kmsfs.backup";
/// Bytes are copied in pieces of so many pages.
const PIECE: usize = 256;
/// A file that is written to all the time is read so often, until nothing came in between.
const PASSES: u32 = 4;
/// And a page of it, until two reads agree.
const MOST_READS: u32 = 32;
/// Two changes within this time may have one time of change.
const TICK: Duration = Duration::from_millis(20);

/// What is known of a file that was copied.
pub(super) struct Written {
    /// How many bytes.
    pub(super) bytes: u64,
    /// Its first bytes.
    pub(super) first: [u8; crate::content::HEADER],
}

/// Whether a copy is what the original is. A change of the original after the copy was made shows
/// in its time of change, which nobody can set back.
pub(super) fn is_unchanged(original: &Stat, copy: &Stat) -> bool {
    is_alike(original, copy) && original.ctime < copy.ctime
}

fn is_alike(original: &Stat, copy: &Stat) -> bool {
    let of = |s: &Stat| (s.mode, s.uid, s.gid, s.size, s.mtime);
    of(original) == of(copy)
}

/// Copies a regular file, and gives the copy its name when it is whole.
pub(super) fn copy(
    from: &File,
    dir: &Dir,
    name: &OsStr,
    buffers: &mut Buffers,
) -> io::Result<Written> {
    let temporary = OsStr::new(TEMPORARY);
    remove(&**dir, temporary)?;
    let copied = (|| {
        let file = dir.open(temporary, Open::Create(0o600))?;
        let written = content(&**from, &*file, buffers)?;
        attributes(&**from, &from.stat()?, &*file)?;
        dir.rename(temporary, &**dir, name, Replace::Over)?;
        Ok(written)
    })();
    if copied.is_err() {
        let _ = dir.unlink(temporary);
    }
    copied
}

/// For pages, kept from one file to the next.
pub(super) struct Buffers {
    now: Vec<u8>,
    before: Vec<u8>,
}

impl Default for Buffers {
    fn default() -> Self {
        let piece = PIECE * usize::try_from(PAGE).expect("a page is small");
        Self { now: vec![0; piece], before: vec![0; piece] }
    }
}

fn content(from: &dyn OpenFile, to: &dyn OpenFile, buffers: &mut Buffers) -> io::Result<Written> {
    let mut bytes = 0;
    for pass in 0..PASSES {
        let (began, before) = (now(), from.stat()?);
        bytes += match pass {
            0 => pages(from, to, before.size, &mut buffers.now)?,
            _ => changed_pages(from, to, before.size, buffers)?,
        };
        to.set_size(before.size)?;
        let after = from.stat()?;
        let same =
            (before.size, before.mtime, before.ctime) == (after.size, after.mtime, after.ctime);
        if same && after.ctime < began {
            break;
        }
        // A write has several steps: it is given the time to end.
        std::thread::sleep(TICK);
    }
    let mut first = [0; crate::content::HEADER];
    to.read_at(&mut first, 0)?;
    Ok(Written { bytes, first })
}

/// A moment so long ago that whatever changes from now on has a later time.
fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = since.saturating_sub(TICK);
    Time { secs: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanos: since.subsec_nanos() }
}

/// Copies what is no hole.
fn pages(from: &dyn OpenFile, to: &dyn OpenFile, size: u64, buf: &mut [u8]) -> io::Result<u64> {
    let (mut at, mut bytes) = (0, 0);
    while at < size {
        let Some(data) = from.seek_data(at)? else { break };
        // A record is read whole.
        at = data / PAGE * PAGE;
        let end = match from.seek_hole(data.max(at)) {
            Ok(end) => end.next_multiple_of(PAGE).min(size),
            Err(e) if e.raw_os_error() == Some(libc::ENXIO) => break,
            Err(e) => return Err(e),
        };
        while at < end {
            let want = buf.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
            let n = from.read_at(&mut buf[..want], at)?;
            to.write_at(&buf[..n], at)?;
            bytes += n as u64;
            at += want as u64;
            if n < want {
                return Ok(bytes);
            }
        }
    }
    Ok(bytes)
}

/// Reads it all again, and writes the pages that are others by now. A page that was read while it
/// was written is torn: each is taken as two reads, one after the other, have found it.
fn changed_pages(
    from: &dyn OpenFile,
    to: &dyn OpenFile,
    size: u64,
    Buffers { now, before }: &mut Buffers,
) -> io::Result<u64> {
    let (mut at, mut bytes) = (0, 0);
    let page = usize::try_from(PAGE).expect("a page is small");
    while at < size {
        let want = now.len().min(usize::try_from(size - at).unwrap_or(usize::MAX));
        let n = from.read_at(&mut now[..want], at)?;
        let m = to.read_at(&mut before[..n], at)?;
        before[m..n].fill(0);
        for start in (0..n).step_by(page) {
            let end = (start + page).min(n);
            if now[start..end] != before[start..end] {
                settle(from, at + start as u64, &mut now[start..end])?;
                to.write_at(&now[start..end], at + start as u64)?;
                bytes += (end - start) as u64;
            }
        }
        if n < want {
            break;
        }
        at += n as u64;
    }
    Ok(bytes)
}

/// Reads a page again until it is twice the same.
fn settle(from: &dyn OpenFile, at: u64, page: &mut [u8]) -> io::Result<()> {
    let mut again = vec![0; page.len()];
    for _ in 0..MOST_READS {
        let n = from.read_at(&mut again, at)?;
        again[n..].fill(0);
        if again == *page {
            return Ok(());
        }
        page.copy_from_slice(&again);
    }
    Ok(())
}

/// Gives a copy the owner, mode, attributes and times of the original.
pub(super) fn attributes(from: &dyn OpenFile, stat: &Stat, to: &dyn OpenFile) -> io::Result<()> {
    let is_link = stat.kind() == FileKind::Symlink;
    let there = to.stat()?;
    if (there.uid, there.gid) != (stat.uid, stat.gid) {
        to.set_owner(Some(stat.uid), Some(stat.gid))?;
    }
    if !is_link {
        to.set_mode(stat.mode & 0o7777)?;
        xattrs::copy(from, to)?;
    }
    to.set_times(TimeChange::To(stat.atime), TimeChange::To(stat.mtime))
}

/// Removes an entry, of whatever kind, if it is there.
pub(super) fn remove(dir: &dyn Directory, name: &OsStr) -> io::Result<bool> {
    let stat = match dir.stat(name) {
        Ok(stat) => stat,
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(false),
        Err(e) => return Err(e),
    };
    if stat.kind() != FileKind::Dir {
        return dir.unlink(name).map(|()| true);
    }
    dir.open(name, Open::Pin)?.set_mode(0o700)?;
    let below = dir.open_dir(name)?;
    for name in crate::disk::names(&*below)? {
        remove(&*below, &name)?;
    }
    dir.rmdir(name).map(|()| true)
}
