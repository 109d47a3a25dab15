//! Data keys in time: the cache, the pool, the gate in front of them, and the heartbeat that
//! decides whether the gate is open.

mod ahead;
mod answers;
pub mod audit;
mod beat;
mod branch;
mod branches;
mod cache;
mod carriers;
mod counts;
mod effects;
mod fetch;
mod files;
#[cfg(test)]
pub(crate) mod fixture;
mod follow;
mod gate;
#[cfg(all(test, feature = "shuttle"))]
mod interleavings;
mod keyring;
mod lines;
mod machine;
mod masters;
mod monitor;
mod opener;
mod pages;
mod phase;
mod pool;
mod present;
mod queue;
#[cfg(test)]
mod race_tests;
mod rate;
mod sealing;
mod services;
mod shared_beats;
mod source;
mod status;
mod store_use;
#[cfg(test)]
mod tests;
mod volume;

mod request;

pub use answers::{Answer, Answers, Ticket};
pub use branch::BranchKey;
pub use carriers::Carriers;
pub use counts::KeyCounts;
pub use effects::{Effects, LockTime};
pub use follow::FollowError;
pub use gate::{Gate, Pass, Purpose, Shut};
pub use keyring::{Keyring, Limits};
pub use machine::{Effect, Event, Machine, Timing};
pub use monitor::Monitor;
pub use opener::{NoRecovery, Opener};
pub use phase::{Phase, Reason};
pub use rate::Rate;
pub use request::{KeyFail, KeyRequest};
pub use sealing::{Of as SealedOf, is_own as is_own_seal};
pub use services::Services;
pub use shared_beats::SharedBeats;
pub use source::{Word, is_proven, source_mac};
pub use status::{Beat, BeatOutcome, Status};
pub use store_use::StoreUse;
pub use volume::{Accepted, Identity, OpenError, Trust, Volume, create, open, open_file};
