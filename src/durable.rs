//! Replacing a small file so that a power cut leaves the old one or the new one, whole.

use std::ffi::{OsStr, OsString};
use std::io;

use data_encoding::HEXLOWER;

use crate::disk::{Directory, Open, Replace, Stat};
use crate::secret::random_bytes;

const SUFFIX: &str = ".tmp-";

/// Writes `bytes` to `name` in `dir`: temporary file, fsync, rename, fsync of the folder. A file
/// that is replaced stays its owner's, also where root does it.
///
/// # Errors
/// The first failing step's; the temporary file is then removed and the old file still whole.
pub fn replace(dir: &dyn Directory, name: &OsStr, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temp = temporary(name);
    let old = dir.stat(name).ok();
    let written = write_synced(dir, &temp, bytes, mode, old.as_ref())
        .and_then(|()| dir.rename(&temp, dir, name, Replace::Over));
    if let Err(e) = written {
        // The first error is the one to report; a temporary file left behind is swept later.
        let _ = dir.unlink(&temp);
        return Err(e);
    }
    dir.sync()
}

/// Writes a temporary file of `len` bytes to the disk, and removes it.
///
/// # Errors
/// Of the backing filesystem.
pub fn try_writing(dir: &dyn Directory, len: usize, mode: u32) -> io::Result<()> {
    let name = temporary(OsStr::new("trial"));
    if let Err(e) = write_synced(dir, &name, &vec![0; len], mode, None) {
        let _ = dir.unlink(&name);
        return Err(e);
    }
    dir.unlink(&name)
}

/// A name for a temporary file beside `name`, which no other has.
fn temporary(name: &OsStr) -> OsString {
    let mut temp = name.to_owned();
    temp.push(SUFFIX);
    temp.push(HEXLOWER.encode(&random_bytes::<6>()));
    temp
}

fn write_synced(
    dir: &dyn Directory,
    name: &OsStr,
    bytes: &[u8],
    mode: u32,
    old: Option<&Stat>,
) -> io::Result<()> {
    let file = dir.open(name, Open::Create(mode))?;
    file.write_at(bytes, 0)?;
    if let Some(old) = old
        && file.stat()?.uid != old.uid
    {
        file.set_owner(Some(old.uid), Some(old.gid))?;
    }
    file.sync_all()
}

/// Whether `name` is a temporary file of [`replace`], left behind by a power cut.
pub fn is_leftover(name: &OsStr) -> bool {
    name.to_string_lossy().contains(SUFFIX)
}

/// Removes what interrupted replacements left in `dir`. Only the holder of the lock that guards
/// the folder's writers may call it.
///
/// # Errors
/// Of listing the folder; a file that cannot be removed is left.
pub fn sweep(dir: &dyn Directory) -> io::Result<()> {
    let left: Vec<OsString> =
        crate::disk::names(dir)?.into_iter().filter(|n| is_leftover(n)).collect();
    for name in left {
        let _ = dir.unlink(&name);
    }
    Ok(())
}
