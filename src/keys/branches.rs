//! The branch keys at hand: those whose lines were read.
//!
//! One call is in flight for a branch key. Fetch threads do not wait for each other's: a file
//! whose branch key is being asked for is parked with it, and queued again when the answer comes.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;

use super::audit::BranchOrigins;
use super::branch::BranchKey;
use super::cache::Expiry;
use super::fetch::{self, Fetched};
use super::gate::Gate;
use super::keyring::Keyring;
use super::phase::{Phase, Reason};
use super::present::Present;
use super::request::KeyFail;
use crate::clock::Moment;
use crate::ids::{BranchId, FileId};
use crate::kms::{Context, KeyRef, Verdict};
use crate::secret::{Key, scrub_stack};
use crate::store::{ByKms, Line};
use crate::sync::{Condvar, Mutex};

/// How many branch keys are kept: each serves up to 65,536 files.
const KEPT: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// What a branch file was found to hold.
pub(super) struct Known {
    pub(super) by: ByKms,
    /// `None` where the KMS refused this wrapped key alone.
    pub(super) key: Option<Arc<BranchKey>>,
    /// When the KMS answered.
    pub(super) since: Moment,
}

struct State {
    known: LruCache<BranchId, Arc<Known>>,
    /// What the KMS is being asked for, and the files that are parked with it.
    asked: HashMap<BranchId, Vec<FileId>>,
}

/// What is to be done for a branch key.
enum Look {
    Known(Arc<Known>),
    /// Another thread asks the KMS.
    Asked,
    /// The caller is to ask, and then to say so by [`Branches::answer`].
    Ask,
}

/// A cache of branch keys, and beside it the one that wraps new data keys. Branch keys wipe
/// themselves when the last user lets go.
pub(super) struct Branches {
    present: Present,
    state: Mutex<State>,
    answered: Condvar,
    ttl: Duration,
    origins: BranchOrigins,
}

impl Branches {
    pub(super) fn new(ttl: Duration) -> Self {
        let mut known = LruCache::unbounded();
        known.resize(KEPT);
        let state = State { known, asked: HashMap::new() };
        Self {
            present: Present::default(),
            state: Mutex::new(state),
            answered: Condvar::new(),
            ttl,
            origins: BranchOrigins::default(),
        }
    }

    /// The branch key of new data keys.
    pub(super) fn present(&self) -> &Present {
        &self.present
    }

    fn look(&self, branch: BranchId, now: Moment, expiry: Expiry) -> Look {
        let mut state = self.state.lock();
        if let Some(known) = state.known.get(&branch) {
            if now.since(known.since) < self.ttl || expiry == Expiry::Outage {
                return Look::Known(known.clone());
            }
            state.known.pop(&branch);
        }
        if state.asked.contains_key(&branch) {
            return Look::Asked;
        }
        state.asked.insert(branch, Vec::new());
        Look::Ask
    }

    /// Takes what the KMS answered, unless the mount was locked meanwhile. Gives the files that
    /// were parked with the question.
    fn answer(&self, branch: BranchId, known: Option<&Arc<Known>>, gate: &Gate) -> Vec<FileId> {
        if let Some(known) = known {
            self.keep(branch, known.clone(), gate);
        }
        let mut state = self.state.lock();
        self.answered.notify_all();
        state.asked.remove(&branch).unwrap_or_default()
    }

    /// Keeps a branch key, unless the mount was locked meanwhile.
    pub(super) fn keep(&self, branch: BranchId, known: Arc<Known>, gate: &Gate) {
        let mut state = self.state.lock();
        if !matches!(gate.phase(), Phase::Locked(_)) {
            state.known.push(branch, known);
        }
    }

    /// Where it is told which branch keys files' keys come from.
    pub(super) fn origins(&self) -> &BranchOrigins {
        &self.origins
    }

    /// Parks a file with the question for its branch key; `false` when that is answered already.
    pub(super) fn park(&self, branch: BranchId, file: FileId) -> bool {
        let mut state = self.state.lock();
        state.asked.get_mut(&branch).map(|files| files.push(file)).is_some()
    }

