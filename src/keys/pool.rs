//! The key pool: data keys made ahead of use, their wrapped keys durable in sidecar pages, so
//! that creating a file waits neither for a KMS nor for an fsync.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::gate::Gate;
use super::keyring::Keyring;
use super::pages;
use super::request::{KeyFail, KeyRequest};
use super::volume::NoNewKey;
use crate::clock::Moment;
use crate::content::ContentCipher;
use crate::ids::{FileId, PageId};
use crate::kms::KmsError;
use crate::sync::{Condvar, Mutex, RwLock};

const SMALLEST: usize = 16;
/// A pool that was emptied becomes so many times larger: of a burst of new files few wait.
const GROWTH: usize = 4;
const LARGEST: usize = 2048;
/// A pool grows no further when its last order took longer than this: a slow KMS is not to work for
/// one mount alone, its heartbeats too.
const LONG: Duration = Duration::from_millis(500);
/// After this long without a refill the pool's size falls back to the smallest.
const QUIET: Duration = Duration::from_secs(60);
/// Between tries when the KMS or the disk gives no keys: doubled each time, up to the longest.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Data keys ready for use.
struct Ready {
    keys: VecDeque<Arc<ContentCipher>>,
    target: usize,
    /// Somebody found it empty since the last order.
    ran_dry: bool,
    stopping: bool,
}

impl Default for Ready {
    fn default() -> Self {
        Self { keys: VecDeque::new(), target: SMALLEST, ran_dry: false, stopping: false }
    }
}

impl Ready {
    fn is_low(&self) -> bool {
        self.keys.len() <= self.target / 2
    }

    /// How many keys to make now. A pool that ran dry grows, though it may have some again by now:
    /// those who waited for them want more. It does not where the last order `took` long.
    fn order(&mut self, quiet: bool, took: Duration) -> usize {
        if quiet {
            self.target = SMALLEST;
        } else if std::mem::take(&mut self.ran_dry) && took < LONG {
            self.target = (self.target * GROWTH).min(LARGEST);
        }
        self.target.saturating_sub(self.keys.len())
    }
}

/// The pool; see above.
#[derive(Default)]
pub(super) struct Pool {
    ready: Mutex<Ready>,
    /// It is low, or its thread is to look for another reason.
    low: Condvar,
    /// The page that was made last.
    page: Mutex<Option<PageId>>,
    /// Held, shared, while new data keys are on their way to their sidecar pages.
    filling: RwLock<()>,
}

impl Pool {
    /// Takes a key, and has `keep` keep it: whoever empties the pool finds each of its keys here
    /// or there.
    pub(super) fn take(
        &self,
        keep: impl FnOnce(&Arc<ContentCipher>),
    ) -> Option<Arc<ContentCipher>> {
        let mut ready = self.ready.lock();
        let taken = ready.keys.pop_front();
        ready.ran_dry |= taken.is_none();
        if ready.is_low() {
            self.low.notify_one();
        }
        taken.inspect(keep)
    }

    /// Has its thread look whether keys are wanted.
    pub(super) fn call(&self) {
        self.low.notify_one();
    }

    pub(super) fn len(&self) -> usize {
        self.ready.lock().keys.len()
    }

    /// Has keys that are made and written from now on, until the guard is dropped, waited for by
    /// [`Pool::wait_for_pages`].
    pub(super) fn filling(&self) -> impl Drop + '_ {
        self.filling.read()
    }

    /// The id of a new page: the first is random, and each other one follows the one before.
    pub(super) fn next_page(&self) -> PageId {
        let mut last = self.page.lock();
        let page = last.map_or_else(PageId::random, PageId::next);
        *last = Some(page);
        page
    }

    /// Drops the keys and names the files whose lines were never used.
    pub(super) fn wipe(&self) -> Vec<FileId> {
        self.ready.lock().keys.drain(..).map(|c| c.file()).collect()
    }

    /// Returns when no key that is being made now is on its way to the store any more.
    pub(super) fn wait_for_pages(&self) {
        drop(self.filling.write());
    }

    /// Ends its thread.
    pub(super) fn stop(&self) {
        self.ready.lock().stopping = true;
        self.low.notify_all();
    }

    /// Waits until keys are wanted, and says how many, after an order that `took` so long; `None`
    /// when the keyring stops.
    fn next_order(&self, gate: &Gate, took: Duration) -> Option<usize> {
        let (mut ready, mut quiet) = (self.ready.lock(), false);
        while !(ready.stopping || gate.is_open() && ready.is_low()) {
            quiet |= self.low.wait_for(&mut ready, QUIET).timed_out();
        }
        (!ready.stopping).then(|| ready.order(quiet, took))
    }

    /// Waits, unless the keyring stops. Those who want a key call meanwhile, and it is no use.
    fn pause(&self, pause: Duration) {
        let end = Moment::now() + pause;
        let mut ready = self.ready.lock();
        while !ready.stopping && Moment::now() < end {
            self.low.wait_for(&mut ready, end.since(Moment::now()));
        }
    }

    /// Takes keys that were made, if they are still `wanted`; else gives them back.
    pub(super) fn add(
        &self,
        keys: Vec<Arc<ContentCipher>>,
        wanted: impl FnOnce() -> bool,
    ) -> Result<(), Vec<Arc<ContentCipher>>> {
        let mut ready = self.ready.lock();
        if !wanted() {
            return Err(keys);
        }
        ready.keys.extend(keys);
        Ok(())
    }
}

