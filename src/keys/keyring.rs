//! The one door to a key.
//!
//! Nothing here waits: a key that is not at hand is `KeyFail::Need`, and the caller waits for it
//! with [`Keyring::want`]. The outcome comes through [`Keyring::answers`]. Threads of the keyring's
//! own talk to the KMS.

use std::collections::{HashMap, HashSet, VecDeque};
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use super::ahead::Ahead;
use super::answers::Answers;
use super::branches::Branches;
use super::cache::{Cache, Expiry};
use super::follow::Stamp;
use super::gate::{Gate, Pass, Purpose, Shut};
use super::lines::DeadLines;
use super::machine::{Phase, Reason};
use super::pool::Pool;
use super::rate::Rate;
use super::services::Services;
use super::volume::Volume;
use super::want::{KeyFail, Waiter, Want};
use crate::clock::Moment;
use crate::content::ContentCipher;
use crate::ids::{FileId, LinkId};
use crate::kms::{KeyService, Verdict};
use crate::names::VolumeKeys;
use crate::store::Store;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex, RwLock};

/// The keyring's settings.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many data keys are cached beyond those of files open for writing.
    pub cache: NonZeroUsize,
    /// How long a data key is used before it is fetched again.
    pub ttl: Duration,
    /// How many calls of the KMS a second, heartbeats aside; `None`: as many as is fair there.
    pub rate: Option<NonZeroU32>,
    /// How long the gate trusts a silent monitor.
    pub patience: Duration,
}

/// How long a request waits for its key.
pub(super) const PARKED_FOR: Duration = Duration::from_secs(4);

/// From reading a line to the KMS's answer: a fetch waits for its turn and for three tries.
const LONGEST_FETCH: Duration = Duration::from_secs(600);

pub(super) struct Inner {
    pub(super) cache: Cache,
    pub(super) pool: Pool,
    pub(super) waiting: HashMap<Want, Vec<Waiter>>,
    /// Files whose key someone waits for.
    pub(super) queue: VecDeque<FileId>,
    /// Files whose key may be wanted next; after the others.
    pub(super) later: VecDeque<FileId>,
    pub(super) ahead: Ahead,
    /// Those of both queues, and those being fetched.
    pub(super) in_flight: HashSet<FileId>,
    /// The KMS gave no answer that counts: those who wait are not asked for again before.
    pub(super) again: Moment,
    /// When all keys of files were dropped: what was asked for before is not taken any more.
    pub(super) dropped: Moment,
    /// When lines were shredded, lately: one that was read before is not taken any more.
    shredded: HashMap<FileId, Moment>,
    pub(super) stopping: bool,
}

/// The keyring. See the module's description.
pub struct Keyring {
    pub(super) volume: Volume,
    pub(super) store: Arc<Store>,
    pub(super) service: Arc<dyn KeyService>,
    pub(super) beats: Arc<dyn KeyService>,
    gate: Arc<Gate>,
    answers: Arc<Answers>,
    names: RwLock<Option<Arc<VolumeKeys>>>,
    pub(super) inner: Mutex<Inner>,
    pub(super) branches: Branches,
    pub(super) fetch_work: Condvar,
    pub(super) pool_work: Condvar,
    pub(super) dead: DeadLines,
    pub(super) rate: Rate,
    /// Of keys fetched ahead that are not yet at hand.
    pub(super) most_ahead: usize,
    pub(super) outage: AtomicBool,
    pub(super) beat_wanted: AtomicBool,
    /// Held while new data keys are on their way to their sidecar page.
    pub(super) filling: Mutex<()>,
    /// The `volume.json` that was looked at last.
    pub(super) followed: parking_lot::Mutex<Stamp>,
    /// New data keys come under another master key, and keys of files are to be dropped.
    pub(super) turned: AtomicBool,
    fetched: AtomicU64,
}

impl Keyring {
    /// A keyring of an opened volume, with its gate open.
    pub fn new(
        volume: Volume,
        names: VolumeKeys,
        store: Arc<Store>,
        services: impl Into<Services>,
        limits: Limits,
    ) -> Self {
        let Services { work, beats } = services.into();
        let rate = Rate::new(limits.rate.or(work.fair_rate()));
        Self {
            volume,
            store,
            service: work,
            beats,
            gate: Arc::new(Gate::new(limits.patience)),
            answers: Arc::default(),
            names: RwLock::new(Some(Arc::new(names))),
            inner: Mutex::new(Inner {
                cache: Cache::new(limits.cache, limits.ttl),
                pool: Pool::default(),
                waiting: HashMap::new(),
                queue: VecDeque::new(),
                later: VecDeque::new(),
                ahead: Ahead::default(),
                in_flight: HashSet::new(),
                again: Moment(Duration::ZERO),
                dropped: Moment(Duration::ZERO),
                shredded: HashMap::new(),
                stopping: false,
            }),
            branches: Branches::new(limits.ttl),
            fetch_work: Condvar::new(),
            pool_work: Condvar::new(),
            dead: DeadLines::default(),
            rate,
            most_ahead: limits.cache.get() / 4,
            outage: AtomicBool::new(false),
            beat_wanted: AtomicBool::new(false),
            filling: Mutex::new(()),
            followed: parking_lot::Mutex::new(None),
            turned: AtomicBool::new(false),
            fetched: AtomicU64::new(0),
        }
    }

    /// The gate.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Where the outcomes come that were asked for with [`Keyring::want`].
    pub fn answers(&self) -> &Arc<Answers> {
        &self.answers
    }