    /// Waits until nobody asks for this branch key.
    pub(super) fn wait(&self, branch: BranchId) {
        let mut state = self.state.lock();
        while state.asked.contains_key(&branch) {
            self.answered.wait(&mut state);
        }
    }

    /// Forgets what another branch file held.
    fn forget(&self, branch: BranchId, other: &ByKms) {
        let mut state = self.state.lock();
        if state.known.peek(&branch).is_some_and(|known| known.by == *other) {
            state.known.pop(&branch);
        }
    }

    /// Drops those whose time is up. The present one stays: it unwraps nothing.
    pub(super) fn expire(&self, now: Moment) {
        let mut state = self.state.lock();
        let old = |known: &Known| now.since(known.since) >= self.ttl;
        let gone: Vec<_> = state.known.iter().filter(|(_, k)| old(k)).map(|(b, _)| *b).collect();
        for branch in gone {
            state.known.pop(&branch);
        }
    }

    /// Drops every key.
    pub(super) fn wipe(&self) {
        self.state.lock().known.clear();
        self.present.wipe();
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.state.lock().known.len() + self.present.len()
    }
}

/// Unwraps the data key of a line under a branch key. A branch key that does not open the line is
/// asked for afresh, if its file has been put right since.
///
/// # Errors
/// `Rejected` for this line; `Closed`.
pub(super) fn unwrap(
    keyring: &Keyring,
    branch: BranchId,
    line: &Line,
    file: FileId,
) -> Result<Fetched<(Key, Moment)>, KeyFail> {
    loop {
        let known = match keyring.branches().look(branch, Moment::now(), keyring.expiry()) {
            Look::Known(known) => known,
            Look::Asked => return Ok(Fetched::Shared(branch)),
            Look::Ask => match ask(keyring, branch)? {
                Some(known) => known,
                None => return Ok(Fetched::Inconclusive),
            },
        };
        if !keyring.volume().accepts(&known.by.master) {
            log::warn!("branch key {branch} is under {}, which is not accepted", known.by.master);
            return Err(KeyFail::Rejected);
        }
        if let Some(key) = known.key.as_ref().and_then(|k| k.unwrap(&line.key, file)) {
            keyring.branches().origins().tell(branch, file);
            return Ok(Fetched::Key((key, known.since)));
        }
        if read(keyring, branch).is_ok_and(|by| by != known.by) {
            keyring.branches().forget(branch, &known.by);
            continue;
        }
        log::warn!("file {file}: branch key {branch} does not open its line");
        return Err(KeyFail::Rejected);
    }
}

/// Asks the KMS for a branch key, and sees to the files that were parked meanwhile; `None` when it
/// gave no answer that counts.
fn ask(keyring: &Keyring, branch: BranchId) -> Result<Option<Arc<Known>>, KeyFail> {
    let outcome = decrypt(keyring, branch);
    scrub_stack();
    let known = outcome.as_ref().ok().and_then(Option::as_ref);
    let parked = keyring.branches().answer(branch, known, keyring.gate());
    match &outcome {
        // Each finds out for itself, without a call.
        Ok(Some(_)) | Err(KeyFail::Rejected) => keyring.files().requeue(&parked),
        Ok(None) => {
            parked.iter().for_each(|f| fetch::finish(keyring, *f, Ok(Fetched::Inconclusive)))
        }
        Err(fail) => parked.iter().for_each(|f| fetch::finish(keyring, *f, Err(*fail))),
    }
    outcome
}

/// A refusal counts only if the file is still what was asked about: a rewrap may have replaced
/// it, and the old master key been disabled since.
fn decrypt(keyring: &Keyring, branch: BranchId) -> Result<Option<Arc<Known>>, KeyFail> {
    let by = read(keyring, branch)?;
    let outcome = try_wrap(keyring, branch, &by);
    if outcome.as_ref().is_err_and(|e| *e == KeyFail::Closed(Reason::Refused)) {
        let now = read(keyring, branch)?;
        if now != by {
            return try_wrap(keyring, branch, &now);
        }
    }
    outcome
}