/// Why a page of keys could not be made.
pub(super) enum NoKeys {
    Kms(KmsError),
    Disk(std::io::Error),
}

impl From<NoNewKey> for NoKeys {
    fn from(e: NoNewKey) -> Self {
        Self::Kms(e.into())
    }
}

/// The thread that keeps the pool full, until the keyring stops.
pub(super) fn run(keyring: &Keyring) {
    let (mut pause, mut disk, mut took) = (PAUSE, Disk::Works, Duration::ZERO);
    while let Some(wanted) = keyring.pool().next_order(keyring.gate(), took) {
        // After a failure one key is tried: many at once would only burden who is in trouble.
        let wanted = if pause > PAUSE { 1 } else { wanted };
        let began = Moment::now();
        let filled = fill_on(keyring, wanted, disk);
        took = Moment::now().since(began);
        let Err(e) = filled else {
            (pause, disk) = (PAUSE, Disk::Works);
            continue;
        };
        disk = if matches!(e, NoKeys::Disk(_)) { Disk::Failed } else { Disk::Works };
        refuse(keyring, e);
        keyring.pool().pause(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn refuse(keyring: &Keyring, why: NoKeys) {
    if let Some(fail) = fail_of(keyring, why) {
        keyring.files().answer(KeyRequest::Fresh, Err(fail));
    }
}

fn fail_of(keyring: &Keyring, why: NoKeys) -> Option<KeyFail> {
    match why {
        NoKeys::Kms(e) => {
            log::warn!("cannot make new data keys: {e}");
            keyring.fail_of(&e)
        }
        NoKeys::Disk(e) => {
            log::warn!(
                "cannot make new data keys, since their wrapped keys cannot be written: {e}"
            );
            Some(KeyFail::Disk(e.raw_os_error().unwrap_or(libc::EIO)))
        }
    }
}

/// Fills the pool on the caller's own thread, for offline jobs.
pub(super) fn supply(keyring: &Keyring) -> Result<(), KeyFail> {
    pages::make(keyring, SMALLEST).map_err(|e| fail_of(keyring, e).unwrap_or(KeyFail::Late))
}

/// How the disk took the last page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disk {
    Works,
    Failed,
}

/// A disk that failed is tried before the KMS is asked: its calls would be for nothing.
pub(super) fn fill_on(keyring: &Keyring, wanted: usize, disk: Disk) -> Result<(), NoKeys> {
    if disk == Disk::Failed {
        keyring.store().try_writing().map_err(NoKeys::Disk)?;
    }
    pages::make(keyring, wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pool that had a few keys again when the next order was made stayed small for good, and each
    /// order made many wait.
    #[test]
    fn a_pool_that_ran_dry_grows_and_a_quiet_one_is_small_again() {
        let mut ready = Ready::default();
        let quick = Duration::ZERO;
        assert_eq!(ready.order(false, quick), SMALLEST);
        let mut orders = Vec::new();
        for _ in 0..5 {
            ready.ran_dry = true;
            orders.push(ready.order(false, quick));
        }
        assert_eq!(orders, [64, 256, 1024, LARGEST, LARGEST]);
        assert_eq!(ready.order(false, quick), LARGEST, "it is large enough");
        assert_eq!(ready.order(true, quick), SMALLEST);
        ready.ran_dry = true;
        assert_eq!(ready.order(false, LONG), SMALLEST, "the KMS is slow enough");
    }
}
