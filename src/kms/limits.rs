//! How long a call of a KMS over a network may take, and what of that each of its parts has.

use std::time::Duration;

/// What a call has with all its tries, where nothing else is said.
pub const CALL: Duration = Duration::from_secs(3);
/// Tries of one call; a refusal is never tried again.
pub(super) const TRIES: u32 = 3;

/// The parts of a call's time. The tries and what is between them fit into it.
pub(super) struct Limits {
    /// To a server that does not even accept the connection.
    pub(super) connect: Duration,
    /// One try, its answer read to the end.
    pub(super) attempt: Duration,
}

impl Limits {
    /// Of a call that may take so long.
    pub(super) fn of(call: Duration) -> Self {
        Self { connect: call * 7 / 30, attempt: call * 8 / 30 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_tries_fit_into_a_call() {
        for call in [Duration::from_secs(1), CALL, Duration::from_secs(10)] {
            let Limits { connect, attempt } = Limits::of(call);
            assert!(connect < attempt && attempt * TRIES < call);
        }
    }
}
