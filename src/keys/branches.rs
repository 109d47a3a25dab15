//! The branch keys at hand: those whose lines were read, and the one that new keys are wrapped by.
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
use super::pool::NoKeys;
use super::request::KeyFail;
use crate::clock::Moment;
use crate::ids::{BranchId, FileId};
use crate::kms::{Context, KeyArn, KeyRef, Verdict};
use crate::secret::{Key, scrub_stack};
use crate::store::{BranchFile, Line};
use crate::sync::{Condvar, Mutex};

/// How many branch keys are kept: each serves up to [`MOST_KEYS`] files.
const KEPT: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");
/// How many data keys one branch key wraps.
const MOST_KEYS: usize = 65_536;
/// How long a branch key wraps new data keys.
const OLDEST: Duration = Duration::from_secs(24 * 60 * 60);

/// What a branch file was found to hold.
pub(super) struct Known {
    file: BranchFile,
    /// `None` where the KMS refused this wrapped key alone.
    key: Option<Arc<BranchKey>>,
    /// When the KMS answered.
    since: Moment,
}

/// The branch key of new data keys. It is never one of an earlier mount, whose count is not known.
struct Present {
    key: Arc<BranchKey>,
    master: KeyArn,
    since: Moment,
    left: usize,
}

struct State {
    known: LruCache<BranchId, Arc<Known>>,
    /// What the KMS is being asked for, and the files that are parked with it.
    asked: HashMap<BranchId, Vec<FileId>>,
    present: Option<Present>,
}

/// What is to be done for a branch key.
enum Look {
    Known(Arc<Known>),
    /// Another thread asks the KMS.
    Asked,
    /// The caller is to ask, and then to say so by [`Branches::answer`].
    Ask,
}

/// A cache of branch keys, and the one that wraps new data keys. Branch keys wipe themselves when
/// the last user lets go.
pub(super) struct Branches {
    state: Mutex<State>,
    answered: Condvar,
    ttl: Duration,
    origins: BranchOrigins,
}

