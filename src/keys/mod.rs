//! Data keys in time: the cache, the pool, the gate in front of them, and the heartbeat that
//! decides whether the gate is open.

mod ahead;
mod beat;
mod cache;
mod fetch;
mod gate;
mod keyring;
mod lines;
mod machine;
mod monitor;
mod pool;
mod rate;
mod volume;

pub use gate::{Gate, Pass, Purpose, Shut};
pub use keyring::{KeyFail, Keyring, Limits, Services, Waker, Want};
pub use machine::{Effect, Event, Machine, Phase, Reason, Timing};
pub use monitor::{Effects, Monitor, Status};
pub use volume::{OpenError, Volume, create, open};
