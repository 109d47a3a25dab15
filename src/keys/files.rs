//! The data keys of files: those that are cached, those that someone waits for, and those that are
//! to be fetched.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use super::ahead::Ahead;
use super::answers::{Answer, Answers, Ticket};
use super::cache::{Cache, Expiry};
use super::counts::KeyCounts;
use super::gate::Gate;
use super::phase::Phase;
use super::queue::{Queue, Task};
use super::request::{KeyFail, KeyRequest, Waiter};
use crate::clock::Moment;
use crate::content::ContentCipher;
use crate::ids::{FileId, PageId};
use crate::kms::KeyService;
use crate::store::{Line, WrapKind};
use crate::sync::{Condvar, Mutex};

/// How long a request waits for its key, beside the time that the store takes.
const PARKED_FOR: Duration = Duration::from_secs(4);
/// From reading a line to the KMS's answer: a fetch waits for its turn and for three tries.
const LONGEST_FETCH: Duration = Duration::from_secs(600);
/// Between an inconclusive fetch and the next one of the same key.
const PAUSE: Duration = Duration::from_millis(500);

/// How many fetches are worth making side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fetches {
    /// Several: each waits for a network.
    SideBySide,
    /// One after another: each is quick.
    InTurn,
}

impl Fetches {
    /// Of this KMS.
    pub(super) fn worth(service: &dyn KeyService) -> Self {
        if service.parallelism() > 1 { Self::SideBySide } else { Self::InTurn }
    }
}

struct State {
    cache: Cache,
    waiting: HashMap<KeyRequest, Vec<Waiter>>,
    /// For these the store is read or written just now, by so many threads.
    at_store: HashMap<KeyRequest, u32>,
    queue: Queue,
    ahead: Ahead,
    /// The last call of the KMS was inconclusive: those who wait are not asked for again before.
    retry_after: Moment,
    /// When all keys were dropped: what was asked for before is not taken any more.
    cleared_at: Moment,
    /// When lines were shredded, lately: one that was read before is not taken any more.
    shredded: HashMap<FileId, Moment>,
    fetched: u64,
    hits: u64,
    misses: u64,
    stopping: bool,
}

/// The keys of files; see above. One lock, held across no call.
pub(super) struct FileKeys {
    state: Mutex<State>,
    /// There is something to fetch.
    work: Condvar,
    /// Keys fetched ahead that are not yet at hand, at most.
    most_ahead: usize,
    fetches: Fetches,
    gate: Arc<Gate>,
    answers: Arc<Answers>,
}

impl FileKeys {
    pub(super) fn new(
        (cache, ttl): (NonZeroUsize, Duration),
        fetches: Fetches,
        gate: Arc<Gate>,
        answers: Arc<Answers>,
    ) -> Self {
        let never = Moment(Duration::ZERO);
        let state = State {
            cache: Cache::new(cache, ttl),
            waiting: HashMap::new(),
            at_store: HashMap::new(),
            queue: Queue::default(),
            ahead: Ahead::default(),
            retry_after: never,
            cleared_at: never,
            shredded: HashMap::new(),
            fetched: 0,
            hits: 0,
            misses: 0,
            stopping: false,
        };
        let (state, work) = (Mutex::new(state), Condvar::new());
        Self { state, work, most_ahead: cache.get() / 4, fetches, gate, answers }
    }

    /// A file's cipher, if it is cached.
    pub(super) fn get(&self, file: FileId, expiry: Expiry) -> Option<Arc<ContentCipher>> {
        let mut state = self.state.lock();
        let found = state.cache.get(file, Moment::now, expiry);
        if found.is_some() {
            state.hits += 1;
            let next = state.ahead.hit(file);
            if self.fetches == Fetches::SideBySide && !next.is_empty() {
                state.queue.look_later(next);
                self.work.notify_one();
            }
        } else {
            state.misses += 1;
        }
        found
    }

    /// Takes a cipher whose key was made just now.
    pub(super) fn put(&self, cipher: &Arc<ContentCipher>) {
        self.state.lock().cache.put(cipher.clone(), Moment::now());
    }

    pub(super) fn hold(&self, file: FileId) {
        self.state.lock().cache.hold(file);
    }

    pub(super) fn release(&self, file: FileId) {
        self.state.lock().cache.release(file);
    }

    pub(super) fn evict(&self, file: FileId) {
        self.state.lock().cache.evict(file);
    }

