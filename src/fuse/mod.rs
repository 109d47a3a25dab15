//! FUSE: the adapter from kernel requests to [`crate::fs::Fs`], and the mount itself.

mod adapter;
mod connection;
mod content;
mod convert;
mod forgets;
mod handshake;
mod job;
mod killed;
mod listing;
mod mountpoint;
mod pace;
mod replies;
mod reply;
mod requests;
mod runner;
mod shared;
mod terms;
#[cfg(test)]
mod tests;
mod uring;
mod watch;

pub use adapter::Adapter;
pub use connection::Connection;
pub use mountpoint::{
    Exposure, MountError, Mounted, Options, Transport, UNPRIVILEGED, changed_flags, mount,
};
pub use shared::Shared;
pub use terms::PageCache;
