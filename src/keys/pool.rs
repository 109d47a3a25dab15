//! The key pool: data keys made ahead of use, their wrapped keys durable in sidecar pages, so
//! that creating a file waits neither for a KMS nor for an fsync.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::keyring::Keyring;
use super::machine::Phase;
use super::present::{self, Second};
use super::request::{KeyFail, KeyRequest};
use super::volume::NoNewKey;
use crate::clock::Moment;
use crate::content::{ContentCipher, check};
use crate::ids::{FileId, PageId, SLOTS};
use crate::kms::{Context, KmsError};
use crate::secret::{Key, scrub_stack};
use crate::store::{DataKeys, Line, Page, SecondWrap, WrapKind};
use crate::sync::{Condvar, Mutex};
use crate::threads::{Role, spawn_in};

const SMALLEST: usize = 16;
const LARGEST: usize = 2048;
/// After this long without a refill the pool's size falls back to the smallest.
const QUIET: Duration = Duration::from_secs(60);
/// Between tries when the KMS or the disk gives no keys: doubled each time, up to the longest.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Data keys ready for use.
struct Ready {
    keys: VecDeque<Arc<ContentCipher>>,
    target: usize,
    stopping: bool,
}

impl Default for Ready {
    fn default() -> Self {
        Self { keys: VecDeque::new(), target: SMALLEST, stopping: false }
    }
}

impl Ready {
    fn is_low(&self) -> bool {
        self.keys.len() <= self.target / 2
    }

