//! The cache of content ciphers: least recently used out first, with an absolute time to live.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;

use crate::clock::Moment;
use crate::content::ContentCipher;
use crate::ids::FileId;

struct CachedCipher {
    cipher: Arc<ContentCipher>,
    expires: Moment,
}

struct Held {
    users: u32,
    entry: Option<CachedCipher>,
    /// Not asked for again before.
    again: Moment,
}

/// Between two tries to fetch a held file's key afresh.
const RETRY: Duration = Duration::from_secs(1);

/// Content ciphers: those of files open for writing, and the least recently used of the others
/// up to a limit. Ciphers wipe themselves when the last user lets go.
pub(super) struct Cache {
    idle: LruCache<FileId, CachedCipher>,
    held: HashMap<FileId, Held>,
    ttl: Duration,
    evicted: u64,
}

impl Cache {
    pub(super) fn new(size: NonZeroUsize, ttl: Duration) -> Self {
        // Unbounded with a bound of our own: a bounded one allocates all of its table at once.
        let mut idle = LruCache::unbounded();
        idle.resize(size);
        Self { idle, held: HashMap::new(), ttl, evicted: 0 }
    }

    /// The cipher of a file, if it is here and its time is not up. `lenient` time keeps what is
    /// held for writing, and everything during an outage.
    pub(super) fn get(
        &mut self,
        file: FileId,
        now: impl FnOnce() -> Moment,
        expiry: Expiry,
    ) -> Option<Arc<ContentCipher>> {
        if let Some(held) = self.held.get(&file) {
            return held.entry.as_ref().map(|e| e.cipher.clone());
        }
        let entry = self.idle.get(&file)?;
        if expiry == Expiry::Strict && now() >= entry.expires {
            self.idle.pop(&file);
            return None;
        }
        Some(entry.cipher.clone())
    }

    /// Whether a key is here, its time up or not. It does not count as a use.
    pub(super) fn has(&self, file: FileId) -> bool {
        self.idle.contains(&file) || self.held.get(&file).is_some_and(|h| h.entry.is_some())
    }

    pub(super) fn put(&mut self, cipher: Arc<ContentCipher>, now: Moment) {
        let file = cipher.file();
        let entry = CachedCipher { cipher, expires: now + self.ttl };
        match self.held.get_mut(&file) {
            Some(held) => held.entry = Some(entry),
            None => self.push(file, entry),
        }
    }

    /// Keeps a file's key, now or when it comes, until as many calls of `release`.
    pub(super) fn hold(&mut self, file: FileId) {
        let idle = &mut self.idle;
        let held = self.held.entry(file).or_insert_with(|| Held {
            users: 0,
            entry: idle.pop(&file),
            again: Moment(Duration::ZERO),
        });
        held.users += 1;
    }

    pub(super) fn release(&mut self, file: FileId) {
        let Some(held) = self.held.get_mut(&file) else { return };
        held.users -= 1;
        if held.users == 0
            && let Some(Held { entry: Some(entry), .. }) = self.held.remove(&file)
        {
            self.push(file, entry);
        }
    }

    fn push(&mut self, file: FileId, entry: CachedCipher) {
        if self.idle.push(file, entry).is_some_and(|(other, _)| other != file) {
            self.evicted += 1;
        }
    }

    /// How many keys others have taken the room of.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    pub(super) fn evict(&mut self, file: FileId) {
        self.idle.pop(&file);
        if let Some(held) = self.held.get_mut(&file) {
            held.entry = None;
        }
    }

    /// Held files whose key is missing or past its time: to be fetched afresh. One that is not
    /// given is named again, but not at once.
    pub(super) fn due(&mut self, now: Moment) -> Vec<FileId> {
        let old = |h: &Held| now >= h.again && h.entry.as_ref().is_none_or(|e| now >= e.expires);
        let due = self.held.iter_mut().filter(|(_, h)| old(h));
        due.map(|(file, held)| {
            held.again = now + RETRY;
            *file
        })
        .collect()
    }

    /// Drops every key. Who is held stays known.
    pub(super) fn wipe(&mut self) {
        self.idle.clear();
        for held in self.held.values_mut() {
            held.entry = None;
        }
    }

    /// Drops the idle keys whose time is up.
    pub(super) fn expire(&mut self, now: Moment) {
        let gone: Vec<_> =
            self.idle.iter().filter(|(_, e)| now >= e.expires).map(|(f, _)| *f).collect();
        for file in gone {
            self.idle.pop(&file);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.idle.len() + self.held.values().filter(|h| h.entry.is_some()).count()
    }
}

/// Whether a time to live that is up counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expiry {
    /// It does.
    Strict,
    /// The KMS is out of reach: what is cached stays until the grace ends.
    Outage,
}