impl Branches {
    pub(super) fn new(ttl: Duration) -> Self {
        let mut known = LruCache::unbounded();
        known.resize(KEPT);
        let state = State { known, asked: HashMap::new(), present: None };
        Self {
            state: Mutex::new(state),
            answered: Condvar::new(),
            ttl,
            origins: BranchOrigins::default(),
        }
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
        let mut state = self.state.lock();
        if let Some(known) = known
            && !matches!(gate.phase(), Phase::Locked(_))
        {
            state.known.push(branch, known.clone());
        }
        self.answered.notify_all();
        state.asked.remove(&branch).unwrap_or_default()
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
    fn forget(&self, branch: BranchId, other: &BranchFile) {
        let mut state = self.state.lock();
        if state.known.peek(&branch).is_some_and(|known| known.file == *other) {
            state.known.pop(&branch);
        }
    }

    /// The present branch key, with `n` data keys taken off what it may wrap; `None` where there
    /// is none that may wrap as many.
    fn take(&self, n: usize, now: Moment) -> Option<Arc<BranchKey>> {
        let mut state = self.state.lock();
        let present = state.present.as_mut().filter(|p| now.since(p.since) < OLDEST)?;
        present.left = present.left.checked_sub(n)?;
        Some(present.key.clone())
    }

    /// Takes a new present branch key, unless the mount was locked meanwhile.
    fn begin(&self, known: Known, left: usize, gate: &Gate) -> Option<Arc<BranchKey>> {
        let key = known.key.clone()?;
        let mut state = self.state.lock();
        if matches!(gate.phase(), Phase::Locked(_)) {
            return None;
        }
        let (master, since) = (known.file.master.clone(), known.since);
        state.present = Some(Present { key: key.clone(), master, since, left });
        state.known.push(key.id(), Arc::new(known));
        Some(key)
    }

    /// New data keys come from this master key: a branch key under another wraps no more.
    pub(super) fn follow(&self, master: &KeyArn) {
        self.state.lock().present.take_if(|present| present.master != *master);
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
        let mut state = self.state.lock();
        state.known.clear();
        state.present = None;
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let state = self.state.lock();
        state.known.len() + usize::from(state.present.is_some())
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
        if !keyring.volume().accepts(&known.file.master) {
            log::warn!("branch key {branch} is under {}, which is not accepted", known.file.master);
            return Err(KeyFail::Rejected);
        }
        if let Some(key) = known.key.as_ref().and_then(|k| k.unwrap(&line.key, file)) {
            keyring.branches().origins().tell(branch, file);
            return Ok(Fetched::Key((key, known.since)));
        }
        if keyring.store().read_branch(branch).is_ok_and(|f| f != known.file) {
            keyring.branches().forget(branch, &known.file);
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
    let file = read(keyring, branch)?;
    let outcome = try_file(keyring, branch, &file);
    if outcome.as_ref().is_err_and(|e| *e == KeyFail::Closed(Reason::Refused)) {
        let now = read(keyring, branch)?;
        if now != file {
            return try_file(keyring, branch, &now);
        }
    }
    outcome
}

fn read(keyring: &Keyring, branch: BranchId) -> Result<BranchFile, KeyFail> {
    keyring.store().read_branch(branch).map_err(|e| {
        log::warn!("branch key {branch}: {e}");
        KeyFail::Rejected
    })
}

fn try_file(
    keyring: &Keyring,
    branch: BranchId,
    file: &BranchFile,
) -> Result<Option<Arc<Known>>, KeyFail> {
    if !keyring.volume().accepts(&file.master) {
        log::warn!("branch key {branch} is under {}, which is not accepted", file.master);
        return Err(KeyFail::Rejected);
    }
    if !keyring.wait_for_rate() {
        return Ok(None);
    }
    let (volume, since) = (keyring.volume().id(), Moment::now());
    let context = Context::branch(volume, branch);
    let key = match keyring.service().decrypt(&KeyRef::from(&file.master), &file.key, &context) {
        Ok(got) => {
            keyring.masters().saw(&file.master, &file.key, &context);
            Some(Arc::new(BranchKey::new(&got.key, volume, branch)))
        }
        Err(e) => {
            log::warn!("branch key {branch}: {e}");
            if e.verdict != Verdict::ThisKey {
                return keyring.fail_of(e.verdict).map_or(Ok(None), Err);
            }
            None
        }
    };
    Ok(Some(Arc::new(Known { file: file.clone(), key, since })))
}

/// The branch key to wrap `n` new data keys, made and durable where the present one may not; `None`
/// when the keyring stops or locks meanwhile.
pub(super) fn for_new(keyring: &Keyring, n: usize) -> Result<Option<Arc<BranchKey>>, NoKeys> {
    let since = Moment::now();
    if let Some(key) = keyring.branches().take(n, since) {
        return Ok(Some(key));
    }
    if !keyring.wait_for_rate() {
        return Ok(None);
    }
    let (volume, branch) = (keyring.volume().id(), BranchId::random());
    let context = Context::branch(volume, branch);
    let made = keyring.volume().generate(keyring.service(), &context)?;
    keyring.masters().saw(&made.master, &made.wrapped, &context);
    let file = BranchFile { master: made.master, key: made.wrapped };
    keyring.store().write_branch(branch, &file).map_err(NoKeys::Disk)?;
    let key = Some(Arc::new(BranchKey::new(&made.key, volume, branch)));
    Ok(keyring.branches().begin(Known { file, key, since }, MOST_KEYS - n, keyring.gate()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kms::Wrapped;

    const GATE_PATIENCE: Duration = Duration::MAX;

    fn known(id: u8, since: Moment) -> Known {
        let file = BranchFile { master: KeyArn("arn:a".to_owned()), key: Wrapped(vec![id]) };
        let volume = crate::ids::VolumeId([1; 16]);
        let key = BranchKey::new(&Key::random(), volume, BranchId([id; 16]));
        Known { file, key: Some(Arc::new(key)), since }
    }

    fn at(secs: u64) -> Moment {
        Moment(Duration::from_secs(secs))
    }

    fn branches() -> (Branches, Gate) {
        (Branches::new(Duration::from_secs(900)), Gate::new(GATE_PATIENCE))
    }

    #[test]
    fn a_branch_key_wraps_so_many_data_keys_and_for_so_long() {
        let (branches, gate) = branches();
        assert!(branches.take(1, at(0)).is_none(), "none of an earlier mount");
        branches.begin(known(1, at(0)), MOST_KEYS - 64, &gate).expect("open");
        let pages = (0..).take_while(|_| branches.take(64, at(1)).is_some()).count();
        assert_eq!((pages + 1) * 64, 65_536);
        branches.begin(known(2, at(10)), MOST_KEYS, &gate).expect("open");
        let day = 24 * 60 * 60;
        assert!(branches.take(64, at(10 + day - 1)).is_some());
        assert!(branches.take(64, at(10 + day)).is_none());
    }

    #[test]
    fn a_branch_key_under_another_master_key_wraps_no_more() {
        let (branches, gate) = branches();
        branches.begin(known(1, at(0)), MOST_KEYS, &gate).expect("open");
        branches.follow(&KeyArn("arn:a".to_owned()));
        assert!(branches.take(1, at(1)).is_some());
        branches.follow(&KeyArn("arn:b".to_owned()));
        assert!(branches.take(1, at(1)).is_none());
    }

    #[test]
    fn a_time_to_live_is_absolute_and_an_outage_stretches_it() {
        let (branches, gate) = branches();
        let id = BranchId([1; 16]);
        branches.begin(known(1, at(0)), MOST_KEYS, &gate).expect("open");
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
        branches.begin(known(1, at(0)), MOST_KEYS, &gate).expect("open");
        gate.set(Phase::Locked(crate::keys::Reason::Refused));
        branches.wipe();
        assert!(branches.begin(known(2, at(0)), MOST_KEYS, &gate).is_none());
        branches.answer(BranchId([3; 16]), Some(&Arc::new(known(3, at(0)))), &gate);
        assert_eq!(branches.len(), 0);
    }
}
