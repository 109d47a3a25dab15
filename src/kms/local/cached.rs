//! Files read again only when they changed.

use std::sync::Arc;

use super::error::KeystoreError;
use super::folder::{KeystoreFolder, Stamp};

/// A file's parsed content, and what told that version from others.
#[derive(Debug)]
pub(super) struct Cached<T> {
    stamp: Stamp,
    settled: bool,
    pub(super) value: Arc<T>,
}

impl<T> Clone for Cached<T> {
    fn clone(&self) -> Self {
        Self { stamp: self.stamp, settled: self.settled, value: self.value.clone() }
    }
}

impl<T> Cached<T> {
    /// Whether a file with this stamp is the one that was read; see [`Source::get`].
    pub(super) fn is_of(&self, stamp: Stamp) -> bool {
        self.settled && self.stamp == stamp
    }
}

/// One file, and how it is read.
pub(super) struct Source<'a, F> {
    pub(super) folder: &'a KeystoreFolder,
    pub(super) name: &'a str,
    pub(super) limit: u64,
    /// Seconds since 1970.
    pub(super) now: u64,
    pub(super) parse: F,
}

impl<F> Source<'_, F> {
    /// The file as it is now: `old` if it has not changed since, `None` if there is none.
    ///
    /// A file that was changed within the last two seconds is always read again: inode numbers
    /// are reused and a filesystem's clock is coarse, so a second change could look like the first.
    pub(super) fn get<T>(self, old: Option<Cached<T>>) -> Result<Option<Cached<T>>, KeystoreError>
    where
        F: FnOnce(&[u8]) -> Result<T, String>,
    {
        if let Some(old) = old.filter(|old| old.settled) {
            match self.folder.stamp(self.name)? {
                Some(stamp) if old.is_of(stamp) => return Ok(Some(old)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
        let Some((stamp, bytes)) = self.folder.read(self.name, self.limit)? else {
            return Ok(None);
        };
        let value = (self.parse)(&bytes).map_err(|what| self.folder.damaged(self.name, what))?;
        Ok(Some(Cached { stamp, settled: stamp.is_settled(self.now), value: Arc::new(value) }))
    }
}
