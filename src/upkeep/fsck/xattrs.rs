//! The `user.*` attributes of an entry: its block, and what lies apart.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::Job;
use super::finding::{Place, Problem, Text, errno};
use super::repair::Repair;
use crate::disk::Directory;
use crate::names::{self, Apart, XattrBlock};

/// Checks them. `path` is the entry's in the tree, as it lies on disk.
pub(super) fn check(
    job: &Job<'_>,
    dir: &dyn Directory,
    entry: &OsStr,
    place: &Place,
    path: impl Fn() -> PathBuf,
) {
    let all = match dir.xattrs(entry) {
        Ok(all) => all,
        // The store's filesystem has none.
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => return,
        Err(e) => return job.tell(place, Problem::Unreadable(errno(&e))),
    };
    let block_name = OsStr::new(names::XATTR_BLOCK);
    let block = match all.iter().find(|name| *name == block_name) {
        None => Block::None,
        Some(name) => match dir.xattr(entry, name) {
            Ok(bytes) => match XattrBlock::open(&job.names, &bytes) {
                Ok(block) => Block::Says(block),
                Err(_) => {
                    job.tell(place, Problem::Xattr(Text(name.clone())));
                    Block::Unknown
                }
            },
            Err(e) => {
                job.tell(place, Problem::Unreadable(errno(&e)));
                Block::Unknown
            }
        },
    };
    let users = all.into_iter().filter(|n| n.as_bytes().starts_with(b"user.") && n != block_name);
    let (apart, foreign): (Vec<_>, Vec<_>) = users.partition(|n| names::is_sealed_xattr(n));
    for name in foreign {
        job.tell(place, Problem::ForeignXattr(Text(name)));
    }
    if matches!(block, Block::None) && !apart.is_empty() {
        job.tell(place, Problem::NoXattrBlock);
    }
    for on_disk in apart {
        match dir.xattr(entry, &on_disk) {
            Ok(bytes) => match names::open_xattr(&job.names, &on_disk, &bytes) {
                Ok((name, _)) => hidden(job, &block, place, (&name, on_disk), &path),
                Err(_) => job.tell(place, Problem::Xattr(Text(on_disk))),
            },
            Err(e) => job.tell(place, Problem::Unreadable(errno(&e))),
        }
    }
}

enum Block {
    None,
    /// It does not open, which is told.
    Unknown,
    Says(XattrBlock),
}

/// Tells of what lies apart and is not seen.
fn hidden(
    job: &Job<'_>,
    block: &Block,
    place: &Place,
    (name, on_disk): (&[u8], OsString),
    path: impl Fn() -> PathBuf,
) {
    let Block::Says(block) = block else { return };
    let problem = Problem::HiddenXattr(Text(on_disk.clone()));
    if name.strip_prefix(b"user.").is_some_and(|own| block.get(own).is_some()) {
        // The block has a later value: a power cut came before this one was removed.
        job.tell_repairable(place.clone(), problem, Repair::Xattr(path(), on_disk));
    } else if block.apart == Apart::None {
        job.tell(place, problem);
    }
}
