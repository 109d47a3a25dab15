//! What a mount counts of its work. Counting is part of every request, so it takes no lock and
//! no allocation; reading the figures may take longer.

mod counter;
mod histogram;
mod requests;

pub use counter::Counter;
pub use histogram::{BOUNDS, Histogram, Times};
pub use requests::{Failure, FailuresOf, RequestKind, Requests, TimesOf};
