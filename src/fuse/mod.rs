//! FUSE: the adapter from kernel requests to [`crate::fs::Fs`], and the mount itself.

mod abort;
mod adapter;
mod convert;
mod handshake;
mod job;
mod listing;
mod mountpoint;
mod replies;
mod requests;
mod terms;
mod uring;
mod watch;

pub use adapter::Adapter;
pub use job::Shared;
pub use mountpoint::{Exposure, MountError, Mounted, Options, Transport, mount};
pub use terms::PageCache;
