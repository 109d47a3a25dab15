//! The two copies of `volume.json`: both are written, one counts.

use std::ffi::OsStr;
use std::fmt;
use std::io;

use super::layout::{BACKUP, MODE, Store, StoreError, VOLUME, at, lock_folder};
use super::volume_file::{BadVolumeFile, VolumeFile};
use crate::disk::{self, Time};
use crate::durable;

const MAX_VOLUME_FILE: usize = 64 << 10;

/// One of the two copies of `volume.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copy {
    /// `volume.json`, which counts where it can be read.
    First,
    /// `volume.json.bak`.
    Second,
}

impl Copy {
    fn name(self) -> &'static str {
        match self {
            Self::First => VOLUME,
            Self::Second => BACKUP,
        }
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

/// The path in the store.
impl fmt::Display for Copy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Store {
    /// Reads `volume.json`; where that is damaged or missing, its second copy.
    ///
    /// # Errors
    /// `NotAStore`, `BadVolumeFile`, `Io`; of the first copy, when both are bad.
    pub fn read_volume(&self) -> Result<VolumeFile, StoreError> {
        let first = self.read_copy(VOLUME);
        match first {
            Err(StoreError::BadVolumeFile(BadVolumeFile::Damaged(_)) | StoreError::NotAStore) => {
                match self.read_copy(BACKUP) {
                    Ok(file) => {
                        log::warn!("{VOLUME} is damaged or missing; using {BACKUP}");
                        Ok(file)
                    }
                    Err(_) => first,
                }
            }
            other => other,
        }
    }

    pub(super) fn read_copy(&self, name: &str) -> Result<VolumeFile, StoreError> {
        match disk::read_all(&*self.top, OsStr::new(name), MAX_VOLUME_FILE) {
            Ok(bytes) => Ok(VolumeFile::parse(&bytes)?),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Err(StoreError::NotAStore),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                Err(BadVolumeFile::Damaged("too long".to_owned()).into())
            }
            Err(e) => Err(StoreError::Io("cannot read volume.json", e)),
        }
    }

    /// What tells whether `volume.json` was replaced: its inode number and its last change.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn volume_stamp(&self) -> io::Result<(u64, Time)> {
        let stat = self.top.stat(OsStr::new(VOLUME))?;
        Ok((stat.ino, stat.ctime))
    }

    /// Replaces `volume.json`, then its second copy.
    ///
    /// # Errors
    /// `Io`; one whole copy is there in any case.
    pub fn write_volume(&self, file: &VolumeFile) -> Result<(), StoreError> {
        let _held = lock_folder(&self.top).map_err(at("cannot lock the store's folder"))?;
        self.replace_volume(file)
    }

    fn replace_volume(&self, file: &VolumeFile) -> Result<(), StoreError> {
        let bytes = file.encode();
        for name in [VOLUME, BACKUP] {
            durable::replace(&*self.top, OsStr::new(name), &bytes, MODE)
                .map_err(at("cannot write volume.json"))?;
        }
        Ok(())
    }

    /// Replaces `volume.json`, as [`Store::write_volume`] does, where it still is what the caller
    /// has seen. Answers whether it was.
    ///
    /// # Errors
    /// `NotAStore`, `BadVolumeFile`, `Io`; one whole copy is there in any case.
    pub fn change_volume(&self, seen: &VolumeFile, new: &VolumeFile) -> Result<bool, StoreError> {
        let _held = lock_folder(&self.top).map_err(at("cannot lock the store's folder"))?;
        if self.read_volume()? != *seen {
            return Ok(false);
        }
        self.replace_volume(new)?;
        Ok(true)
    }

    /// Reads one copy of `volume.json`.
    ///
    /// # Errors
    /// `NotAStore` where it is missing, `BadVolumeFile`, `Io`.
    pub fn read_volume_copy(&self, copy: Copy) -> Result<VolumeFile, StoreError> {
        self.read_copy(copy.name())
    }

    /// Replaces one copy of `volume.json`.
    ///
    /// # Errors
    /// Of the backing filesystem; the copy is then as it was.
    pub fn write_volume_copy(&self, copy: Copy, file: &VolumeFile) -> io::Result<()> {
        let _held = lock_folder(&self.top)?;
        durable::replace(&*self.top, OsStr::new(copy.name()), &file.encode(), MODE)
    }
}
