//! What became of the data keys of a mount.

/// How many keys are where, and how many came and went since the mount began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyCounts {
    /// In the cache now.
    pub cached: usize,
    /// In the pool now.
    pub pooled: usize,
    /// Fetched so far.
    pub fetched: u64,
    /// How often a key that was wanted lay in the cache.
    pub hits: u64,
    /// How often it did not.
    pub misses: u64,
    /// How many the cache gave up for others, since it was full.
    pub evicted: u64,
}
