//! Where a mount stands, and why.

/// Why the mount is not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The KMS refuses the master key, or has refused who asks for longer than the grace.
    Refused,
    /// The KMS has been out of reach for longer than the grace.
    Unreachable,
    /// An operator locked it.
    Operator,
}

/// Where the mount stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Everything is served.
    Open,
    /// Dirty pages are saved, nothing else is served.
    Draining(Reason),
    /// Nothing is served, and no key is in memory.
    Locked(Reason),
}

const REASONS: [Reason; 3] = [Reason::Refused, Reason::Unreachable, Reason::Operator];

impl Phase {
    /// A number for an atomic.
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Open => 0,
            Self::Draining(r) => 1 + r as u8,
            Self::Locked(r) => 4 + r as u8,
        }
    }

    /// The phase of a number that `code` made.
    pub(super) fn from_code(code: u8) -> Self {
        match code {
            1..=3 => Self::Draining(REASONS[usize::from(code) - 1]),
            4..=6 => Self::Locked(REASONS[usize::from(code) - 4]),
            _ => Self::Open,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_survive_their_code() {
        for r in REASONS {
            for p in [Phase::Open, Phase::Draining(r), Phase::Locked(r)] {
                assert_eq!(Phase::from_code(p.code()), p);
            }
        }
    }
}
