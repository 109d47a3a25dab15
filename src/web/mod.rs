//! What a mount shows to monitoring: its figures, as Prometheus reads them.

mod figures;
mod prometheus;

pub use figures::Figures;
pub use prometheus::exposition;
