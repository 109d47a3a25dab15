//! The threads that unwrap data keys.

use std::time::Duration;

use super::branches;
use super::files::Fetches;
use super::keyring::Keyring;
use super::phase::{Phase, Reason};
use super::pool;
use super::queue::{Neighbours, Task};
use super::request::{KeyFail, KeyRequest};
use crate::clock::Moment;
use crate::content::{ContentCipher, check};
use crate::ids::{BranchId, FileId, PageId};
use crate::kms::{Context, KeyArn, KeyRef, KmsError, Verdict};
use crate::secret::{Key, scrub_stack};
use crate::store::{Line, WrapKind};

/// The fewest fetch threads: a page of a slow disk must not hold up all.
const FEWEST: usize = 4;

/// How many unwraps run side by side.
pub(super) fn threads(keyring: &Keyring) -> usize {
    keyring.service().parallelism().max(FEWEST)
}

/// How far a fetch came that nothing refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fetched<K> {
    /// To the key.
    Key(K),
    /// The KMS said neither yes nor no: it is out of reach, or the credentials are.
    Inconclusive,
    /// Another thread is asking for the branch key.
    Shared(BranchId),
}

/// A fetch thread: until the keyring stops.
pub(super) fn run(keyring: &Keyring) {
    while let Some(task) = keyring.files().next() {
        match task {
            // Those who wait were answered.
            Task::File(file, neighbours) => drop(fetch_claimed(keyring, file, neighbours)),
            Task::Page(page) => fetch_ahead(keyring, page),
        }
    }
}

/// Has the keys of a page fetched that nobody waits for yet. There may be no such page.
fn fetch_ahead(keyring: &Keyring, page: PageId) {
    // A locked mount asks for nothing but beats.
    if keyring.gate().is_open()
        && let Ok(lines) = read(keyring, page)
    {
        let own = keyring.files().claim_page(page, &lines.all);
        all_of(keyring, &lines, own);
    }
}

/// Fetches a key that the caller has claimed, and answers those who wait for it; then its
/// neighbours, where they may follow.
fn fetch_claimed(
    keyring: &Keyring,
    file: FileId,
    neighbours: Neighbours,
) -> Result<Fetched<()>, KeyFail> {
    let read = {
        let _at_store = keyring.files().at_store(KeyRequest::File(file));
        read(keyring, file.page())
    };
    let lines = read.inspect_err(|fail| finish(keyring, file, Err(*fail)))?;
    let follow = match neighbours {
        Neighbours::Follow => keyring.files().look_ahead(file.page(), &lines.all),
        Neighbours::Stay => Vec::new(),
    };
    let outcome = fetch(keyring, &lines, file);
    finish(keyring, file, outcome);
    all_of(keyring, &lines, follow);
    outcome
}

/// Has those who wait for a key answered; where another thread's answer is to come first, the
/// file is parked with that.
pub(super) fn finish(keyring: &Keyring, file: FileId, outcome: Result<Fetched<()>, KeyFail>) {
    scrub_stack();
    match outcome {
        Ok(Fetched::Key(())) => keyring.files().finish(file, Ok(())),
        Ok(Fetched::Inconclusive) => keyring.files().finish_inconclusively(file),
        Ok(Fetched::Shared(branch)) => {
            if !keyring.branches().park(branch, file) {
                keyring.files().requeue(&[file]);
            }
        }
        Err(fail) => keyring.files().finish(file, Err(fail)),
    }
}

/// Fetches these keys of a page one after another, as long as nothing stands against it. Whoever
/// waits for one that is not fetched is asked for again at the next tick.
fn all_of(keyring: &Keyring, lines: &Lines, files: Vec<FileId>) {
    let mut rest = files.into_iter();
    for file in rest.by_ref() {
        let outcome = fetch(keyring, lines, file);
        let go_on = !matches!(outcome, Ok(Fetched::Inconclusive) | Err(KeyFail::Closed(_)));
        finish(keyring, file, outcome);
        if !go_on || !keyring.gate().is_open() || keyring.is_stopping() {
            break;
        }
    }
    keyring.files().unclaim(rest);
}

/// The lines of a page that can be read, parsed once for all of its files.
struct Lines {
    all: Vec<Line>,
    /// When the page was read: a line may be gone since.
    read: Moment,
}