    /// Forgets a file's key, whose line was removed just now; also where it is being fetched.
    pub(super) fn shredded(&self, file: FileId) {
        let now = Moment::now();
        let mut state = self.state.lock();
        state.cache.evict(file);
        state.shredded.retain(|_, at| now.since(*at) < LONGEST_FETCH);
        state.shredded.insert(file, now);
    }

    /// Registers who waits for a key, or answers at once where the gate is closed.
    pub(super) fn wait_for(&self, request: KeyRequest, ticket: Ticket) {
        let mut state = self.state.lock();
        if let Some(reason) = self.gate.phase().reason() {
            drop(state);
            let closed = Err(KeyFail::Closed(reason));
            return self.answers.add([Answer::Outcome(ticket, closed)]);
        }
        let deadline = Moment::now() + PARKED_FOR;
        state.waiting.entry(request).or_default().push(Waiter { ticket, deadline });
        // Fetched even if it came in the meantime: rare, and simpler than another look.
        if let KeyRequest::File(file) = request
            && state.queue.want(file)
        {
            self.work.notify_one();
        }
    }

    /// Claims a file for a fetch by the caller; `false` where another thread fetches it.
    pub(super) fn claim(&self, file: FileId) -> bool {
        self.state.lock().queue.claim(file)
    }

