//! OpenBao's Transit, on a real server with TLS.

mod calls;
mod faults;
mod memory;
mod mounted;
mod network;
mod rewrap;
