//! The one door to a key.
//!
//! Nothing here waits: a key that is not at hand is `KeyFail::NotCached`, and the caller waits for
//! it with [`Keyring::wait_for`]. The outcome comes through [`Keyring::answers`]. Threads of the
//! keyring's own talk to the KMS.
//!
//! What it knows has four owners, none of which reaches into another: the keys of files and those
//! who wait ([`FileKeys`]), the pool of keys made ahead ([`Pool`]), the branch keys ([`Branches`]),
//! and what is known of the alias that new keys come from ([`Following`]).

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::answers::{Answer, Answers, Ticket};
use super::audit::AuditQueue;
use super::beat::AskedBeats;
use super::branches::Branches;
use super::cache::Expiry;
use super::carriers::Carriers;
use super::counts::KeyCounts;
use super::files::{Fetches, FileKeys};
use super::follow::Following;
use super::gate::{Gate, Pass, Purpose, Shut};
use super::lines::PendingRemovals;
use super::masters::Masters;
use super::phase::{Phase, Reason};
use super::pool::Pool;
use super::rate::Rate;
use super::request::{KeyFail, KeyRequest};
use super::services::Services;
use super::store_use::StoreUse;
use super::volume::{Identity, Volume};
use crate::clock::Moment;
use crate::content::ContentCipher;
use crate::ids::{FileId, LinkId};
use crate::kms::KeyService;
use crate::names::VolumeKeys;
use crate::store::{Removed, Store};
use crate::sync::RwLock;
use crate::sync::atomic::{AtomicBool, Ordering};

/// The keyring's settings.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many data keys the cache holds beyond those of files open for writing.
    pub cache: NonZeroUsize,
    /// How long a data key is cached before it is fetched again.
    pub ttl: Duration,
    /// How many calls of the KMS a second, heartbeats aside; `None`: as many as is fair there.
    pub rate: Option<NonZeroU32>,
    /// What may be done to the store.
    pub store_use: StoreUse,
    /// How long the gate trusts a silent monitor.
    pub patience: Duration,
}

/// Called with what a volume is remembered by.
type Tell = Box<dyn Fn(&Identity) + Send + Sync>;

