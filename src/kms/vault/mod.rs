//! The Transit engine of OpenBao and HashiCorp Vault, over its HTTP API.
//!
//! Nothing that comes back is trusted: answers are bounded, read from memory that is wiped, and a
//! wrapped key has to look like one. Calls block their thread for a bounded time. Terms are those
//! of the AWS KMS API, and so are the codes of errors; which answer of Transit is which is in
//! `errors`, which call is which in `crypto`.

mod admin;
mod answer;
mod auth;
mod client;
mod crypto;
mod errors;
mod http;
mod names;
mod place;
mod session;

pub use super::url::PlainHttp;
pub use auth::{Auth, Token};
pub use client::VaultKms;
pub use place::{ClientCert, Place};
