//! AWS KMS, and whatever speaks its API, through the SDK.
//!
//! Nothing that comes back is trusted: the answer's key is compared with the demanded one, and
//! lengths are checked. Calls block their thread for a bounded time; the asynchronous runtime
//! and the SDK's types stay in this folder.

mod admin;
mod client;
mod credentials;
mod crypto;
mod errors;
mod names;
mod network;

pub use super::url::PlainHttp;
pub use client::{AwsKms, Place};
