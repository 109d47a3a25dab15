//! What is shown while it runs: a line a second.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use super::row::Row;
use super::timeline::{Event, Timeline, tally, words};
use crate::clock::Moment;
use crate::escape::escape;

/// Prints a line, escaped as `say!` does. That nobody reads it stops nothing: the stage has to be
/// taken down all the same.
pub fn say(line: &str) {
    put(&escape(line));
}

/// Prints a line whose parts are escaped, and which may be coloured.
fn put(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Coloured,
}

/// The table that grows by a line a second.
pub struct Screen {
    rows: Vec<Row>,
    style: Style,
    next: Moment,
    /// How many events of the timeline were taken.
    taken: usize,
    /// Those of them that no line has told yet.
    untold: Vec<Event>,
}

const SECOND: Duration = Duration::from_secs(1);

impl Screen {
    /// A table of these rows, in colours on a terminal unless `NO_COLOR` is set.
    pub fn new(rows: Vec<Row>, now: Moment) -> Self {
        let coloured = std::io::stdout().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let style = if coloured { Style::Coloured } else { Style::Plain };
        Self { rows, style, next: now + SECOND, taken: 0, untold: Vec::new() }
    }

    /// The names of the columns.
    pub fn header(&self) -> String {
        let names: String = self.rows.iter().map(|r| format!("  {:<20}", r.name())).collect();
        format!("{:>6}  {:<11}{names}", "time", "state").trim_end().to_owned()
    }

    /// Prints the seconds that have passed.
    pub fn update(&mut self, timeline: &Timeline, now: Moment) {
        while now >= self.next {
            let line = self.line(timeline);
            put(&line);
            self.next = self.next + SECOND;
        }
    }

    /// The second that ends at `self.next`, with what came late of earlier ones: pgbench tells
    /// its transactions when it ends.
    fn line(&mut self, t: &Timeline) -> String {
        self.untold.extend(t.events[self.taken..].iter().cloned());
        self.taken = t.events.len();
        let next = self.next;
        let told: Vec<_> = self.untold.extract_if(.., |e| e.at < next).collect();
        let time = next.since(t.origin).as_secs();
        let mut line = format!("{:>4} s  {:<11}", time, t.state_at(next));
        for row in &self.rows {
            let tally = tally(told.iter().filter(|e| e.row == *row));
            let cell = format!("  {:<20}", escape(&words(&tally)));
            let colour = match (tally.contains_key("ok"), tally.len()) {
                _ if self.style == Style::Plain => None,
                (_, 0) => None,
                (true, 1) => Some(32),
                (true, _) => Some(33),
                (false, _) => Some(31),
            };
            match colour {
                Some(c) => line.push_str(&format!("\x1b[{c}m{cell}\x1b[0m")),
                None => line.push_str(&cell),
            }
        }
        line.trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::super::timeline::tests::{event, ms, play};
    use super::*;

    fn screen(style: Style, next: u64) -> Screen {
        let rows = vec![Row::Writer, Row::Pgbench];
        Screen { rows, style, next: ms(next), taken: 0, untold: Vec::new() }
    }

    fn squeezed(s: &str) -> String {
        s.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_line_tells_what_each_got_and_nothing_is_told_twice_or_never() {
        let mut t = play();
        let mut plain = screen(Style::Plain, 5000);
        assert_eq!(squeezed(&plain.header()), "time state writer pgbench");
        let line = plain.line(&t);
        assert_eq!(squeezed(&line), "4 s revoked 2 ok 1 EKEYREVOKED 3 ok 3 EKEYREVOKED");
        assert!(!line.contains('\x1b'));
        t.events.push(event(Row::Pgbench, 4900, "ok", 70));
        plain.next = ms(6000);
        assert_eq!(squeezed(&plain.line(&t)), "5 s revoked 70 ok", "late, but once");
        plain.next = ms(8000);
        assert_eq!(squeezed(&plain.line(&t)), "7 s open 1 ok 4 ok");
        assert!(screen(Style::Coloured, 5000).line(&t).contains("\x1b[33m"));
    }
}
