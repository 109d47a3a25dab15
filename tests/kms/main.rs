//! The providers of master keys against one suite, and mounts whose master key is in a KMS that
//! another process serves. `KMSFS_SKIP=ministack`, `localstack`, `openbao`, `softhsm` or `fuse`
//! skips by name.

#[path = "../support/mod.rs"]
mod support;

mod conformance;
#[cfg(feature = "aws")]
mod demo;
#[cfg(feature = "aws")]
mod faults;
#[cfg(feature = "aws")]
mod fsck;
#[cfg(feature = "aws")]
mod measure;
#[cfg(feature = "aws")]
mod memory;
#[cfg(feature = "aws")]
mod mounted;
#[cfg(feature = "aws")]
mod network;
#[cfg(feature = "pkcs11")]
mod pkcs11;
#[cfg(feature = "aws")]
mod policies;
mod providers;
#[cfg(feature = "aws")]
mod replicas;
#[cfg(feature = "aws")]
mod rewrap;
#[cfg(feature = "aws")]
mod shared_beats;
#[cfg(any(feature = "aws", feature = "pkcs11", feature = "vault"))]
mod switch;
#[cfg(feature = "vault")]
mod vault;
