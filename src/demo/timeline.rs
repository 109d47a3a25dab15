//! What was seen, and when: events of the programs, beats and states of the mount, orders to the
//! KMS. Pure: it knows no process, and time is an argument.

use std::collections::BTreeMap;
use std::time::Duration;

use super::row::Row;
use crate::clock::Moment;

/// What an access got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Got {
    /// It worked.
    Success,
    /// The name of an errno or a signal, or another word.
    Failure(String),
}

/// The failure of a read that worked and gave wrong bytes.
pub const WRONG: &str = "WRONG-DATA";

/// One line that a program told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which access.
    pub row: Row,
    /// When it returned.
    pub at: Moment,
    /// What it got.
    pub got: Got,
    /// How often; the number of the line for the writer.
    pub number: u64,
}

impl Event {
    /// The line of text that a program prints for it.
    pub fn encode(&self) -> String {
        let got = match &self.got {
            Got::Success => "ok",
            Got::Failure(name) => name,
        };
        format!("{} {} {got} {}", self.row.name(), self.at.0.as_micros(), self.number)
    }

    /// Its inverse; `None` for anything else.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let name = words.next()?;
        let row = Row::ALL.into_iter().find(|r| r.name() == name)?;
        let at = Moment(Duration::from_micros(words.next()?.parse().ok()?));
        let got = match words.next()? {
            "ok" => Got::Success,
            name => Got::Failure(name.to_owned()),
        };
        let number = words.next()?.parse().ok()?;
        words.next().is_none().then_some(Self { row, at, got, number })
    }

    /// How many accesses it stands for.
    fn weight(&self) -> u64 {
        if self.row == Row::Pgbench { self.number } else { 1 }
    }
}

/// What `status` told, as far as it is drawn.
#[derive(Clone, Debug)]
pub struct Sighting {
    /// open, draining, revoked, …
    pub state: String,
    /// Heartbeats so far.
    pub beats: u64,
    /// Those that were not good.
    pub failed: u64,
    /// When the KMS last answered well.
    pub last_good: Moment,
}

/// A heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// The KMS answered well.
    Good,
    /// It refused, or did not answer.
    Failed,
}

/// How often each word was got; successes as `ok`.
pub type Tally<'a> = BTreeMap<&'a str, u64>;

/// Counts.
pub fn tally<'a>(events: impl Iterator<Item = &'a Event>) -> Tally<'a> {
    let mut all = BTreeMap::new();
    for e in events {
        let word = match &e.got {
            Got::Success => "ok",
            Got::Failure(name) => name,
        };
        *all.entry(word).or_insert(0) += e.weight();
    }
    all
}

/// A tally for people, successes first: `3 ok 27 EKEYREVOKED`.
pub fn words(tally: &Tally<'_>) -> String {
    let successes = tally.get_key_value("ok");
    let failures = tally.iter().filter(|(word, _)| **word != "ok");
    let all = successes.into_iter().chain(failures);
    all.map(|(word, n)| format!("{n} {word}")).collect::<Vec<_>>().join(" ")
}

/// All that was seen.
#[derive(Debug)]
pub struct Timeline {
    /// Where it begins.
    pub origin: Moment,
    /// In order of arrival.
    pub events: Vec<Event>,
    /// Beats, a failed one when it was first told.
    pub beats: Vec<(Moment, Beat)>,
    /// Each state with its beginning.
    pub states: Vec<(Moment, String)>,
    /// When the key was told to be disabled.
    pub disabled: Option<Moment>,
    /// When the key was told to be enabled.
    pub enabled: Option<Moment>,
    seen: (u64, u64),
}

impl Timeline {
    /// One that begins now.
    pub fn new(origin: Moment) -> Self {
        Self {
            origin,
            events: Vec::new(),
            beats: Vec::new(),
            states: Vec::new(),
            disabled: None,
            enabled: None,
            seen: (0, 0),
        }
    }

