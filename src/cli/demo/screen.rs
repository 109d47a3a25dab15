//! What is shown while it runs: a line a second.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use super::timeline::{Row, Timeline};
use crate::clock::Moment;

/// Prints a line. That nobody reads it stops nothing: the stage has to be taken down all the
/// same.
pub fn say(line: &str) {
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
}

const SECOND: Duration = Duration::from_secs(1);

impl Screen {
    /// A table of these rows, in colours on a terminal unless `NO_COLOR` is set.
    pub fn new(rows: Vec<Row>, now: Moment) -> Self {
        let coloured = std::io::stdout().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let style = if coloured { Style::Coloured } else { Style::Plain };
        Self { rows, style, next: now + SECOND }
    }

    /// The names of the columns.
    pub fn header(&self) -> String {
        let names: String = self.rows.iter().map(|r| format!("  {:<20}", r.name())).collect();
        format!("{:>6}  {:<11}{names}", "time", "state").trim_end().to_owned()
    }

    /// Prints the seconds that have passed.
    pub fn update(&mut self, timeline: &Timeline, now: Moment) {
        while now >= self.next {
            say(&self.line(timeline));
            self.next = self.next + SECOND;
        }
    }

    /// The second that ends at `self.next`.
    fn line(&self, t: &Timeline) -> String {
        let time = self.next.since(t.origin).as_secs();
        let mut line = format!("{:>4} s  {:<11}", time, t.state());
        for row in &self.rows {
            let tally = t.tally(*row, self.next.before(SECOND), self.next);
            let words: Vec<_> = tally.iter().map(|(word, n)| format!("{n} {word}")).collect();
            let cell = format!("  {:<20}", words.join(" "));
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
    use super::super::timeline::tests::{ms, play};
    use super::*;

    fn screen(style: Style, next: u64) -> Screen {
        Screen { rows: vec![Row::Writer, Row::Map], style, next: ms(next) }
    }

    #[test]
    fn a_line_tells_what_each_got_in_that_second() {
        let t = play();
        let words = |s: &str| s.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
        let plain = screen(Style::Plain, 5000);
        assert_eq!(words(&plain.line(&t)), "4 s open 1 EKEYREVOKED 1 SIGBUS");
        assert_eq!(words(&plain.header()), "time state writer map");
        assert!(!plain.line(&t).contains('\x1b'));
        assert!(screen(Style::Coloured, 5000).line(&t).contains("\x1b[31m"));
    }
}
