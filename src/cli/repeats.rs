//! What the log says again and again: each line some times, then once a minute.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use crate::clock::Moment;

/// So often a line is written at once.
const BURST: u32 = 5;
/// After that, it is written so far apart.
const APART: Duration = Duration::from_secs(60);
/// So many lines are known. Beyond that all are forgotten, and may be said again.
const MOST: usize = 256;

struct Said {
    /// When it will have been said no more often than once each [`APART`].
    even: Moment,
    left_out: u64,
}

/// What was said of late.
#[derive(Default)]
pub(super) struct Repeats {
    said: HashMap<u64, Said>,
    hasher: RandomState,
}

impl Repeats {
    /// Whether a line is to be written now, and how often it was left out since it was written
    /// last.
    pub(super) fn look(&mut self, text: &str, now: Moment) -> Option<u64> {
        if self.said.len() >= MOST {
            self.said.retain(|_, said| said.even > now);
        }
        if self.said.len() >= MOST {
            self.said.clear();
        }
        let fresh = || Said { even: now, left_out: 0 };
        let said = self.said.entry(self.hasher.hash_one(text)).or_insert_with(fresh);
        if said.even > now + APART * (BURST - 1) {
            said.left_out += 1;
            return None;
        }
        said.even = said.even.max(now) + APART;
        Some(std::mem::take(&mut said.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_written_some_times_and_then_once_a_minute() {
        let (mut repeats, start) = (Repeats::default(), Moment(Duration::from_secs(1000)));
        let mut look = |text: &str, after| repeats.look(text, start + Duration::from_secs(after));
        // As a store's stranger did: each listing a line.
        let said: Vec<_> = (0..3000).filter_map(|_| look("a stranger", 0)).collect();
        assert_eq!(said, [0; 5]);
        assert_eq!(look("another", 0), Some(0));
        assert_eq!(look("a stranger", 59), None);
        assert_eq!(look("a stranger", 60), Some(2996));
        assert_eq!(look("a stranger", 61), None);
        assert_eq!(look("a stranger", 100_000), Some(1), "what was quiet begins anew");
        assert_eq!((look("a stranger", 100_001), look("a stranger", 100_001)), (Some(0), Some(0)));
    }

    #[test]
    fn what_is_known_is_bounded() {
        let (mut repeats, now) = (Repeats::default(), Moment(Duration::from_secs(1000)));
        for n in 0..10_000 {
            assert_eq!(repeats.look(&n.to_string(), now), Some(0));
            assert!(repeats.said.len() <= MOST);
        }
    }
}
