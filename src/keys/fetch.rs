//! The threads that unwrap data keys.

use std::time::Duration;

use super::keyring::Keyring;
use super::machine::Phase;
use super::pool;
use super::want::{KeyFail, Want};
use crate::clock::Moment;
use crate::content::{ContentCipher, check};
use crate::ids::{FileId, PageId};
use crate::kms::{Context, KeyRef, Verdict};
use crate::secret::scrub_stack;
use crate::store::{Line, WrapKind};

/// The fewest fetch threads: a page of a slow disk must not hold up all.
const FEWEST: usize = 4;

/// How many unwraps run side by side.
pub(super) fn threads(keyring: &Keyring) -> usize {
    keyring.service.parallelism().max(FEWEST)
}

/// Between an unwrap without an answer that counts and the next one of the same key.
const PAUSE: Duration = Duration::from_millis(500);

/// What becomes of the other keys of a page when one is fetched.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Others {
    /// They may be fetched ahead.
    Follow,
    /// They stay.
    Stay,
}

/// A fetch thread: until the keyring stops.
pub(super) fn run(keyring: &Keyring) {
    while let Some((file, others)) = next(keyring) {
        let lines = match read(keyring, file.page()) {
            Ok(lines) => lines,
            Err(fail) => {
                finish(keyring, file, Err(fail));
                continue;
            }
        };
        let follow = match others {
            Others::Follow => look_ahead(keyring, file.page(), &lines),
            Others::Stay => Vec::new(),
        };
        finish(keyring, file, fetch(keyring, &lines, file));
        all_of(keyring, &lines, follow);
    }
}

/// Tells those who wait for a key how it ended.
fn finish(keyring: &Keyring, file: FileId, outcome: Result<Option<()>, KeyFail>) {
    scrub_stack();
    let mut inner = keyring.inner.lock();
    inner.in_flight.remove(&file);
    if outcome == Ok(None) {
        inner.again = Moment::now() + PAUSE;
    }
    drop(inner);
    match outcome {
        // No answer that counts: those who wait are asked for again at a later tick.
        Ok(None) => {}
        Ok(Some(())) => keyring.wake(Want::File(file), Ok(())),
        Err(fail) => keyring.wake(Want::File(file), Err(fail)),
    }
}

/// Waits for the next file; `None` when the keyring stops.
fn next(keyring: &Keyring) -> Option<(FileId, Others)> {
    let mut inner = keyring.inner.lock();
    loop {
        if inner.stopping {
            return None;
        }
        if let Some(file) = inner.queue.pop_front() {
            return Some((file, Others::Follow));
        }
        if let Some(file) = inner.later.pop_front() {
            return Some((file, Others::Stay));
        }
        keyring.fetch_work.wait(&mut inner);
    }
}

/// Claims the other keys of a page, if its files seem to be read one after another. Where calls
/// are worth making side by side they are queued; where not, they are the caller's to fetch.
fn look_ahead(keyring: &Keyring, page: PageId, lines: &[Line]) -> Vec<FileId> {
    let mut inner = keyring.inner.lock();
    if !inner.ahead.miss(page) {
        return Vec::new();
    }
    let room = keyring.most_ahead.saturating_sub(inner.later.len());
    let mut files = Vec::new();
    for file in lines.iter().map(|l| FileId::new(page, l.slot)) {
        if files.len() < room && !inner.cache.has(file) && inner.in_flight.insert(file) {
            files.push(file);
        }
    }
    let slots: Vec<u16> = files.iter().map(|f| f.slot()).collect();
    inner.ahead.asked(page, &slots);
    if keyring.service.parallelism() == 1 {
        return files;
    }
    inner.later.extend(files);
    drop(inner);
    keyring.fetch_work.notify_all();
    Vec::new()
}

/// Fetches these keys of a page one after another, as long as nothing stands against it. Whoever
/// waits for one that is not fetched is asked for again at the next tick.
fn all_of(keyring: &Keyring, lines: &[Line], files: Vec<FileId>) {
    let mut rest = files.into_iter();
    for file in rest.by_ref() {
        let outcome = fetch(keyring, lines, file);
        let go_on = matches!(outcome, Ok(Some(())) | Err(KeyFail::Rejected));
        finish(keyring, file, outcome);
        if !go_on || keyring.gate().phase() != Phase::Open || keyring.inner.lock().stopping {
            break;
        }
    }
    let mut inner = keyring.inner.lock();
    for file in rest {
        inner.in_flight.remove(&file);
    }
}

/// The lines of a page that can be read, parsed once for all of its files.
fn read(keyring: &Keyring, page: PageId) -> Result<Vec<Line>, KeyFail> {
    let read = keyring.store.read_page(page).map_err(|e| {
        log::error!("sidecar page {page}: {e}");
        KeyFail::Rejected
    })?;
    Ok(read.unwrap_or_default().readable().collect())
}

/// Unwraps one file's key into the cache; `None` when the KMS gave no answer that counts. Where
/// several lines claim the file's slot, the one whose check verifies counts.
fn fetch(keyring: &Keyring, lines: &[Line], file: FileId) -> Result<Option<()>, KeyFail> {
    let volume = keyring.volume.id();
    let context = Context::file(volume, file);
    for line in lines.iter().filter(|l| l.slot == file.slot()) {
        let WrapKind::Master(master) = &line.kind else { continue };
        if !keyring.volume.accepts(master) {
            log::warn!("file {file}: its line names {master}, which is not of this volume's KMS");
            continue;
        }
        if !keyring.wait_turn() {
            return Ok(None);
        }
        match keyring.service.decrypt(&KeyRef::from(master), &line.key, &context) {
            Ok(got) if check(&got.key, volume, file) == line.check => {
                keyring.admit(ContentCipher::new(&got.key, volume, file));
                return Ok(Some(()));
            }
            Ok(_) => log::warn!("file {file}: the unwrapped key fails its check"),
            Err(e) if e.verdict == Verdict::ThisKey => log::warn!("file {file}: {e}"),
            Err(e) => {
                log::warn!("file {file}: {e}");
                return keyring.fail_of(e.verdict).map_or(Ok(None), Err);
            }
        }
    }
    Err(KeyFail::Rejected)
}

/// How long a wait for the budget goes on before it is looked at whether it still makes sense.
const SLICE: Duration = Duration::from_millis(50);

impl Keyring {
    /// Waits until the budget has a call; `false` when the keyring stops or locks meanwhile.
    pub(super) fn wait_turn(&self) -> bool {
        let due = Moment::now() + self.rate.reserve(Moment::now());
        loop {
            let left = due.since(Moment::now());
            if left.is_zero() {
                return true;
            }
            if self.inner.lock().stopping || matches!(self.gate().phase(), Phase::Locked(_)) {
                return false;
            }
            std::thread::sleep(left.min(SLICE));
        }
    }

    /// Fetches what is wanted on the caller's own thread: for offline jobs, which have no
    /// monitor and may wait. A mount never calls it.
    ///
    /// # Errors
    /// `Late` when the KMS gives no answer that counts; `Closed`, `Rejected`.
    pub fn supply(&self, want: Want) -> Result<(), KeyFail> {
        match want {
            Want::File(file) => fetch(self, &read(self, file.page())?, file)?.ok_or(KeyFail::Late),
            Want::Fresh => pool::supply(self),
            Want::Beat => {
                self.gate().heard(Moment::now());
                Ok(())
            }
        }
    }
}