    /// How many keys to make now. A pool that ran down by half since its last fill grows.
    fn order(&mut self, quiet: bool) -> usize {
        if quiet {
            self.target = SMALLEST;
        } else if self.keys.is_empty() {
            self.target = (self.target * 2).min(LARGEST);
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
    /// Held while new data keys are on their way to their sidecar page.
    filling: Mutex<()>,
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

    /// Drops the keys and names the files whose lines were never used.
    pub(super) fn wipe(&self) -> Vec<FileId> {
        self.ready.lock().keys.drain(..).map(|c| c.file()).collect()
    }

    /// Returns when no key that is being made now is on its way to the store any more.
    pub(super) fn wait_for_pages(&self) {
        drop(self.filling.lock());
    }

    /// Ends its thread.
    pub(super) fn stop(&self) {
        self.ready.lock().stopping = true;
        self.low.notify_all();
    }

    /// Waits until keys are wanted, and says how many; `None` when the keyring stops.
    fn next_order(&self, is_open: impl Fn() -> bool) -> Option<usize> {
        let (mut ready, mut quiet) = (self.ready.lock(), false);
        while !(ready.stopping || is_open() && ready.is_low()) {
            quiet |= self.low.wait_for(&mut ready, QUIET).timed_out();
        }
        (!ready.stopping).then(|| ready.order(quiet))
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
    fn add(
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
    let (mut pause, mut disk) = (PAUSE, Disk::Works);
    while let Some(wanted) = keyring.pool().next_order(|| open(keyring)) {
        // After a failure one key is tried: many at once would only burden who is in trouble.
        let wanted = if pause > PAUSE { 1 } else { wanted };
        let Err(e) = fill_on(keyring, wanted, disk) else {
            (pause, disk) = (PAUSE, Disk::Works);
            continue;
        };
        disk = if matches!(e, NoKeys::Disk(_)) { Disk::Failed } else { Disk::Works };
        refuse(keyring, e);
        keyring.pool().pause(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn open(keyring: &Keyring) -> bool {
    keyring.gate().phase() == Phase::Open
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
            keyring.fail_of(e.verdict)
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
    fill(keyring, SMALLEST).map_err(|e| fail_of(keyring, e).unwrap_or(KeyFail::Late))
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
    fill(keyring, wanted)
}

fn fill(keyring: &Keyring, mut wanted: usize) -> Result<(), NoKeys> {
    while wanted > 0 && open(keyring) {
        let n = wanted.min(usize::from(SLOTS));
        let target = keyring.volume().target();
        let page = make_page(keyring, n);
        scrub_stack();
        let wanted_still = || open(keyring) && keyring.volume().target() == target;
        if let Err(unused) = keyring.pool().add(page?, wanted_still) {
            // Locked, or an alias moved, while the page was made: its keys are dropped, its lines
            // never used.
            unused.iter().for_each(|c| keyring.dead().add_unused(c.file()));
            return Ok(());
        }
        keyring.files().answer(KeyRequest::Fresh, Ok(()));
        wanted -= n;
    }
    Ok(())
}

/// A data key and its sidecar line.
type Made = (Line, Arc<ContentCipher>);

/// A page of up to `n` keys, durable. Fewer where the KMS stops giving some.
fn make_page(keyring: &Keyring, n: usize) -> Result<Vec<Arc<ContentCipher>>, NoKeys> {
    let _filling = keyring.pool().filling.lock();
    let page = PageId::random();
    let keys = match keyring.volume().settings().data_keys {
        DataKeys::PerFile => by_the_kms(keyring, page, n)?,
        DataKeys::Branch => by_a_branch(keyring, page, n)?,
    };
    if keys.is_empty() || !open(keyring) {
        return Ok(Vec::new());
    }
    let (mut lines, ciphers): (Vec<_>, Vec<_>) = keys.into_iter().unzip();
    lines.sort_by_key(|line: &Line| line.slot);
    let _at_store = keyring.files().at_store(KeyRequest::Fresh);
    keyring.store().add_page(page, &Page::of(&lines)).map_err(NoKeys::Disk)?;
    Ok(ciphers)
}

/// Keys that are made here and wrapped by the present branch key.
fn by_a_branch(keyring: &Keyring, page: PageId, n: usize) -> Result<Vec<Made>, NoKeys> {
    let Some(branch) = present::for_new(keyring, n)? else { return Ok(Vec::new()) };
    let volume = keyring.volume().id();
    let make = |slot| {
        let (file, key) = (FileId::new(page, slot), Key::random());
        let kind = WrapKind::Branch(branch.id());
        keyring.branches().origins().tell(branch.id(), file);
        let (wrapped, check) = (branch.wrap(&key, file), check(&key, volume, file));
        let line = Line { slot, kind, key: wrapped, second: None, check };
        (line, Arc::new(ContentCipher::new(&key, volume, file)))
    };
    Ok((0..SLOTS).take(n).map(make).collect())
}

/// Keys that the KMS makes, side by side.
fn by_the_kms(keyring: &Keyring, page: PageId, n: usize) -> Result<Vec<Made>, NoKeys> {
    let Some(second) = present::for_second(keyring, n)? else { return Ok(Vec::new()) };
    let slots = parking_lot::Mutex::new((0..SLOTS).take(n));
    let made = parking_lot::Mutex::new((Vec::with_capacity(n), None));
    let work = || {
        // A lock is not to find keys on their way: what is left of the page is not asked for.
        while let Some(slot) = { slots.lock().next() }
            && open(keyring)
            && keyring.wait_for_rate()
        {
            match make_key(keyring, &second, FileId::new(page, slot)) {
                Ok(key) => made.lock().0.push(key),
                Err(e) => {
                    made.lock().1.get_or_insert(e);
                    break;
                }
            }
        }
        scrub_stack();
    };
    let threads = keyring.service().parallelism().min(n);
    std::thread::scope(|scope| {
        // With fewer threads it takes longer.
        (1..threads).for_each(|_| drop(spawn_in(scope, Role::PoolCall, work)));
        work();
    });
    let (keys, error) = made.into_inner();
    match error {
        Some(e) if keys.is_empty() => Err(NoKeys::Kms(e)),
        _ => Ok(keys),
    }
}

fn make_key(keyring: &Keyring, second: &Second, file: FileId) -> Result<Made, KmsError> {
    let volume = keyring.volume().id();
    let context = Context::file(volume, file);
    let made = keyring.volume().generate(keyring.service(), &context)?;
    keyring.masters().saw(&made.master, &made.wrapped, &context);
    let second = match second {
        Second::None => None,
        Second::By(branch) => {
            Some(SecondWrap { branch: branch.id(), key: branch.wrap(&made.key, file) })
        }
    };
    let line = Line {
        slot: file.slot(),
        kind: WrapKind::Master(made.master),
        key: made.wrapped,
        second,
        check: check(&made.key, volume, file),
    };
    Ok((line, Arc::new(ContentCipher::new(&made.key, volume, file))))
}
