//! The control socket of a mount: found by the mount's device number, however the mount is
//! named and wherever it is seen; and what is said over it.

mod belief;
mod client;
mod connection;
mod mounts;
mod peer;
mod server;
mod walk;
mod wire;

use serde::{Deserialize, Serialize};

use crate::keys::Word;
use crate::kms::Calls;

pub use client::{Target, all, at, serving, side_by_side};
pub use connection::has_ended;
pub use mounts::{Mount, mounts};
pub use server::{Server, folder, log_path, make_folder};
pub use wire::{Answer, Ask};

/// What `status` tells of a mount. Durations are milliseconds. A daemon of another version may
/// leave fields out.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// The daemon's version of kmsfs.
    pub version: String,
    /// open, draining, revoked, unreachable or locked.
    pub state: String,
    /// The volume's id.
    pub volume: String,
    /// The store.
    pub store: String,
    /// The mountpoint.
    pub mountpoint: String,
    /// The daemon's process.
    pub pid: u32,
    /// Where the master key lives: local or aws.
    pub provider: String,
    /// What `init` was given.
    pub key_asked: String,
    /// The ARN of the master key that the volume's own key is under.
    pub master_key: String,
    /// The ARN of the master key that new data keys come under: what `key_asked` pointed to at
    /// the last heartbeat.
    pub key_target: String,
    /// The one master key that the volume may be under, where the mount was told one.
    pub pinned_key: Option<String>,
    /// The region whose replica of the master key is asked, where that is not the ARNs' own.
    pub replica_region: Option<String>,
    /// Whether files under any other master key than `key_target` are refused.
    pub only_current_key: bool,
    /// The age recipients that can recover the volume: whoever has an identity of one reads it
    /// whatever the KMS says.
    pub recovery: Vec<String>,
    /// Whether the daemon may change nothing, whatever flags the mount is given.
    pub read_only: bool,
    /// How many files' wrapped keys are under which master key; `None` while they are counted.
    pub lines: Option<Vec<LinesUnder>>,
    /// Sidecar lines that cannot be read; `None` while lines are counted.
    pub lines_damaged: Option<u64>,
    /// The heartbeat.
    pub heartbeat_ms: u64,
    /// How long ago the KMS last answered well.
    pub last_good_ms: u64,
    /// What it last said when it did not.
    pub last_error: Option<String>,
    /// Heartbeats so far.
    pub beats: u64,
    /// Those that were not good.
    pub beats_failed: u64,
    /// Heartbeats of other mounts that counted for this one, where they are shared.
    pub beats_heard: Option<u64>,
    /// How long the daemon has been running.
    pub up_ms: u64,
    /// Its calls of the KMS since then, heartbeats included.
    pub kms_calls: Vec<Calls>,
    /// Data keys in the cache.
    pub keys_cached: usize,
    /// Data keys in the pool.
    pub keys_pooled: usize,
    /// Data keys fetched so far.
    pub keys_fetched: u64,
    /// How requests come from the kernel: io_uring or /dev/fuse.
    pub transport: String,
    /// Inodes that the kernel knows.
    pub inodes: usize,
    /// Those that may have cached pages.
    pub inodes_paged: usize,
    /// The audit log, where there is one.
    pub audit: Option<Audit>,
    /// Requests that wait for a key.
    pub parked: usize,
    /// Where metrics and the status page are served, if anywhere: an address and a port.
    pub metrics: Option<String>,
    /// Chunks of key memory that could not be locked against swap.
    pub unlocked_memory: u64,
    /// In how many folders of the store entries were found that are not of the volume.
    pub strangers: u64,
    /// The last of them: its path in the store.
    pub stranger: Option<String>,
    /// What the store's device cannot promise.
    pub device_warning: Option<String>,
}

/// What `status` tells of an audit log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Audit {
    /// Its path.
    pub log: String,
    /// Entries that found no room.
    pub lost: u64,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The user id.
    pub uid: u32,
    /// The process id; 0 where it has none in this pid namespace.
    pub pid: u32,
}

/// Sidecar lines under one master key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinesUnder {
    /// Its ARN, by what the lines say; `others` for the rest of very many.
    pub key: String,
    /// How many.
    pub lines: u64,
}

/// What the socket needs of the daemon.
pub trait Host: Send + Sync {
    /// Whether its mount is there. One that has ended answers for none: the next mount may have its
    /// number, by which its socket is found.
    fn is_mounted(&self) -> bool;
    /// Where things stand; `None` while it ends.
    fn report(&self) -> Option<Report>;
    /// Its figures, in Prometheus's text format; `None` while it ends.
    fn metrics(&self) -> Option<String>;
    /// Locks.
    fn lock(&self, by: Peer);
    /// Unlocks.
    fn unlock(&self, by: Peer);
    /// Removes the wrapped key of a file.
    ///
    /// # Errors
    /// Why not.
    fn shred(&self, ino: u64, by: Peer) -> Result<(), String>;
    /// Takes over a rewrapped `volume.json`; returns when no key is made under the old master
    /// key any more.
    ///
    /// # Errors
    /// Why not.
    fn follow(&self, word: &Word, by: Peer) -> Result<(), String>;
}
