//! Data keys in time: the cache, the pool, the gate in front of them, and the heartbeat that
//! decides whether the gate is open.

mod ahead;
pub mod audit;
mod beat;
mod branch;
mod branches;
mod cache;
mod fetch;
#[cfg(test)]
mod fixture;
mod follow;
mod gate;
#[cfg(all(test, feature = "shuttle"))]
mod interleavings;
mod keyring;
mod lines;
mod machine;
#[cfg(test)]
mod meanwhile;
mod monitor;
mod pool;
mod rate;
mod services;
#[cfg(test)]
mod tests;
mod volume;
mod want;

pub use follow::FollowError;
pub use gate::{Gate, Pass, Purpose, Shut};
pub use keyring::{Keyring, Limits};
pub use machine::{Effect, Event, Machine, Phase, Reason, Timing};
pub use monitor::{Effects, LockTime, Monitor, Status};
pub use rate::Rate;
pub use services::Services;
pub use volume::{Accepted, OpenError, Volume, check_master, create, open, open_file};
pub use want::{KeyFail, Waker, Want};
