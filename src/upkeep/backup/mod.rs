//! A copy of a store, also of one that is mounted and in use: the tree first, then the keys.
//!
//! A file that is made while it goes on is missing from the copy. The key of one that is removed or
//! replaced meanwhile stays for a day (`keys/removed`), so that the copy has the key of each file
//! that it has. The copy is a store itself. It is made again and again to the same place, and then
//! only what has changed is written; what is gone from the store is removed from it.

mod file;
mod folder;
mod keys;
mod open;
mod tree;
mod xattrs;

use std::io;
use std::path::{Path, PathBuf};

pub use open::Destination;
use tree::Stillness;

use crate::disk::identity::{self, Owners};
use crate::ids::{FileId, LinkId};
use crate::store::{Store, StoreError};

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Of the store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The destination holds something else, which is not to be overwritten.
    #[error("it holds something else than a copy of this volume")]
    NotACopy,
    /// It is mounted, or another copies to it.
    #[error("it is mounted, or another backup to it goes on")]
    Busy,
    /// The destination cannot be read or written.
    #[error("{}: {}", .0.display(), .1)]
    To(PathBuf, #[source] io::Error),
    /// The store cannot be read: what lies beside its tree.
    #[error("{}: {}", .0.display(), .1)]
    From(PathBuf, #[source] io::Error),
}

fn to(path: &Path) -> impl Fn(io::Error) -> BackupError {
    move |e| BackupError::To(path.to_owned(), e)
}

fn from(path: &Path) -> impl Fn(io::Error) -> BackupError {
    move |e| BackupError::From(path.to_owned(), e)
}

/// What a backup has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Entries of the tree that the copy has.
    pub entries: u64,
    /// Files whose content was written.
    pub written: u64,
    /// Bytes of them, as they lie on disk.
    pub bytes: u64,
    /// Entries that were removed from the copy.
    pub removed: u64,
    /// Entries that cannot be read in the store: the copy has them as they were, or not at all.
    pub failed: u64,
    /// Files in the copy without their key, and long links without their target.
    pub keyless: u64,
    /// Whether what was moved in the store while it was copied may be in the copy twice.
    pub unsettled: bool,
}

/// What is told while it goes on.
pub trait Watcher {
    /// So many entries were gone through, and so many bytes written.
    fn advance(&mut self, entries: u64, bytes: u64);
    /// An entry cannot be read, at this path in the store.
    fn failed(&mut self, path: &Path, why: &io::Error);
    /// A file of the copy has no key, at this path in the store.
    fn keyless(&mut self, path: &Path);
}

/// The tree, and then what it refers to: as long as what is moved or removed meanwhile calls for
/// it, and no longer.
const MOST_ROUNDS: u32 = 5;

/// What refers to what lies beside the tree, and from where: of what was written this time.
#[derive(Default)]
struct References {
    files: Vec<(FileId, PathBuf)>,
    links: Vec<(LinkId, PathBuf)>,
}

/// Copies a store to an open destination.
///
/// # Errors
/// [`BackupError`]. What is copied by then stays, and the next run goes on from there.
pub fn backup(
    store: &Store,
    destination: &Destination,
    watcher: &mut dyn Watcher,
) -> Result<Copied, BackupError> {
    // What root writes belongs to the store's owner, too: his daemon could not read it else.
    let (uid, gid) = store.owner().map_err(from(Path::new("")))?;
    identity::assume(Owners::detect(), uid, gid).map_err(to(Path::new("")))?;
    let done = copy(store, destination, watcher);
    identity::assume(Owners::detect(), 0, 0).map_err(to(Path::new("")))?;
    done
}

fn copy(
    store: &Store,
    destination: &Destination,
    watcher: &mut dyn Watcher,
) -> Result<Copied, BackupError> {
    let mut done = Copied::default();
    let mut references = References::default();
    for round in 1..=MOST_ROUNDS {
        let stillness = tree::copy(store, destination, &mut references, &mut done, watcher)?;
        keys::copy(store, destination, &mut done)?;
        let missing = keys::missing(destination, &references)?;
        // What is lost again was removed, mostly: some programs make folders all the time.
        let is_settled = stillness == Stillness::Still || stillness == Stillness::Lost && round > 1;
        if is_settled && missing.is_empty() || round == MOST_ROUNDS {
            done.unsettled = stillness == Stillness::Twice;
            done.keyless = missing.len() as u64;
            missing.iter().for_each(|path| watcher.keyless(path));
            break;
        }
    }
    destination.finish(store)?;
    Ok(done)
}
