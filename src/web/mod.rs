//! What a mount shows to monitoring: its figures, as Prometheus reads them, and a status page.

mod figures;
mod page;
mod prometheus;
mod server;
mod snapshot;

pub use figures::Figures;
pub use prometheus::exposition;
pub use server::{Listener, MOST_CONNECTIONS, Source};
