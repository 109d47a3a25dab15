//! What lies beside the tree: sidecar pages, then branch keys, then bodies of links. The journal of
//! what was removed is not for a copy, which may have what it names.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::file::{self, Buffers};
use super::{BackupError, Copied, Destination, References, from, to};
use crate::disk::{Dir, Open};
use crate::durable;
use crate::ids::PageId;
use crate::store::{Folder, Store};

/// Copies it all.
pub(super) fn copy(
    store: &Store,
    destination: &Destination,
    done: &mut Copied,
) -> Result<(), BackupError> {
    let mut buffers = Buffers::default();
    let pages = (0..=u8::MAX).map(Folder::Pages);
    // Branch keys after the pages that say them.
    let all = pages.chain([Folder::Branch]).chain((0..=u8::MAX).map(Folder::Bodies));
    for folder in all {
        let place = PathBuf::from(folder.to_string());
        let open = |store: &Store| store.open_folder(folder);
        let (source, target) = (open(store).map_err(from(&place))?, open(&destination.store));
        let target = target.map_err(to(&place))?;
        copy_folder(&source, &target, &place, &mut buffers, done)?;
    }
    Ok(())
}

fn copy_folder(
    source: &Dir,
    target: &Dir,
    place: &Path,
    buffers: &mut Buffers,
    done: &mut Copied,
) -> Result<(), BackupError> {
    let names = crate::disk::names(&**source).map_err(from(place))?;
    let mut kept: HashSet<OsString> = HashSet::new();
    for name in names.into_iter().filter(|name| !durable::is_leftover(name)) {
        let at = place.join(&name);
        let file = match source.open(&name, Open::Read) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => continue,
            opened => opened.map_err(from(&at))?,
        };
        let stat = file.stat().map_err(from(&at))?;
        let there = target.stat(&name).ok();
        if !there.is_some_and(|there| file::is_unchanged(&stat, &there)) {
            done.bytes += file::copy(&file, target, &name, buffers).map_err(to(&at))?.bytes;
        }
        kept.insert(name);
    }
    for name in crate::disk::names(&**target).map_err(to(place))? {
        if !kept.contains(&name) {
            file::remove(&**target, &name).map_err(to(&place.join(&name)))?;
        }
    }
    Ok(())
}

/// What was written to the copy, and what it refers to is not there.
pub(super) fn missing(
    destination: &Destination,
    references: &References,
) -> Result<Vec<PathBuf>, BackupError> {
    let copy = &destination.store;
    let mut pages: HashMap<PageId, HashSet<u16>> = HashMap::new();
    let mut missing = Vec::new();
    let is_there = |path: &Path| copy.has_entry(path);
    for (file, path) in references.files.iter().filter(|(_, path)| is_there(path)) {
        let page = file.page();
        let slots = match pages.entry(page) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let read = copy.read_page(page).map_err(to(Path::new(&page.to_string())))?;
                let lines = read.iter().flat_map(crate::store::Page::readable);
                unknown.insert(lines.map(|line| line.slot).collect())
            }
        };
        if !slots.contains(&file.slot()) {
            missing.push(path.clone());
        }
    }
    for (link, path) in references.links.iter().filter(|(_, path)| is_there(path)) {
        let bodies = copy.open_folder(Folder::Bodies(link.0[0]));
        let bodies = bodies.map_err(to(Path::new("links")))?;
        if bodies.stat(OsStr::new(&link.to_string())).is_err() {
            missing.push(path.clone());
        }
    }
    Ok(missing)
}
