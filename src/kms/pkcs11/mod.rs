//! Master keys in a token that is reached through PKCS#11: an HSM, or SoftHSM.
//!
//! A module of the token's maker is loaded into this process and makes the calls. It is code of
//! others: a call may hang, so each is made by a thread that nobody has to wait for (`callers`).
//! What it answers is sorted in `errors`. Terms are those of the AWS KMS API, and of PKCS#11: a
//! *token* has *objects*, of which a master key is one; a *session* talks to the token, and is
//! logged in with a PIN.

mod admin;
mod blob;
mod callers;
mod client;
mod crypto;
mod errors;
mod keys;
mod module;
mod names;
mod pin;
mod session;
mod token;

pub use client::{Pkcs11Kms, Place};
pub use pin::{Pin, PinSource};
