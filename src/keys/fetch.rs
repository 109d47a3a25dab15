//! The threads that unwrap data keys.

use std::time::Duration;

use super::branches;
use super::keyring::Keyring;
use super::machine::{Phase, Reason};
use super::pool;
use super::want::{KeyFail, Want};
use crate::clock::Moment;
use crate::content::{ContentCipher, check};
use crate::ids::{BranchId, FileId, PageId};
use crate::kms::{Context, KeyArn, KeyRef};
use crate::secret::{Key, scrub_stack};
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

/// How far a fetch came that nothing refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fetched<K> {
    /// To the key.
    Key(K),
    /// The KMS gave no answer that counts.
    NoAnswer,
    /// Another thread is asking for the branch key.
    Shared(BranchId),
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

/// Tells those who wait for a key how it ended; where another thread's answer is to come first,
/// the file is parked with that.
pub(super) fn finish(keyring: &Keyring, file: FileId, outcome: Result<Fetched<()>, KeyFail>) {
    scrub_stack();
    if let Ok(Fetched::Shared(branch)) = outcome {
        if !keyring.branches.park(branch, file) {
            again(keyring, &[file]);
        }
        return;
    }
    let mut inner = keyring.inner.lock();
    inner.in_flight.remove(&file);
    if outcome == Ok(Fetched::NoAnswer) {
        inner.again = Moment::now() + PAUSE;
    }
    drop(inner);
    match outcome {
        Ok(Fetched::Key(())) => keyring.wake(Want::File(file), Ok(())),
        // Those who wait are asked for again at a later tick.
        Ok(_) => {}
        Err(fail) => keyring.wake(Want::File(file), Err(fail)),
    }
}

/// Queues files again whose fetch waited for another.
pub(super) fn again(keyring: &Keyring, files: &[FileId]) {
    keyring.inner.lock().queue.extend(files);
    keyring.fetch_work.notify_all();
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
/// are worth making side by side they are queued; where not, and where a branch key opens them,
/// they are the caller's to fetch.
fn look_ahead(keyring: &Keyring, page: PageId, lines: &Lines) -> Vec<FileId> {
    let mut inner = keyring.inner.lock();
    if !inner.ahead.miss(page) {
        return Vec::new();
    }
    let room = keyring.most_ahead.saturating_sub(inner.later.len());
    let (mut slots, mut own) = (Vec::new(), Vec::new());
    for line in &lines.all {
        let file = FileId::new(page, line.slot);
        if slots.len() < room && !inner.cache.has(file) && inner.in_flight.insert(file) {
            slots.push(line.slot);
            match line.kind {
                WrapKind::Master(_) if keyring.service.parallelism() > 1 => {
                    inner.later.push_back(file);
                }
                _ => own.push(file),
            }
        }
    }
    inner.ahead.asked(page, &slots);
    drop(inner);
    if own.len() < slots.len() {
        keyring.fetch_work.notify_all();
    }
    own
}

/// Fetches these keys of a page one after another, as long as nothing stands against it. Whoever
/// waits for one that is not fetched is asked for again at the next tick.
fn all_of(keyring: &Keyring, lines: &Lines, files: Vec<FileId>) {
    let mut rest = files.into_iter();
    for file in rest.by_ref() {
        let outcome = fetch(keyring, lines, file);
        let go_on = !matches!(outcome, Ok(Fetched::NoAnswer) | Err(KeyFail::Closed(_)));
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
struct Lines {
    all: Vec<Line>,
    /// When the page was read: a line may be gone since.
    read: Moment,
}

fn read(keyring: &Keyring, page: PageId) -> Result<Lines, KeyFail> {
    let at = Moment::now();
    let read = keyring.store.read_page(page).map_err(|e| {
        log::error!("sidecar page {page}: {e}");
        KeyFail::Rejected
    })?;
    Ok(Lines { all: read.unwrap_or_default().readable().collect(), read: at })
}

/// Unwraps one file's key into the cache. A refusal counts only if the lines are still what was
/// asked about: a rewrap may have replaced them, and the old master key been disabled since.
fn fetch(keyring: &Keyring, lines: &Lines, file: FileId) -> Result<Fetched<()>, KeyFail> {
    let outcome = try_lines(keyring, lines, file);
    if outcome == Err(KeyFail::Closed(Reason::Refused)) {
        let now = read(keyring, file.page())?;
        if now.all != lines.all {
            return try_lines(keyring, &now, file);
        }
    }
    outcome
}

/// Where several lines claim the file's slot, the one whose check verifies counts.
fn try_lines(keyring: &Keyring, lines: &Lines, file: FileId) -> Result<Fetched<()>, KeyFail> {
    let volume = keyring.volume.id();
    for line in lines.all.iter().filter(|l| l.slot == file.slot()) {
        let unwrapped = match &line.kind {
            WrapKind::Master(master) => unwrap(keyring, master, line, file),
            WrapKind::Branch(branch) => branches::unwrap(keyring, *branch, line, file),
        };
        match unwrapped {
            Ok(Fetched::Key((key, since))) if check(&key, volume, file) == line.check => {
                keyring.admit(ContentCipher::new(&key, volume, file), since, lines.read);
                return Ok(Fetched::Key(()));
            }
            Ok(Fetched::Key(_)) => log::warn!("file {file}: the unwrapped key fails its check"),
            Ok(Fetched::NoAnswer) => return Ok(Fetched::NoAnswer),
            Ok(Fetched::Shared(branch)) => return Ok(Fetched::Shared(branch)),
            Err(KeyFail::Rejected) => {}
            Err(fail) => return Err(fail),
        }
    }
    Err(KeyFail::Rejected)
}

/// Has the KMS unwrap the key of one line: the key, and since when it is known.
fn unwrap(
    keyring: &Keyring,
    master: &KeyArn,
    line: &Line,
    file: FileId,
) -> Result<Fetched<(Key, Moment)>, KeyFail> {
    if !keyring.volume.accepts(master) {
        log::warn!("file {file}: its line names {master}, which is not accepted");
        return Err(KeyFail::Rejected);
    }
    if !keyring.wait_turn() {
        return Ok(Fetched::NoAnswer);
    }
    let context = Context::file(keyring.volume.id(), file);
    let since = Moment::now();
    match keyring.service.decrypt(&KeyRef::from(master), &line.key, &context) {
        Ok(got) => Ok(Fetched::Key((got.key, since))),
        Err(e) => {
            log::warn!("file {file}: {e}");
            keyring.fail_of(e.verdict).map_or(Ok(Fetched::NoAnswer), Err)
        }
    }
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
            Want::File(file) => self.supply_file(file),
            Want::Fresh => pool::supply(self),
            Want::Beat => {
                self.gate().heard(Moment::now());
                Ok(())
            }
        }
    }

    fn supply_file(&self, file: FileId) -> Result<(), KeyFail> {
        let lines = read(self, file.page())?;
        loop {
            match fetch(self, &lines, file)? {
                Fetched::Key(()) => return Ok(()),
                Fetched::NoAnswer => return Err(KeyFail::Late),
                Fetched::Shared(branch) => self.branches.wait(branch),
            }
        }
    }
}
