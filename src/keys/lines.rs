//! Sidecar lines and bodies of long symlinks that nothing refers to any more.
//!
//! They are written down in the store's journal only after a syncfs of the store that began after
//! the last unlink and the last close: a power cut may undo those, and the file must still open,
//! the link still lead. They are removed when their grace is over, which whoever copies a store
//! that is in use needs: the tree first, the keys then.

use std::collections::{HashMap, HashSet};
use std::io;
use std::time::Duration;

use parking_lot::Mutex;

use super::carriers::Carriers;
use super::keyring::Keyring;
use super::store_use::StoreUse;
use crate::clock::Moment;
use crate::ids::{FileId, PageId};
use crate::store::{Removed, Store};

/// A grace has so many periods, each a file of the journal: it lasts up to one of them longer.
const PERIODS: u32 = 24;
/// A period is no longer than this.
const LONGEST: Duration = Duration::from_secs(3600);
/// The volume's clock is written down so often: a daemon that is killed makes a grace so much
/// longer.
const CLOCK_EVERY: Duration = Duration::from_secs(300);
/// Removals are made this often, or when there are many.
const SWEEP: Duration = Duration::from_secs(30);
const MANY: usize = 8192;
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// The life of the thread that removes what is due.
pub(super) fn sweep_often(keyring: &Keyring) {
    let mut last = Moment::now();
    loop {
        std::thread::park_timeout(LOOK);
        if keyring.is_stopping() {
            return;
        }
        let now = Moment::now();
        if keyring.dead().len() >= MANY || now.since(last) >= keyring.dead().apart(SWEEP) {
            last = now;
            if let Err(e) = keyring.sweep() {
                log::warn!(
                    "cannot remove the wrapped keys of removed files now, will try again: {e}"
                );
            }
        }
    }
}

/// What waits for its removal.
pub(super) struct PendingRemovals {
    store_use: StoreUse,
    pending: Mutex<Pending>,
    /// The volume's clock; `None` before its first use. Held while the journal is worked on.
    clock: Mutex<Option<Clock>>,
}

#[derive(Default)]
struct Pending {
    removed: Vec<Removed>,
    /// Lines whose keys no file was ever given.
    unused: Vec<FileId>,
}

/// Counts the seconds that the volume is mounted.
struct Clock {
    began: Moment,
    /// What it showed then.
    at: u64,
    written: Moment,
}

impl Clock {
    fn now(&self) -> u64 {
        self.at.saturating_add(Moment::now().since(self.began).as_secs())
    }
}

impl PendingRemovals {
    pub(super) fn new(store_use: StoreUse) -> Self {
        Self { store_use, pending: Mutex::default(), clock: Mutex::default() }
    }

    pub(super) fn store_use(&self) -> StoreUse {
        self.store_use
    }

    /// How long keys stay; `None` where nothing is ever removed.
    fn grace(&self) -> Option<Duration> {
        match self.store_use {
            StoreUse::Reads => None,
            StoreUse::Writes { removed_keys } => Some(removed_keys),
        }
    }

    pub(super) fn add(&self, removed: Removed) {
        if self.grace().is_none() {
            return;
        }
        self.pending.lock().removed.push(removed);
    }

    pub(super) fn add_unused(&self, file: FileId) {
        if self.grace().is_none() {
            return;
        }
        self.pending.lock().unused.push(file);
    }

    /// How far apart sweeps are to be at most, so that a short grace is not made much longer.
    pub(super) fn apart(&self, usual: Duration) -> Duration {
        match self.grace() {
            Some(grace) if !grace.is_zero() => usual.min(period(grace)),
            _ => usual,
        }
    }

    pub(super) fn len(&self) -> usize {
        let pending = self.pending.lock();
        pending.removed.len() + pending.unused.len()
    }

    /// Writes down what waits now, and removes what has waited long enough. What fails is left
    /// over, which is harmless.
    ///
    /// # Errors
    /// Of the syncfs or the journal, and then what waits goes on waiting; or of a page.
    pub(super) fn sweep(&self, store: &Store, carriers: &Carriers<FileId>) -> io::Result<()> {
        let Some(grace) = self.grace() else { return Ok(()) };
        let mut clock = self.clock.lock();
        let clock = self.started(&mut clock, store)?;
        self.journal(store, clock, grace)?;
        let limit = clock.now().saturating_sub(grace.as_secs());
        let done = remove_until(store, carriers, limit);
        if Moment::now().since(clock.written) >= CLOCK_EVERY {
            self.write_clock(store, clock)?;
        }
        done
    }