    /// Says that the store is read or written for a key, until the answer is dropped. Nobody who
    /// waits for the key is late meanwhile: a slow disk makes programs wait, as it does natively.
    pub(super) fn at_store(&self, request: KeyRequest) -> AtStore<'_> {
        *self.state.lock().at_store.entry(request).or_default() += 1;
        AtStore { files: self, request, began: Moment::now() }
    }

    /// Answers everyone who waits for this key.
    pub(super) fn answer(&self, request: KeyRequest, outcome: Result<(), KeyFail>) {
        let waiters = self.state.lock().waiting.remove(&request).unwrap_or_default();
        self.tell(waiters, outcome);
    }

    /// Answers everyone who waits for anything.
    pub(super) fn answer_all(&self, outcome: Result<(), KeyFail>) {
        let all = std::mem::take(&mut self.state.lock().waiting);
        self.tell(all.into_values().flatten(), outcome);
    }

    fn tell(&self, waiters: impl IntoIterator<Item = Waiter>, outcome: Result<(), KeyFail>) {
        let answer = |waiter: Waiter| Answer::Outcome(waiter.ticket, outcome);
        self.answers.add(waiters.into_iter().map(answer));
    }

    /// Answers those whose time is up, asks again for what the others wait for, and drops keys
    /// whose time to live is up, but for those of files that are open for writing: these are
    /// fetched afresh.
    pub(super) fn tick(&self, now: Moment, expiry: Expiry) {
        let mut late = Vec::new();
        {
            let mut state = self.state.lock();
            let State { waiting, at_store, queue, cache, retry_after, .. } = &mut *state;
            let again = now >= *retry_after;
            waiting.retain(|request, waiters| {
                if !at_store.contains_key(request) {
                    late.extend(waiters.extract_if(.., |w| now >= w.deadline));
                }
                if let KeyRequest::File(file) = request
                    && !waiters.is_empty()
                    && again
                {
                    queue.want(*file);
                }
                !waiters.is_empty()
            });
            // A locked mount asks for nothing but beats: each refusal here would cause one more.
            if expiry == Expiry::Strict && self.gate.phase() == Phase::Open {
                cache.expire(now);
                for file in cache.due(now) {
                    queue.want(file);
                }
            }
            if queue.is_wanted() {
                self.work.notify_all();
            }
        }
        self.tell(late, Err(KeyFail::Late));
    }

    /// Of a fetch thread: waits for the next task; `None` when the keyring stops.
    pub(super) fn next(&self) -> Option<Task> {
        let mut state = self.state.lock();
        loop {
            if state.stopping {
                return None;
            }
            if let Some(task) = state.queue.next() {
                return Some(task);
            }
            self.work.wait(&mut state);
        }
    }

    /// A fetch has ended: those who wait are answered.
    pub(super) fn finish(&self, file: FileId, outcome: Result<(), KeyFail>) {
        self.unclaim([file]);
        self.answer(KeyRequest::File(file), outcome);
    }

    /// A fetch was inconclusive: those who wait are asked for again at a later tick.
    pub(super) fn finish_inconclusively(&self, file: FileId) {
        let mut state = self.state.lock();
        state.queue.done(file);
        state.retry_after = Moment::now() + PAUSE;
    }

    /// These files are not fetched after all.
    pub(super) fn unclaim(&self, files: impl IntoIterator<Item = FileId>) {
        let mut state = self.state.lock();
        files.into_iter().for_each(|file| state.queue.done(file));
    }

    /// Queues files again whose fetch waited for another.
    pub(super) fn requeue(&self, files: &[FileId]) {
        self.state.lock().queue.requeue(files);
        self.work.notify_all();
    }

    /// Claims the other keys of a page, if its files seem to be read one after another; see
    /// [`FileKeys::claim_page`].
    pub(super) fn look_ahead(&self, page: PageId, lines: &[Line]) -> Vec<FileId> {
        let is_walk = self.state.lock().ahead.miss(page);
        if is_walk { self.claim_page(page, lines) } else { Vec::new() }
    }

    /// Claims the keys of a page that are not at hand. Where calls are worth making side by side
    /// they are queued; where not, and where a branch key opens them, they are the caller's to fetch.
    pub(super) fn claim_page(&self, page: PageId, lines: &[Line]) -> Vec<FileId> {
        let mut state = self.state.lock();
        let State { cache, queue, ahead, .. } = &mut *state;
        let room = self.most_ahead.saturating_sub(queue.ahead());
        let (mut slots, mut own) = (Vec::new(), Vec::new());
        for line in lines {
            let file = FileId::new(page, line.slot);
            if slots.len() == room || cache.has(file) {
                continue;
            }
            let is_call = matches!(line.kind, WrapKind::Master(_));
            let is_claimed = if is_call && self.fetches == Fetches::SideBySide {
                queue.want_later(file)
            } else {
                let is_free = queue.claim(file);
                own.extend(is_free.then_some(file));
                is_free
            };
            slots.extend(is_claimed.then_some(line.slot));
        }
        ahead.asked(page, &slots);
        drop(state);
        if own.len() < slots.len() {
            self.work.notify_all();
        }
        own
    }

    /// Puts a fetched key into the cache, unless meanwhile the mount closed, all were dropped, or
    /// its line, which was looked at when it was `read`, was shredded. Its time to live counts
    /// from `since`, when the KMS was last asked for what opens it.
    pub(super) fn admit(&self, cipher: ContentCipher, since: Moment, read: Moment) {
        let mut state = self.state.lock();
        let shredded = state.shredded.get(&cipher.file()).is_some_and(|at| read <= *at);
        let closed = matches!(self.gate.phase(), Phase::Locked(_));
        if !closed && !shredded && since > state.cleared_at {
            state.cache.put(Arc::new(cipher), since);
            state.fetched += 1;
        }
    }

    /// Drops every key; what is being fetched now is not taken any more.
    pub(super) fn clear(&self) {
        let mut state = self.state.lock();
        state.cleared_at = Moment::now();
        state.cache.wipe();
    }

    /// Drops every key, for a gate that is locked and idle, and what was to be fetched ahead.
    pub(super) fn wipe(&self) {
        let mut state = self.state.lock();
        state.cache.wipe();
        state.queue.drop_later();
    }

    /// What became of keys so far; those of the pool are left out.
    pub(super) fn counts(&self) -> KeyCounts {
        let state = self.state.lock();
        KeyCounts {
            cached: state.cache.len(),
            pooled: 0,
            fetched: state.fetched,
            hits: state.hits,
            misses: state.misses,
            evicted: state.cache.evicted(),
        }
    }

    /// Ends the fetch threads.
    pub(super) fn stop(&self) {
        self.state.lock().stopping = true;
        self.work.notify_all();
    }

    /// Files that are queued, as if they had been fetched in vain.
    #[cfg(test)]
    pub(super) fn take_queue(&self) -> Vec<FileId> {
        self.state.lock().queue.take_wanted()
    }
}

/// The store is read or written for a key; see [`FileKeys::at_store`]. The time that it took is not
/// counted: a KMS out of reach is tried again and again, with a look at the store each time.
pub(super) struct AtStore<'a> {
    files: &'a FileKeys,
    request: KeyRequest,
    began: Moment,
}

impl Drop for AtStore<'_> {
    fn drop(&mut self) {
        let mut state = self.files.state.lock();
        let State { waiting, at_store, .. } = &mut *state;
        if let Entry::Occupied(mut at) = at_store.entry(self.request) {
            *at.get_mut() -= 1;
            if *at.get() == 0 {
                at.remove();
            }
        }
        let took = Moment::now().since(self.began);
        let waiters = waiting.get_mut(&self.request).into_iter().flatten();
        waiters.for_each(|waiter| waiter.deadline = waiter.deadline + took);
    }
}
