//! Whether work went on while something else was cut off. Pure.

use crate::clock::Moment;
use crate::demo::row::Row;
use crate::demo::timeline::Timeline;
use crate::demo::verdict::Check;

/// That no program was ever refused anything between the two orders, and each worked after `from`,
/// when what was cut off had been noticed.
pub(super) fn went_on(t: &Timeline, from: Option<Moment>, whose: &str) -> Check {
    let (Some(away), Some(back), Some(from)) = (t.disabled, t.enabled, from) else {
        return Check { what: format!("{whose}: it did not come to that"), held: false };
    };
    let tallies = Row::PROGRAMS.map(|row| (row, t.tally(row, away, back)));
    let failed = tallies.iter().find_map(|(row, tally)| {
        tally.keys().find(|word| **word != "ok").map(|word| (row.name(), *word))
    });
    if let Some((name, word)) = failed {
        return Check { what: format!("{whose}: {name} got {word}"), held: false };
    }
    let idle = Row::PROGRAMS.into_iter().find(|row| !t.tally(*row, from, back).contains_key("ok"));
    if let Some(row) = idle {
        return Check { what: format!("{whose}: {} did not go on", row.name()), held: false };
    }
    let done: u64 = tallies.iter().filter_map(|(_, tally)| tally.get("ok")).sum();
    Check { what: format!("{whose}: {done} accesses meanwhile, none failed"), held: true }
}

/// That the mount was open all the time between the two orders.
pub(super) fn stayed_open(t: &Timeline, whose: &str) -> Check {
    let (Some(away), Some(back)) = (t.disabled, t.enabled) else {
        return Check { what: format!("{whose}: it did not come to that"), held: false };
    };
    let before = t.state_at(away);
    let meanwhile = t.states.iter().filter(|(at, _)| *at >= away && *at < back);
    let mut all = std::iter::once(before).chain(meanwhile.map(|(_, state)| state.as_str()));
    match all.find(|state| *state != "open") {
        Some(state) => Check { what: format!("{whose}: was {state}"), held: false },
        None => Check { what: format!("{whose}: open all the time"), held: true },
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::demo::timeline::tests::{event, ms, sighting};

    /// Cut off at 3 s, noticed at 4 s, given back at 6 s; everybody works at 2, 5 and 7 s.
    pub fn undisturbed() -> Timeline {
        let mut t = Timeline::new(ms(1000));
        t.sight(ms(1100), &sighting("open", 1, 0, 1050));
        t.disabled = Some(ms(3000));
        t.sight(ms(4000), &sighting("open", 2, 1, 1050));
        t.enabled = Some(ms(6000));
        for at in [2000, 5000, 7000] {
            t.events.extend(Row::PROGRAMS.map(|row| event(row, at, "ok", at / 1000)));
        }
        t
    }

    fn told(t: &Timeline) -> (String, bool) {
        let check = went_on(t, Some(ms(4000)), "mount");
        (check.what, check.held)
    }

    #[test]
    fn a_single_failure_or_silence_breaks_it() {
        let mut t = undisturbed();
        assert_eq!(told(&t), ("mount: 6 accesses meanwhile, none failed".to_owned(), true));
        t.events.push(event(Row::Map, 6000, "SIGBUS", 1));
        assert!(told(&t).1, "afterwards is not meanwhile");
        t.events.push(event(Row::Map, 5999, "SIGBUS", 1));
        assert_eq!(told(&t), ("mount: map got SIGBUS".to_owned(), false));
        let mut t = undisturbed();
        t.events.retain(|e| e.row != Row::Stat || e.at != ms(5000));
        t.events.push(event(Row::Stat, 3500, "ok", 1));
        assert_eq!(told(&t), ("mount: stat did not go on".to_owned(), false));
        assert!(!went_on(&t, None, "mount").held, "nothing was noticed");
    }

    #[test]
    fn a_mount_that_locks_meanwhile_did_not_stay_open() {
        let mut t = undisturbed();
        assert!(stayed_open(&t, "mount").held);
        t.states.push((ms(6000), "revoked".to_owned()));
        assert!(stayed_open(&t, "mount").held);
        t.states.insert(1, (ms(5000), "unreachable".to_owned()));
        assert_eq!(stayed_open(&t, "mount").what, "mount: was unreachable");
    }
}
