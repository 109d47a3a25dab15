//! Entries of the store that are no names of its volume: what a file manager, a NAS or a sync client
//! left there. The mount does not show them, and a folder that holds one cannot be removed.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use super::Fs;
use super::names::DIR_ID;
use super::node::Node;
use super::table::ROOT;
use crate::disk::Directory;
use crate::ids::DirId;
use crate::names;
use crate::store::TREE;

/// So many entries of a folder that cannot be removed are looked at, to say why.
const LOOKED_AT: usize = 32;
/// A place deeper than this is told from there.
const DEEPEST: usize = 2048;

/// What was found of them since the mount began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// In how many folders.
    pub folders: u64,
    /// The last one: its path in the store.
    pub last: PathBuf,
}

/// The strangers of a mount: each folder is told of once.
#[derive(Default)]
pub(super) struct Strangers(Mutex<Found>);

impl Strangers {
    pub(super) fn found(&self, place: impl Fn() -> PathBuf, parent: &Node) {
        if parent.has_stranger.swap(true, Ordering::Relaxed) {
            return;
        }
        let place = place();
        log::warn!(
            "{}: not a name of this volume, so the mount does not show it, and its folder cannot \
             be removed; `kmsfs fsck STORE --repair` moves it aside",
            place.display()
        );
        let mut found = self.0.lock();
        found.folders += 1;
        found.last = place;
    }
}

impl Fs {
    /// The entries that the mount does not show, for they are not of its volume.
    pub fn strangers(&self) -> Found {
        self.strangers.0.lock().clone()
    }

    /// Where an entry lies, from the store's folder on.
    pub(super) fn place_in_store(&self, parent: &Node, entry: &OsStr) -> PathBuf {
        let (mut parts, mut at) = (vec![entry.to_owned()], parent.place());
        while let Some((above, name)) = at.filter(|_| parts.len() < DEEPEST) {
            parts.push(name);
            at = if above == ROOT { None } else { self.table.get(above).and_then(|n| n.place()) };
        }
        std::iter::once(TREE.into()).chain(parts.into_iter().rev()).collect()
    }

    /// Says which entry keeps a folder from being removed that looks empty in the mount.
    pub(super) fn tell_what_is_in_the_way(
        &self,
        parent: &Node,
        dir: &dyn Directory,
        entry: &OsStr,
    ) {
        let (Ok(folder), Ok(keys)) = (dir.open_dir(entry), self.keyring.names()) else { return };
        let text = folder.readlink(OsStr::new(DIR_ID)).unwrap_or_default();
        let Some(id) = text.to_str().and_then(|text| DirId::parse(text).ok()) else { return };
        let (mut stranger, mut looked, mut is_empty) = (None, 0, true);
        let listed = folder.list(0, &mut |found| {
            let bytes = found.name.as_bytes();
            let is_own = found.name == DIR_ID || names::is_record(bytes);
            if found.name != "." && found.name != ".." && !is_own {
                // A long name has a record: no stranger's is one.
                is_empty =
                    names::decrypt(&keys, id, bytes).is_err() && !names::is_long_entry(bytes);
                stranger.get_or_insert(found.name);
            }
            looked += 1;
            is_empty && looked < LOOKED_AT
        });
        if let (Ok(()), true, Some(stranger)) = (listed, is_empty, stranger) {
            log::warn!(
                "{}: the folder cannot be removed, for {stranger:?} lies in it, which is not a \
                 name of this volume; `kmsfs fsck STORE --repair` moves it aside",
                self.place_in_store(parent, entry).display()
            );
        }
    }
}
