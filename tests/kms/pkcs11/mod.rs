//! PKCS#11, with SoftHSM's library.

mod calls;
mod memory;
mod mounted;
mod process;
mod rewrap;