    /// Notes what `status` told.
    pub fn sight(&mut self, now: Moment, told: &Sighting) {
        let failed = told.failed.saturating_sub(self.seen.1);
        let good = told.beats.saturating_sub(self.seen.0).saturating_sub(failed);
        // A good beat may have preceded the first look.
        if good > 0 && told.last_good >= self.origin {
            self.beats.push((told.last_good, Beat::Good));
        }
        // What the first look tells of was before.
        if failed > 0 && !self.states.is_empty() {
            self.beats.push((now, Beat::Failed));
        }
        self.seen = (told.beats, told.failed);
        if self.state() != told.state {
            self.states.push((now, told.state.clone()));
        }
    }

    /// The present state; empty before the first look.
    pub fn state(&self) -> &str {
        self.states.last().map_or("", |(_, s)| s)
    }

    /// The state just before `before`; empty before the first look.
    pub fn state_at(&self, before: Moment) -> &str {
        self.states.iter().rfind(|(at, _)| *at < before).map_or("", |(_, s)| s)
    }

    /// The rows that occur.
    pub fn rows(&self) -> Vec<Row> {
        Row::ALL.into_iter().filter(|r| self.events.iter().any(|e| e.row == *r)).collect()
    }

    /// What a row got from `from` on and before `to`: how often by word, successes as `ok`.
    pub fn tally(&self, row: Row, from: Moment, to: Moment) -> Tally<'_> {
        tally(self.of(row).filter(|e| e.at >= from && e.at < to))
    }

    /// The last success of a row before `before`.
    pub fn last_success(&self, row: Row, before: Moment) -> Option<Moment> {
        self.of(row).filter(|e| e.got == Got::Success && e.at < before).map(|e| e.at).max()
    }

    /// The first success of a row from `from` on.
    pub fn first_success(&self, row: Row, from: Moment) -> Option<Moment> {
        self.of(row).filter(|e| e.got == Got::Success && e.at >= from).map(|e| e.at).min()
    }

    /// The first failure of a row.
    pub fn first_failure(&self, row: Row) -> Option<Moment> {
        self.of(row).filter(|e| e.got != Got::Success).map(|e| e.at).min()
    }

    /// The last failure of a row.
    pub fn last_failure(&self, row: Row) -> Option<Moment> {
        self.of(row).filter(|e| e.got != Got::Success).map(|e| e.at).max()
    }

    fn of(&self, row: Row) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(move |e| e.row == row)
    }

    /// The numbers of the lines that were acknowledged.
    pub fn acknowledged(&self) -> impl Iterator<Item = u64> {
        self.of(Row::Writer).filter(|e| e.got == Got::Success).map(|e| e.number)
    }

    /// When the mount was first seen locked, after the disable.
    pub fn locked(&self) -> Option<Moment> {
        let disabled = self.disabled?;
        let locked = |s: &str| s != "open" && s != "draining";
        self.states.iter().find(|(at, s)| *at >= disabled && locked(s)).map(|(at, _)| *at)
    }

    /// When the mount was first seen open, after the enable.
    pub fn reopened(&self) -> Option<Moment> {
        let enabled = self.enabled?;
        self.states.iter().find(|(at, s)| *at >= enabled && s == "open").map(|(at, _)| *at)
    }

    /// When a beat was first seen to fail, after the disable.
    pub fn first_refusal(&self) -> Option<Moment> {
        let disabled = self.disabled?;
        let failed = |(at, beat): &&(Moment, Beat)| *at >= disabled && *beat == Beat::Failed;
        self.beats.iter().find(failed).map(|(at, _)| *at)
    }

    /// The time of the last thing seen.
    pub fn end(&self) -> Moment {
        let events = self.events.iter().map(|e| e.at);
        let beats = self.beats.iter().map(|(at, _)| *at);
        let states = self.states.iter().map(|(at, _)| *at);
        events.chain(beats).chain(states).max().unwrap_or(self.origin)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A moment, in milliseconds.
    pub fn ms(n: u64) -> Moment {
        Moment(Duration::from_millis(n))
    }

    pub fn event(row: Row, at: u64, got: &str, number: u64) -> Event {
        let got = if got == "ok" { Got::Success } else { Got::Failure(got.to_owned()) };
        Event { row, at: ms(at), got, number }
    }

    pub fn sighting(state: &str, beats: u64, failed: u64, last_good: u64) -> Sighting {
        Sighting { state: state.to_owned(), beats, failed, last_good: ms(last_good) }
    }

    /// A short play: disabled at 3 s, locked at 4 s, enabled at 6 s, open at 7 s.
    pub fn play() -> Timeline {
        let mut t = Timeline::new(ms(1000));
        t.sight(ms(1100), &sighting("open", 1, 0, 1050));
        t.disabled = Some(ms(3000));
        t.sight(ms(3900), &sighting("draining", 3, 1, 2500));
        t.sight(ms(4000), &sighting("revoked", 3, 1, 2500));
        t.enabled = Some(ms(6000));
        t.sight(ms(7000), &sighting("open", 6, 2, 6900));
        for row in Row::ALL {
            t.events.push(event(row, 2000, "ok", 1));
            t.events.push(event(row, 3500, "ok", 2));
            t.events.push(event(
                row,
                4500,
                if row == Row::Map { "SIGBUS" } else { "EKEYREVOKED" },
                3,
            ));
            t.events.push(event(row, 7500, "ok", 4));
        }
        t
    }

    #[test]
    fn an_event_survives_the_pipe_and_nothing_else_passes_for_one() {
        for row in Row::ALL {
            for got in ["ok", "EKEYREVOKED"] {
                let event = event(row, 1234, got, 7);
                assert_eq!(Event::parse(&event.encode()), Some(event));
            }
        }
        for line in ["", "writer", "writer 1 ok", "writer x ok 1", "nobody 1 ok 1", "map 1 ok 1 1"]
        {
            assert_eq!(Event::parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn beats_and_states_are_noted_once() {
        let t = play();
        let beats: Vec<_> = t.beats.iter().map(|(at, b)| (at.0.as_millis(), *b)).collect();
        let wanted = [
            (1050, Beat::Good),
            (2500, Beat::Good),
            (3900, Beat::Failed),
            (6900, Beat::Good),
            (7000, Beat::Failed),
        ];
        assert_eq!(beats, wanted);
        let states: Vec<_> = t.states.iter().map(|(_, s)| s.as_str()).collect();
        assert_eq!(states, ["open", "draining", "revoked", "open"]);
    }

    #[test]
    fn failures_before_the_first_look_are_none_of_it() {
        let mut t = Timeline::new(ms(1000));
        t.sight(ms(1100), &sighting("open", 9, 4, 900));
        t.sight(ms(2000), &sighting("open", 10, 5, 900));
        assert_eq!(t.beats, [(ms(2000), Beat::Failed)]);
    }

    #[test]
    fn the_turning_points_are_found() {
        let t = play();
        assert_eq!(t.locked(), Some(ms(4000)), "draining is not locked");
        assert_eq!(t.reopened(), Some(ms(7000)));
        assert_eq!((t.state_at(ms(4000)), t.state_at(ms(4001))), ("draining", "revoked"));
        assert_eq!(t.first_refusal(), Some(ms(3900)));
        assert_eq!(t.last_success(Row::Map, ms(6000)), Some(ms(3500)));
        assert_eq!(t.first_success(Row::Map, ms(6000)), Some(ms(7500)));
        assert_eq!(t.last_failure(Row::Map), Some(ms(4500)));
        assert_eq!(t.acknowledged().collect::<Vec<_>>(), [1, 2, 4]);
    }

    #[test]
    fn a_tally_counts_what_lies_in_its_time() {
        let t = play();
        let all = t.tally(Row::Open, ms(0), ms(9000));
        assert_eq!(all, BTreeMap::from([("ok", 3), ("EKEYREVOKED", 1)]));
        assert_eq!(words(&all), "3 ok 1 EKEYREVOKED");
        assert!(t.tally(Row::Open, ms(3501), ms(4500)).is_empty(), "the end is not in it");
        let transactions = t.tally(Row::Pgbench, ms(0), ms(9000));
        assert_eq!(transactions["ok"], 7, "pgbench tells many at once");
    }
}
