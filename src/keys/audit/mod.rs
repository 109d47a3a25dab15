//! The audit log: a line of JSON for every use of a key, off unless a mount is told a file.
//!
//! It is told of each call of the KMS ([`Audited`]), of each file whose key is used on behalf of
//! a program, and of what an operator asked for. It never knows a key or content; paths it holds
//! in clear. Nobody waits for it: entries go to a thread of its own over a queue with an end,
//! and what finds no room there or on the disk is counted, and the count told.

mod calls;
mod entry;
mod file;
mod origins;
mod queue;
mod writer;

pub use calls::{Audited, ClientRole};
pub use entry::{By, Operation, Verdict};
pub use file::{LogError, LogProblem};
pub(in crate::keys) use origins::BranchOrigins;
pub use queue::{AuditQueue, Log, Subject};
