//! The key pool: data keys made ahead of use, their wrapped keys durable in sidecar pages, so
//! that creating a file waits neither for a KMS nor for an fsync.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::branches;
use super::keyring::Keyring;
use super::machine::Phase;
use super::want::{KeyFail, Want};
use crate::clock::Moment;
use crate::content::{ContentCipher, check};
use crate::ids::{FileId, PageId, SLOTS};
use crate::kms::{Context, KmsError};
use crate::secret::{Key, scrub_stack};
use crate::store::{DataKeys, Line, Page, WrapKind};

const SMALLEST: usize = 16;
const LARGEST: usize = 2048;
/// After this long without a refill the pool's size falls back to the smallest.
const QUIET: Duration = Duration::from_secs(60);
/// Between tries when the KMS or the disk gives no keys: doubled each time, up to the longest.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Data keys ready for use.
pub(super) struct Pool {
    ready: VecDeque<Arc<ContentCipher>>,
    target: usize,
}

impl Default for Pool {
    fn default() -> Self {
        Self { ready: VecDeque::new(), target: SMALLEST }
    }
}

impl Pool {
    pub(super) fn take(&mut self) -> Option<Arc<ContentCipher>> {
        self.ready.pop_front()
    }

    pub(super) fn is_low(&self) -> bool {
        self.ready.len() <= self.target / 2
    }

    pub(super) fn len(&self) -> usize {
        self.ready.len()
    }

    /// Drops the keys and names the files whose lines were never used.
    pub(super) fn wipe(&mut self) -> Vec<FileId> {
        self.ready.drain(..).map(|c| c.file()).collect()
    }

    /// How many keys to make now. A pool that ran down by half since its last fill grows.
    fn order(&mut self, quiet: bool) -> usize {
        if quiet {
            self.target = SMALLEST;
        } else if self.ready.is_empty() {
            self.target = (self.target * 2).min(LARGEST);
        }
        self.target.saturating_sub(self.ready.len())
    }
}

/// Why a page of keys could not be made.
pub(super) enum NoKeys {
    Kms(KmsError),
    Disk(std::io::Error),
}

/// The thread that keeps the pool full, until the keyring stops.
pub(super) fn run(keyring: &Keyring) {
    let mut pause = PAUSE;
    loop {
        let wanted = {
            let mut inner = keyring.inner.lock();
            let mut quiet = false;
            while !(inner.stopping || open(keyring) && inner.pool.is_low()) {
                quiet |= keyring.pool_work.wait_for(&mut inner, QUIET).timed_out();
            }
            if inner.stopping {
                return;
            }
            inner.pool.order(quiet)
        };
        // After a failure one key is tried: many at once would only burden who is in trouble.
        let wanted = if pause > PAUSE { 1 } else { wanted };
        let Err(e) = fill(keyring, wanted) else {
            pause = PAUSE;
            continue;
        };
        refuse(keyring, e);
        let end = Moment::now() + pause;
        pause = (pause * 2).min(LONGEST_PAUSE);
        let mut inner = keyring.inner.lock();
        // Those who want a key wake it meanwhile, and it is no use.
        while !inner.stopping && Moment::now() < end {
            keyring.pool_work.wait_for(&mut inner, end.since(Moment::now()));
        }
    }
}

fn open(keyring: &Keyring) -> bool {
    keyring.gate().phase() == Phase::Open
}

fn refuse(keyring: &Keyring, why: NoKeys) {
    if let Some(fail) = fail_of(keyring, why) {
        keyring.wake(Want::Fresh, Err(fail));
    }
}

fn fail_of(keyring: &Keyring, why: NoKeys) -> Option<KeyFail> {
    match why {
        NoKeys::Kms(e) => {
            log::warn!("no new data keys: {e}");
            keyring.fail_of(e.verdict)
        }
        NoKeys::Disk(e) => {
            log::warn!("no new data keys: their wrapped keys cannot be written: {e}");
            Some(KeyFail::Disk(e.raw_os_error().unwrap_or(libc::EIO)))
        }
    }
}