/// The keyring; see above.
pub struct Keyring {
    volume: Volume,
    store: Arc<Store>,
    services: Services,
    rate: Rate,
    gate: Arc<Gate>,
    answers: Arc<Answers>,
    names: RwLock<Option<Arc<VolumeKeys>>>,
    files: FileKeys,
    pool: Pool,
    branches: Branches,
    following: Following,
    dead: PendingRemovals,
    carriers: Carriers<FileId>,
    masters: Masters,
    beats: AskedBeats,
    /// Told of each new generation of `volume.json`.
    new_generation: OnceLock<Tell>,
    /// The KMS is out of reach.
    outage: AtomicBool,
    stopping: AtomicBool,
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
        let services = services.into();
        let (gate, answers) = (Arc::new(Gate::new(limits.patience)), Arc::<Answers>::default());
        let (cache, fetches) = ((limits.cache, limits.ttl), Fetches::worth(&*services.work));
        let files = FileKeys::new(cache, fetches, gate.clone(), answers.clone());
        Self {
            volume,
            store,
            services,
            rate: Rate::new(limits.rate),
            gate,
            answers,
            names: RwLock::new(Some(Arc::new(names))),
            files,
            pool: Pool::default(),
            branches: Branches::new(limits.ttl),
            following: Following::default(),
            dead: PendingRemovals::new(limits.store_use),
            carriers: Carriers::default(),
            masters: Masters::default(),
            beats: AskedBeats::default(),
            new_generation: OnceLock::new(),
            outage: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        }
    }

    /// The gate.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Where the outcomes come that were asked for with [`Keyring::wait_for`].
    pub fn answers(&self) -> &Arc<Answers> {
        &self.answers
    }

    /// The volume.
    pub fn volume(&self) -> &Volume {
        &self.volume
    }

    pub(super) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// What may be done to the store.
    pub(super) fn store_use(&self) -> StoreUse {
        self.dead.store_use()
    }

    /// The KMS for data keys.
    pub(super) fn service(&self) -> &dyn KeyService {
        &*self.services.work
    }

    /// The KMS for heartbeats.
    pub(super) fn beat_service(&self) -> &dyn KeyService {
        &*self.services.beats
    }

    pub(super) fn rate(&self) -> &Rate {
        &self.rate
    }

    pub(super) fn files(&self) -> &FileKeys {
        &self.files
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(super) fn branches(&self) -> &Branches {
        &self.branches
    }

    pub(super) fn following(&self) -> &Following {
        &self.following
    }

    pub(super) fn masters(&self) -> &Masters {
        &self.masters
    }

    pub(super) fn dead(&self) -> &PendingRemovals {
        &self.dead
    }

    pub(super) fn beats(&self) -> &AskedBeats {
        &self.beats
    }

    /// Lets a request in; hold the pass until it is answered.
    ///
    /// # Errors
    /// `Closed`, or `NotCached(Beat)`.
    pub fn enter(&self, purpose: Purpose) -> Result<Pass<'_>, KeyFail> {
        self.gate.enter(purpose).map_err(|shut| match shut {
            Shut::Closed(reason) => KeyFail::Closed(reason),
            Shut::Stale => KeyFail::NotCached(KeyRequest::Beat),
        })
    }

    /// The keys of names, links and attributes.
    ///
    /// # Errors
    /// `Closed`.
    pub fn names(&self) -> Result<Arc<VolumeKeys>, KeyFail> {
        let reason = || self.gate.phase().reason().unwrap_or(Reason::Refused);
        self.names.read().clone().ok_or_else(|| KeyFail::Closed(reason()))
    }

    /// Whether a time to live counts now.
    pub(super) fn expiry(&self) -> Expiry {
        if self.outage.load(Ordering::Relaxed) { Expiry::Outage } else { Expiry::Strict }
    }

    /// Decides whether a time to live counts.
    pub(super) fn set_expiry(&self, expiry: Expiry) {
        self.outage.store(expiry == Expiry::Outage, Ordering::Relaxed);
    }

    /// The cipher of a file's content.
    ///
    /// # Errors
    /// `NotCached`.
    pub fn cipher(&self, file: FileId) -> Result<Arc<ContentCipher>, KeyFail> {
        let found = self.files.get(file, self.expiry());
        found.ok_or(KeyFail::NotCached(KeyRequest::File(file)))
    }

    /// A data key from the pool, with its wrapped key durable in its sidecar. It is cached.
    ///
    /// # Errors
    /// `NotCached(Fresh)` when the pool is empty.
    pub fn fresh(&self) -> Result<Arc<ContentCipher>, KeyFail> {
        let taken = self.pool.take(|cipher| self.files.put(cipher));
        taken.ok_or(KeyFail::NotCached(KeyRequest::Fresh))
    }

    /// Keeps a file's key cached (it is open for writing) until [`Keyring::release`].
    pub fn hold(&self, file: FileId) {
        self.files.hold(file);
    }

    /// Takes one `hold` back.
    pub fn release(&self, file: FileId) {
        self.files.release(file);
    }

    /// Forgets a file's key, whose line was removed just now; also where it is being fetched.
    pub fn shredded(&self, file: FileId) {
        self.files.shredded(file);
    }

    /// Forgets a file's key.
    pub fn evict(&self, file: FileId) {
        self.files.evict(file);
    }

    /// Says that nothing refers to this file any more: its sidecar line is removed later, after
    /// a syncfs of the store and a grace.
    pub fn schedule_key_removal(&self, file: FileId) {
        self.evict(file);
        self.dead.add(Removed::Line(file));
    }

    /// Says that a key was taken from the pool and given to no file: its line is removed later.
    pub fn discard_unused_key(&self, file: FileId) {
        self.evict(file);
        self.dead.add_unused(file);
    }

    /// Which inodes carry which file id.
    pub fn carriers(&self) -> &Carriers<FileId> {
        &self.carriers
    }

    /// Says that no symlink leads to this body any more: it is removed as lines are.
    pub fn schedule_body_removal(&self, link: LinkId) {
        self.dead.add(Removed::Body(link));
    }

    /// Writes down which sidecar lines and bodies nothing refers to any more, after a syncfs of the
    /// store, and removes those whose grace is over.
    ///
    /// # Errors
    /// Of the backing filesystem; what is left over is harmless.
    pub fn sweep(&self) -> std::io::Result<()> {
        self.dead.sweep(&self.store, &self.carriers)
    }

    /// The last sweep of a mount.
    pub(super) fn last_sweep(&self) -> std::io::Result<()> {
        self.dead.finish(&self.store, &self.carriers)
    }

    /// As [`Keyring::sweep`], with the grace of everything over now.
    ///
    /// # Errors
    /// As [`Keyring::sweep`].
    pub fn end_grace(&self) -> std::io::Result<()> {
        self.dead.end_grace(&self.store, &self.carriers)
    }

    /// Tells a log which branch keys files' keys come from. A mount has one log: another that
    /// came later would not be told.
    pub fn audit(&self, audit_queue: &Arc<AuditQueue>) {
        self.branches.origins().tell_to(audit_queue);
    }

    /// Has `tell` called whenever a generation of `volume.json` has been taken over.
    pub fn on_new_generation(&self, tell: impl Fn(&Identity) + Send + Sync + 'static) {
        // The first one stays: a keyring is of one mount.
        let _ = self.new_generation.set(Box::new(tell));
    }

    pub(super) fn tell_generation(&self) {
        if let Some(tell) = self.new_generation.get() {
            tell(&self.volume.identity());
        }
    }

    /// Has `ticket` answered once: when the key is there, when it is known not to come, or after
    /// four seconds.
    pub fn wait_for(&self, request: KeyRequest, ticket: Ticket) {
        self.files.wait_for(request, ticket);
        match request {
            KeyRequest::File(_) => {}
            // Filled since the caller found it empty: nobody else would answer.
            KeyRequest::Fresh if self.pool.len() > 0 => self.files.answer(request, Ok(())),
            KeyRequest::Fresh => self.pool.call(),
            KeyRequest::Beat => self.beats.ask(),
        }
    }

    /// Closes the gate so far. Those who wait are answered, and those on their way to the gate
    /// will be refused.
    pub(super) fn close(&self, phase: Phase) {
        self.gate.set(phase);
        if let Some(reason) = phase.reason() {
            self.files.answer_all(Err(KeyFail::Closed(reason)));
        }
        self.answers.add([Answer::GateClosed]);
    }

    /// What time brings; see [`FileKeys::tick`].
    pub(super) fn tick(&self, now: Moment) {
        let expiry = self.expiry();
        self.files.tick(now, expiry);
        if expiry == Expiry::Strict && self.gate.phase() == Phase::Open {
            self.branches.expire(now);
        }
    }

    /// Drops every key. The gate must be locked and idle.
    pub(super) fn wipe(&self) -> Option<Arc<VolumeKeys>> {
        // First, for what is taken from the pool goes to the files' keys.
        self.pool.wipe().into_iter().for_each(|file| self.dead.add_unused(file));
        self.files.wipe();
        self.branches.wipe();
        self.services.forget();
        self.names.write().take()
    }

    /// Takes the volume keys, which the KMS was asked for at `began`, and opens the gate.
    pub(super) fn reopen(&self, names: VolumeKeys, began: Moment) {
        *self.names.write() = Some(Arc::new(names));
        self.gate.mark_fresh(began);
        self.gate.set(Phase::Open);
        self.pool.call();
    }

    /// What became of data keys so far.
    pub fn counts(&self) -> KeyCounts {
        KeyCounts { pooled: self.pool.len(), ..self.files.counts() }
    }

    /// Ends the keyring's threads. Those who wait are answered.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.files.stop();
        self.pool.stop();
        self.files.answer_all(Err(KeyFail::Late));
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    #[cfg(test)]
    pub(super) fn volume_mut(&mut self) -> &mut Volume {
        &mut self.volume
    }
}