    /// Lets a request in; hold the pass until it is answered.
    ///
    /// # Errors
    /// `Closed`, or `Need(Beat)`.
    pub fn enter(&self, purpose: Purpose) -> Result<Pass<'_>, KeyFail> {
        self.gate.enter(purpose).map_err(|shut| match shut {
            Shut::Closed(reason) => KeyFail::Closed(reason),
            Shut::Stale => KeyFail::Need(Want::Beat),
        })
    }

    /// The keys of names, links and attributes.
    ///
    /// # Errors
    /// `Closed`.
    pub fn names(&self) -> Result<Arc<VolumeKeys>, KeyFail> {
        self.names.read().clone().ok_or_else(|| KeyFail::Closed(self.reason()))
    }

    fn reason(&self) -> Reason {
        self.gate.phase().reason().unwrap_or(Reason::Refused)
    }

    /// Whether a time to live counts now.
    pub(super) fn expiry(&self) -> Expiry {
        if self.outage.load(Ordering::Relaxed) { Expiry::Outage } else { Expiry::Strict }
    }

    /// The cipher of a file's content.
    ///
    /// # Errors
    /// `Need` when it is not cached.
    pub fn cipher(&self, file: FileId) -> Result<Arc<ContentCipher>, KeyFail> {
        let mut inner = self.inner.lock();
        let found = inner.cache.get(file, Moment::now(), self.expiry());
        if found.is_some() {
            inner.ahead.hit(file);
        }
        found.ok_or(KeyFail::Need(Want::File(file)))
    }

    /// A data key from the pool, with its wrapped key durable in its sidecar. It is cached.
    ///
    /// # Errors
    /// `Need(Fresh)` when the pool is empty.
    pub fn fresh(&self) -> Result<Arc<ContentCipher>, KeyFail> {
        let mut inner = self.inner.lock();
        let taken = inner.pool.take();
        if inner.pool.is_low() {
            self.pool_work.notify_one();
        }
        let cipher = taken.ok_or(KeyFail::Need(Want::Fresh))?;
        inner.cache.put(cipher.clone(), Moment::now());
        Ok(cipher)
    }

    /// Keeps a file's key cached (it is open for writing) until [`Keyring::release`].
    pub fn hold(&self, file: FileId) {
        self.inner.lock().cache.hold(file);
    }

    /// Takes one `hold` back.
    pub fn release(&self, file: FileId) {
        self.inner.lock().cache.release(file);
    }

    /// Forgets a file's key, whose line was removed just now; also where it is being fetched.
    pub fn shredded(&self, file: FileId) {
        let now = Moment::now();
        let mut inner = self.inner.lock();
        inner.cache.evict(file);
        inner.shredded.retain(|_, at| now.since(*at) < LONGEST_FETCH);
        inner.shredded.insert(file, now);
    }

    /// Forgets a file's key.
    pub fn evict(&self, file: FileId) {
        self.inner.lock().cache.evict(file);
    }

    /// Says that nothing refers to this file any more: its sidecar line is removed later, after
    /// a syncfs of the store.
    pub fn bury(&self, file: FileId) {
        self.evict(file);
        self.dead.add(file);
    }

    /// Says that no symlink leads to this body any more: it is removed as lines are.
    pub fn bury_body(&self, link: LinkId) {
        self.dead.add_body(link);
    }

    /// Removes the sidecar lines and bodies of what was buried, after a syncfs of the store.
    ///
    /// # Errors
    /// As [`Store::remove_lines`]; what is left over is harmless.
    pub fn sweep(&self) -> std::io::Result<()> {
        self.dead.sweep(&self.store)
    }

    /// Puts a fetched key into the cache, unless meanwhile the mount closed, all were dropped, or
    /// its line, which was looked at when it was `read`, was shredded. Its time to live counts
    /// from `since`, when the KMS was last asked for what opens it.
    pub(super) fn admit(&self, cipher: ContentCipher, since: Moment, read: Moment) {
        let mut inner = self.inner.lock();
        let shredded = inner.shredded.get(&cipher.file()).is_some_and(|at| read <= *at);
        let closed = matches!(self.gate.phase(), Phase::Locked(_));
        if !closed && !shredded && since > inner.dropped {
            inner.cache.put(Arc::new(cipher), since);
            self.fetched.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Drops every key. The gate must be locked and idle.
    pub(super) fn wipe(&self) -> Option<Arc<VolumeKeys>> {
        let mut inner = self.inner.lock();
        inner.cache.wipe();
        for file in std::mem::take(&mut inner.later) {
            inner.in_flight.remove(&file);
        }
        let unused = inner.pool.wipe();
        drop(inner);
        self.branches.wipe();
        unused.into_iter().for_each(|file| self.dead.add(file));
        self.names.write().take()
    }

    /// Takes the volume keys, which the KMS was asked for at `began`, and opens the gate.
    pub(super) fn reopen(&self, names: VolumeKeys, began: Moment) {
        *self.names.write() = Some(Arc::new(names));
        self.gate.heard(began);
        self.gate.set(Phase::Open);
        self.pool_work.notify_one();
    }

    /// A failed call's meaning; a refusal asks for a beat at once.
    pub(super) fn fail_of(&self, verdict: Verdict) -> Option<KeyFail> {
        match verdict {
            Verdict::Refused => {
                self.beat_wanted.store(true, Ordering::Relaxed);
                Some(KeyFail::Closed(Reason::Refused))
            }
            Verdict::ThisKey | Verdict::Invalid => Some(KeyFail::Rejected),
            Verdict::Unavailable | Verdict::Credentials => None,
        }
    }

    /// How many data keys are cached, how many lie in the pool, how many were fetched.
    pub fn counts(&self) -> (usize, usize, u64) {
        let inner = self.inner.lock();
        (inner.cache.len(), inner.pool.len(), self.fetched.load(Ordering::Relaxed))
    }

    /// The volume.
    pub fn volume(&self) -> &Volume {
        &self.volume
    }
}
