//! Files with one id: one is a copy of the other, made in the store; or both are copies of one file,
//! which was renamed while a backup went on and was copied under either name.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::Job;
use super::finding::{Place, Problem};
use super::repair::{Repair, parent_of};
use crate::content::{FirstPage, HEADER, parse_header};
use crate::disk::{Dir, File, FileKind, Open, OpenFile, Stat};
use crate::ids::FileId;
use crate::secret::random_bytes;
use crate::store::{Store, TREE};

/// Files that were found to have the id of one before them: where, and their inode numbers.
pub(super) type Found = HashMap<FileId, Vec<(Place, u64)>>;

/// Bytes are compared in pieces of this size.
const PIECE: usize = 256 << 10;

/// Tells of them: of all but the one that was changed last. To find the others, the tree is walked
/// once more.
pub(super) fn check(job: &Job<'_>) {
    let found = std::mem::take(&mut *job.twins.lock());
    if found.is_empty() {
        return;
    }
    let mut all: HashMap<FileId, Vec<(PathBuf, Stat)>> = HashMap::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(path) = folders.pop() {
        // What cannot be read was told of in the first walk.
        let _ = look(&job.fsck.store, &path, &mut folders, |id, path, stat| {
            if found.contains_key(&id) {
                all.entry(id).or_default().push((path, stat));
            }
        });
    }
    for (id, mut twins) in all {
        twins.sort_by_key(|(_, stat)| (stat.mtime, stat.ctime));
        let Some((keep, _)) = twins.pop() else { continue };
        for (path, stat) in twins {
            let told = found[&id].iter().find(|(_, ino)| *ino == stat.ino);
            let in_store = || Place::Store(Path::new(TREE).join(&path));
            let place = told.map_or_else(in_store, |(place, _)| place.clone());
            let repair = Repair::Twin { keep: keep.clone(), other: path };
            job.tell_repairable(place, Problem::DuplicateId, repair);
        }
    }
}

fn look(
    store: &Store,
    path: &Path,
    folders: &mut Vec<PathBuf>,
    mut found: impl FnMut(FileId, PathBuf, Stat),
) -> io::Result<()> {
    let dir = path.iter().try_fold(store.tree().clone(), |dir, name| dir.open_dir(name))?;
    for name in crate::disk::names(&*dir)? {
        let Ok(stat) = dir.stat(&name) else { continue };
        match stat.kind() {
            FileKind::Dir => folders.push(path.join(name)),
            FileKind::File => {
                let mut first = [0; HEADER];
                let read = dir.open(&name, Open::Read).and_then(|file| file.read_at(&mut first, 0));
                if let (Ok(HEADER), Ok(FirstPage::Keyed(header))) = (read, parse_header(&first)) {
                    found(header.file, path.join(name), stat);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Two that are the same become one file with two names. Where they differ the other one, which is
/// the older, is moved aside.
pub(super) fn settle(store: &Store, keep: &Path, other: &Path) -> io::Result<()> {
    let ((keep_in, keep), (other_in, name)) = (parent_of(store, keep)?, parent_of(store, other)?);
    if !is_same((&keep_in, &keep), (&other_in, &name))? {
        return store.set_aside(&Path::new(TREE).join(other));
    }
    let temporary: OsString =
        format!("twin.tmp-{}", data_encoding::HEXLOWER.encode(&random_bytes::<6>())).into();
    let top = store.top();
    keep_in.link(&keep, &**top, &temporary)?;
    let done = top.rename(&temporary, &*other_in, &name, crate::disk::Replace::Over);
    if done.is_err() {
        let _ = top.unlink(&temporary);
    }
    done
}

fn is_same(one: (&Dir, &OsString), other: (&Dir, &OsString)) -> io::Result<bool> {
    let open = |(dir, name): (&Dir, &OsString)| -> io::Result<(File, Stat)> {
        let file = dir.open(name, Open::Read)?;
        let stat = file.stat()?;
        Ok((file, stat))
    };
    let ((one, a), (other, b)) = (open(one)?, open(other)?);
    let of = |s: &Stat| (s.mode, s.uid, s.gid, s.size);
    Ok(of(&a) == of(&b)
        && attributes(&*one)? == attributes(&*other)?
        && has_same_bytes(&*one, &*other)?)
}

fn attributes(file: &dyn OpenFile) -> io::Result<Vec<(OsString, Vec<u8>)>> {
    let mut names = match file.xattrs() {
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => Vec::new(),
        names => names?,
    };
    names.sort();
    names.into_iter().map(|name| file.xattr(&name).map(|value| (name, value))).collect()
}

fn has_same_bytes(one: &dyn OpenFile, other: &dyn OpenFile) -> io::Result<bool> {
    let (mut a, mut b, mut at) = (vec![0; PIECE], vec![0; PIECE], 0);
    loop {
        let n = one.read_at(&mut a, at)?;
        if other.read_at(&mut b, at)? != n || a[..n] != b[..n] {
            return Ok(false);
        }
        if n < PIECE {
            return Ok(true);
        }
        at += n as u64;
    }
}