fn read(keyring: &Keyring, page: PageId) -> Result<Lines, KeyFail> {
    let at = Moment::now();
    let read = keyring.store().read_page(page).map_err(|e| {
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
    let volume = keyring.volume().id();
    for line in lines.all.iter().filter(|l| l.slot == file.slot()) {
        let unwrapped = match &line.kind {
            WrapKind::Master(master) => unwrap(keyring, master, line, file),
            WrapKind::Branch(branch) => branches::unwrap(keyring, *branch, line, file),
        };
        match unwrapped {
            Ok(Fetched::Key((key, since))) if check(&key, volume, file) == line.check => {
                keyring.files().admit(ContentCipher::new(&key, volume, file), since, lines.read);
                return Ok(Fetched::Key(()));
            }
            Ok(Fetched::Key(_)) => log::warn!("file {file}: the unwrapped key fails its check"),
            Ok(Fetched::Inconclusive) => return Ok(Fetched::Inconclusive),
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
    if !keyring.volume().accepts(master) {
        log::warn!("file {file}: its line names {master}, which is not accepted");
        return Err(KeyFail::Rejected);
    }
    if !keyring.wait_for_rate() {
        return Ok(Fetched::Inconclusive);
    }
    let context = Context::file(keyring.volume().id(), file);
    let since = Moment::now();
    match keyring.service().decrypt(&KeyRef::from(master), &line.key, &context) {
        Ok(got) => {
            keyring.masters().saw(master, &line.key, &context);
            Ok(Fetched::Key((got.key, since)))
        }
        Err(e) => {
            log::warn!("file {file}: {e}");
            keyring.fail_of(&e).map_or(Ok(Fetched::Inconclusive), Err)
        }
    }
}

/// How long a wait for the budget goes on before it is looked at whether it still makes sense.
const SLICE: Duration = Duration::from_millis(50);

impl Keyring {
    /// A failed call's meaning; a refusal asks for a beat, and throttling for fewer calls.
    pub(super) fn fail_of(&self, e: &KmsError) -> Option<KeyFail> {
        self.heed(e);
        match e.verdict {
            Verdict::Refused => {
                self.beats().ask();
                Some(KeyFail::Closed(Reason::Refused))
            }
            verdict if verdict.is_inconclusive() => None,
            _ => Some(KeyFail::Rejected),
        }
    }

    /// Asks for less of a KMS that throttles.
    pub(super) fn heed(&self, e: &KmsError) {
        if e.is_throttling() {
            self.rate().throttled(Moment::now());
        }
    }

    /// Waits until the budget has a call; `false` when the keyring stops or locks meanwhile.
    pub(super) fn wait_for_rate(&self) -> bool {
        let due = Moment::now() + self.rate().reserve(Moment::now());
        loop {
            let left = due.since(Moment::now());
            if left.is_zero() {
                return true;
            }
            if self.is_stopping() || matches!(self.gate().phase(), Phase::Locked(_)) {
                return false;
            }
            std::thread::sleep(left.min(SLICE));
        }
    }

    /// Fetches a file's key on the thread of the request that wants it, where the KMS is a folder
    /// of this machine: it answers as quickly as the store does, and waking a thread would cost
    /// more. `None` where the request has to wait for the keyring's threads.
    ///
    /// # Errors
    /// `Closed`, `Rejected`.
    pub fn fetch_here(&self, request: KeyRequest) -> Option<Result<(), KeyFail>> {
        let KeyRequest::File(file) = request else { return None };
        let is_quick = Fetches::worth(self.service()) == Fetches::InTurn && self.rate().is_free();
        if !is_quick || !self.gate().is_open() || !self.files().claim(file) {
            return None;
        }
        match fetch_claimed(self, file, Neighbours::Follow) {
            Ok(Fetched::Key(())) => Some(Ok(())),
            Ok(Fetched::Inconclusive | Fetched::Shared(_)) => None,
            Err(fail) => Some(Err(fail)),
        }
    }

    /// Fetches what is wanted on the caller's own thread: for offline jobs, which have no
    /// monitor and may wait. A mount never calls it.
    ///
    /// # Errors
    /// `Late` when the KMS gives no answer that counts; `Closed`, `Rejected`.
    pub fn supply(&self, want: KeyRequest) -> Result<(), KeyFail> {
        match want {
            KeyRequest::File(file) => self.supply_file(file),
            KeyRequest::Fresh => pool::supply(self),
            KeyRequest::Beat => {
                self.gate().mark_fresh(Moment::now());
                Ok(())
            }
        }
    }

    fn supply_file(&self, file: FileId) -> Result<(), KeyFail> {
        let lines = read(self, file.page())?;
        loop {
            match fetch(self, &lines, file)? {
                Fetched::Key(()) => return Ok(()),
                Fetched::Inconclusive => return Err(KeyFail::Late),
                Fetched::Shared(branch) => self.branches().wait(branch),
            }
        }
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use std::num::NonZeroU32;
    use std::sync::Arc;

    use super::super::answers::Answer;
    use super::super::fixture::{Says, close, keyring_over, keyring_with_rate, kms, volume};
    use super::*;
    use crate::disk::sim::Sim;
    use crate::kms::Verdict;

    /// A file with a key on this volume.
    fn a_file(disk: &Sim) -> FileId {
        let keyring = keyring_over(disk, kms());
        keyring.supply(KeyRequest::Fresh).expect("the keystore answers");
        keyring.fresh().expect("filled").file()
    }

    /// Each cold file woke four threads in turn, for a key that the keystore gives in microseconds.
    #[test]
    fn a_quick_kms_is_asked_by_the_request_itself() {
        let disk = volume();
        let file = a_file(&disk);
        let request = KeyRequest::File(file);
        let keyring = keyring_over(&disk, kms());
        assert_eq!(keyring.fetch_here(request), Some(Ok(())));
        assert!(keyring.cipher(file).is_ok());
        assert_eq!(keyring.fetch_here(KeyRequest::Fresh), None, "a page is written, and synced");

        // While another thread has it, its answer is waited for; and then it may be had again.
        let keyring = keyring_over(&disk, kms());
        keyring.wait_for(request, keyring.answers().ticket());
        assert_eq!(keyring.fetch_here(request), None);
        assert_eq!(keyring.files().take_queue(), [file]);
        assert_eq!(keyring.fetch_here(request), Some(Ok(())));
        assert_eq!(keyring.answers().take().len(), 1, "who waited is answered by it");

        close(&keyring, Phase::Locked(Reason::Operator));
        drop(keyring.wipe());
        assert_eq!(keyring.fetch_here(request), None);
        assert!(keyring.cipher(file).is_err());
    }

    /// A disk that took five seconds for a page of new keys was EKEYEXPIRED to whoever made a file.
    #[test]
    fn nobody_is_late_while_the_store_is_slow() {
        let keyring = keyring_over(&volume(), kms());
        let late = [KeyRequest::Fresh, KeyRequest::File(a_file(&volume()))].map(|request| {
            let ticket = keyring.answers().ticket();
            keyring.wait_for(request, ticket);
            let answers_after = |seconds| {
                keyring.tick(Moment::now() + Duration::from_secs(seconds));
                keyring.answers().take()
            };
            let at_store = keyring.files().at_store(request);
            assert_eq!(answers_after(60), []);
            drop(at_store);
            (0..100).for_each(|_| drop(keyring.files().at_store(request)));
            assert_eq!(answers_after(3), [], "the KMS has its time");
            answers_after(5) == [Answer::Outcome(ticket, Err(KeyFail::Late))]
        });
        assert_eq!(late, [true; 2]);
    }

    #[test]
    fn a_slow_kms_is_not_asked_by_a_request_and_a_budget_is_not_waited_for() {
        let disk = volume();
        let request = KeyRequest::File(a_file(&disk));
        let asked = |calls| {
            let says = Says { verdict: Verdict::Refused, code: "Code", calls };
            keyring_over(&disk, Arc::new(says)).fetch_here(request)
        };
        assert!(asked(1).is_some_and(|answer| answer.is_err()), "else this test sees nothing");
        assert_eq!(asked(2), None);
        let limited = keyring_with_rate(&disk, kms(), NonZeroU32::new(1000));
        assert_eq!(limited.fetch_here(request), None);
    }
}