fn read(keyring: &Keyring, branch: BranchId) -> Result<ByKms, KeyFail> {
    let file = keyring.store().read_branch(branch).map_err(|e| {
        log::warn!("branch key {branch}: {e}");
        KeyFail::Rejected
    })?;
    file.by_kms.ok_or_else(|| {
        log::warn!("branch key {branch}: the KMS did not wrap it");
        KeyFail::Rejected
    })
}

fn try_wrap(
    keyring: &Keyring,
    branch: BranchId,
    by: &ByKms,
) -> Result<Option<Arc<Known>>, KeyFail> {
    if !keyring.volume().accepts(&by.master) {
        log::warn!("branch key {branch} is under {}, which is not accepted", by.master);
        return Err(KeyFail::Rejected);
    }
    if !keyring.wait_for_rate() {
        return Ok(None);
    }
    let (volume, since) = (keyring.volume().id(), Moment::now());
    let context = Context::branch(volume, branch);
    let key = match keyring.service().decrypt(&KeyRef::from(&by.master), &by.key, &context) {
        Ok(got) => {
            keyring.masters().saw(&by.master, &by.key, &context);
            Some(Arc::new(BranchKey::new(&got.key, volume, branch)))
        }
        Err(e) => {
            log::warn!("branch key {branch}: {e}");
            if e.verdict != Verdict::ThisKey {
                return keyring.fail_of(&e).map_or(Ok(None), Err);
            }
            None
        }
    };
    Ok(Some(Arc::new(Known { by: by.clone(), key, since })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kms::{KeyArn, Wrapped};

    const GATE_PATIENCE: Duration = Duration::MAX;

    fn known(id: u8, since: Moment) -> Known {
        let by = ByKms { master: KeyArn("arn:a".to_owned()), key: Wrapped(vec![id]) };
        let volume = crate::ids::VolumeId([1; 16]);
        let key = BranchKey::new(&Key::random(), volume, BranchId([id; 16]));
        Known { by, key: Some(Arc::new(key)), since }
    }

    fn at(secs: u64) -> Moment {
        Moment(Duration::from_secs(secs))
    }

    fn branches() -> (Branches, Gate) {
        (Branches::new(Duration::from_secs(900)), Gate::new(GATE_PATIENCE))
    }

    #[test]
    fn a_time_to_live_is_absolute_and_an_outage_stretches_it() {
        let (branches, gate) = branches();
        let id = BranchId([1; 16]);
        branches.keep(id, Arc::new(known(1, at(0))), &gate);
        for t in [1, 899] {
            assert!(matches!(branches.look(id, at(t), Expiry::Strict), Look::Known(_)));
        }
        assert!(matches!(branches.look(id, at(900), Expiry::Outage), Look::Known(_)));
        assert!(matches!(branches.look(id, at(900), Expiry::Strict), Look::Ask));
        assert!(matches!(branches.look(id, at(900), Expiry::Strict), Look::Asked), "one asks");
        assert!(branches.park(id, FileId([7; 16])));
        let again = Arc::new(known(1, at(900)));
        assert_eq!(branches.answer(id, Some(&again), &gate), [FileId([7; 16])]);
        assert!(!branches.park(id, FileId([7; 16])), "answered");
        branches.expire(at(1799));
        assert!(matches!(branches.look(id, at(1799), Expiry::Strict), Look::Known(_)));
        branches.expire(at(1800));
        assert!(matches!(branches.look(id, at(1799), Expiry::Outage), Look::Ask), "dropped");
    }

    #[test]
    fn a_locked_mount_takes_no_branch_key() {
        let (branches, gate) = branches();
        branches.keep(BranchId([1; 16]), Arc::new(known(1, at(0))), &gate);
        gate.set(Phase::Locked(crate::keys::Reason::Refused));
        branches.wipe();
        branches.answer(BranchId([3; 16]), Some(&Arc::new(known(3, at(0)))), &gate);
        assert_eq!(branches.len(), 0);
    }
}
