//! FUSE: the adapter from kernel requests to [`crate::fs::Fs`], and the mount itself.

mod adapter;
mod convert;
mod job;
mod listing;
mod mountpoint;
mod watch;

pub use adapter::{Adapter, PageCache};
pub use job::Shared;
pub use mountpoint::{Exposure, MountError, Mounted, Options, mount};
