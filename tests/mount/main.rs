//! End-to-end tests on real mounts. They need root and /dev/fuse, and fail without, unless
//! `KMSFS_SKIP=fuse` says otherwise.

#[path = "../support/mod.rs"]
mod support;

mod aliases;
mod attributes;
mod audit;
mod backup;
mod beneath;
mod bound;
mod branch;
mod ciphertext;
mod coherence;
mod command_line;
mod control;
mod cycles;
mod damage;
mod demo;
mod flags;
mod foreign;
mod fsck;
mod fstab;
mod full_disk;
mod handles;
mod hostile_store;
mod killswitch;
mod limits;
mod memory;
mod metrics;
mod nameless;
mod posix;
mod privileges;
mod read_only;
mod recovery;
mod removed;
mod rewrap;
mod service;
mod slow_store;
mod store_access;
mod strangers;
mod synced;
mod terminal;
mod times;
mod transports;
mod usage;
mod walls;