    /// As [`PendingRemovals::sweep`], with every grace over now.
    ///
    /// # Errors
    /// As [`PendingRemovals::sweep`].
    pub(super) fn end_grace(&self, store: &Store, carriers: &Carriers<FileId>) -> io::Result<()> {
        let Some(grace) = self.grace() else { return Ok(()) };
        let mut clock = self.clock.lock();
        let clock = self.started(&mut clock, store)?;
        self.journal(store, clock, grace)?;
        remove_until(store, carriers, u64::MAX)
    }

    /// The last sweep of a mount.
    ///
    /// # Errors
    /// As [`PendingRemovals::sweep`].
    pub(super) fn finish(&self, store: &Store, carriers: &Carriers<FileId>) -> io::Result<()> {
        self.sweep(store, carriers)?;
        match &mut *self.clock.lock() {
            Some(clock) => self.write_clock(store, clock),
            None => Ok(()),
        }
    }

    fn started<'a>(
        &self,
        clock: &'a mut Option<Clock>,
        store: &Store,
    ) -> io::Result<&'a mut Clock> {
        match clock {
            Some(clock) => Ok(clock),
            None => {
                let (began, at) = (Moment::now(), store.mounted_seconds()?);
                Ok(clock.insert(Clock { began, at, written: began }))
            }
        }
    }

    /// Without anything in its grace there is nothing to count for.
    fn write_clock(&self, store: &Store, clock: &mut Clock) -> io::Result<()> {
        clock.written = Moment::now();
        if store.removed_periods()?.is_empty() {
            return Ok(());
        }
        store.write_mounted_seconds(clock.now())
    }

    fn journal(&self, store: &Store, clock: &Clock, grace: Duration) -> io::Result<()> {
        let batch = std::mem::take(&mut *self.pending.lock());
        if batch.removed.is_empty() && batch.unused.is_empty() {
            return Ok(());
        }
        let written = store.sync().and_then(|()| {
            if grace.is_zero() || batch.removed.is_empty() {
                return Ok(());
            }
            let period = period(grace).as_secs();
            store.add_removed((clock.now() / period + 1) * period, &batch.removed)
        });
        if let Err(e) = written {
            let mut pending = self.pending.lock();
            pending.removed.extend(batch.removed);
            pending.unused.extend(batch.unused);
            return Err(e);
        }
        let mut now: Vec<Removed> = batch.unused.into_iter().map(Removed::Line).collect();
        if grace.is_zero() {
            now.extend(batch.removed);
        }
        remove(store, now)
    }
}

/// How long one period of a grace is, in whole seconds.
fn period(grace: Duration) -> Duration {
    let whole = (grace / PERIODS).min(LONGEST).as_secs();
    Duration::from_secs(whole.max(1))
}

/// Removes what the periods name that ended at `limit` or before. A file that is there after all
/// keeps its line.
fn remove_until(store: &Store, carriers: &Carriers<FileId>, limit: u64) -> io::Result<()> {
    let mut first = Ok(());
    for end in store.removed_periods()?.into_iter().filter(|end| *end <= limit) {
        let done = store.removed_in(end).and_then(|mut all| {
            all.retain(|removed| match removed {
                Removed::Line(file) => !carriers.may_be_wanted(*file),
                Removed::Body(_) => true,
            });
            remove(store, all)?;
            store.forget_removed(end)
        });
        first = first.and(done);
    }
    first
}

fn remove(store: &Store, all: Vec<Removed>) -> io::Result<()> {
    let mut pages: HashMap<PageId, HashSet<u16>> = HashMap::new();
    let mut first = Ok(());
    for removed in all {
        match removed {
            Removed::Line(file) => {
                pages.entry(file.page()).or_default().insert(file.slot());
            }
            Removed::Body(link) => match store.remove_link_body(link) {
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
                done => first = first.and(done),
            },
        }
    }
    for (page, slots) in pages {
        first = first.and(store.remove_lines(page, &slots));
    }
    first
}
