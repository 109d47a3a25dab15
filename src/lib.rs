//! kmsfs: a mounted directory whose files are encrypted on disk, each under a data key of its
//! own, wrapped by a master key in a KMS. Disabling the master key makes the mount unreadable.
//!
//! Layers, lowest first; a module imports only from lower ones and its own folder:
//! ids, secret, disk, durable, clock, escape, sync, threads, walls, xdg,
//! metrics · content, names, recovery · store,
//! kms · keys · fs ·
//! fuse, control, upkeep, web · daemon · console · bench, demo · cli.
#![deny(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]
#![warn(missing_docs)]

pub mod bench;
pub mod cli;
pub mod clock;
pub mod console;
pub mod content;
pub mod control;
pub mod daemon;
pub mod demo;
pub mod disk;
pub mod durable;
pub mod escape;
pub mod fs;
pub mod fuse;
pub mod ids;
pub mod keys;
pub mod kms;
pub mod metrics;
pub mod names;
pub mod recovery;
pub mod secret;
pub mod store;
pub mod sync;
pub mod threads;
pub mod upkeep;
pub mod walls;
pub mod web;
pub mod xdg;