/// Fills the pool on the caller's own thread, for offline jobs.
pub(super) fn supply(keyring: &Keyring) -> Result<(), KeyFail> {
    fill(keyring, SMALLEST).map_err(|e| fail_of(keyring, e).unwrap_or(KeyFail::Late))
}

fn fill(keyring: &Keyring, mut wanted: usize) -> Result<(), NoKeys> {
    while wanted > 0 && open(keyring) {
        let n = wanted.min(usize::from(SLOTS));
        let target = keyring.volume.target();
        let page = make_page(keyring, n);
        scrub_stack();
        let page = page?;
        let mut inner = keyring.inner.lock();
        if !open(keyring) || keyring.volume.target() != target {
            // Locked, or an alias moved, while the page was made: its keys are dropped, its lines
            // never used.
            page.iter().for_each(|c| keyring.dead.add(c.file()));
            return Ok(());
        }
        inner.pool.ready.extend(page);
        drop(inner);
        keyring.wake(Want::Fresh, Ok(()));
        wanted -= n;
    }
    Ok(())
}

/// A data key and its sidecar line.
type Made = (Line, Arc<ContentCipher>);

/// A page of up to `n` keys, durable. Fewer where the KMS stops giving some.
fn make_page(keyring: &Keyring, n: usize) -> Result<Vec<Arc<ContentCipher>>, NoKeys> {
    let _filling = keyring.filling.lock();
    let page = PageId::random();
    let keys = match keyring.volume.settings().data_keys {
        DataKeys::PerFile => by_the_kms(keyring, page, n)?,
        DataKeys::Branch => by_a_branch(keyring, page, n)?,
    };
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let (mut lines, ciphers): (Vec<_>, Vec<_>) = keys.into_iter().unzip();
    lines.sort_by_key(|line: &Line| line.slot);
    keyring.store.add_page(page, &Page::of(&lines)).map_err(NoKeys::Disk)?;
    Ok(ciphers)
}

/// Keys that are made here and wrapped by the present branch key.
fn by_a_branch(keyring: &Keyring, page: PageId, n: usize) -> Result<Vec<Made>, NoKeys> {
    let Some(branch) = branches::for_new(keyring, n)? else { return Ok(Vec::new()) };
    let volume = keyring.volume.id();
    let make = |slot| {
        let (file, key) = (FileId::new(page, slot), Key::random());
        let kind = WrapKind::Branch(branch.id());
        keyring.branches.origins.tell(branch.id(), file);
        let (wrapped, check) = (branch.wrap(&key, file), check(&key, volume, file));
        let line = Line { slot, kind, key: wrapped, check };
        (line, Arc::new(ContentCipher::new(&key, volume, file)))
    };
    Ok((0..SLOTS).take(n).map(make).collect())
}

/// Keys that the KMS makes, side by side.
fn by_the_kms(keyring: &Keyring, page: PageId, n: usize) -> Result<Vec<Made>, NoKeys> {
    let slots = Mutex::new((0..SLOTS).take(n));
    let made = Mutex::new((Vec::with_capacity(n), None));
    let work = || {
        while let Some(slot) = { slots.lock().next() }
            && keyring.wait_turn()
        {
            match make_key(keyring, FileId::new(page, slot)) {
                Ok(key) => made.lock().0.push(key),
                Err(e) => {
                    made.lock().1.get_or_insert(e);
                    return;
                }
            }
        }
    };
    let threads = keyring.service.parallelism().min(n);
    std::thread::scope(|scope| {
        (1..threads).for_each(|_| drop(scope.spawn(work)));
        work();
    });
    let (keys, error) = made.into_inner();
    match error {
        Some(e) if keys.is_empty() => Err(NoKeys::Kms(e)),
        _ => Ok(keys),
    }
}

fn make_key(keyring: &Keyring, file: FileId) -> Result<Made, KmsError> {
    let volume = keyring.volume.id();
    let made = keyring.service.generate(&keyring.volume.asked(), &Context::file(volume, file))?;
    let line = Line {
        slot: file.slot(),
        kind: WrapKind::Master(made.master),
        key: made.wrapped,
        check: check(&made.key, volume, file),
    };
    Ok((line, Arc::new(ContentCipher::new(&made.key, volume, file))))
}
