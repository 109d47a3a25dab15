//! What disabling a key means elsewhere, as others document it, beside what was measured here. Pure.

use std::fmt::Write;
use std::time::Duration;

use super::canvas::{Canvas, RIGHT, SUCCESS, WIDTH};
use super::report::scrolled;
use super::row::Row;
use super::verdict::{self, Facts, Since, seconds};
use crate::escape::markup;

/// A service that encrypts with a key of its customer's.
struct Service {
    name: &'static str,
    /// How long data may stay readable; `None`: for as long as it is in use.
    readable: Option<Duration>,
    /// The same in words.
    words: &'static str,
    /// The page of its maker's documentation that says so.
    page: &'static str,
}

const SERVICES: [Service; 4] = [
    Service {
        name: "Azure SQL Database",
        readable: Some(Duration::from_secs(10 * 60)),
        words: "up to about 10 minutes, with transparent data encryption",
        page: "Azure SQL transparent data encryption with customer-managed key",
    },
    Service {
        name: "MongoDB Atlas",
        readable: Some(Duration::from_secs(15 * 60)),
        words: "until the next check of the key, one every 15 minutes",
        page: "Encryption at Rest using Customer Key Management",
    },
    Service {
        name: "Amazon RDS",
        readable: Some(Duration::from_secs(2 * 60 * 60)),
        words: "two hours after it is detected, where backups are on",
        page: "Encrypting Amazon RDS resources",
    },
    Service {
        name: "Amazon EBS",
        readable: None,
        words: "as long as the volume is attached",
        page: "How unusable KMS keys affect data keys",
    },
];

/// A little more than the longest time that has an end.
const LENGTH: Duration = Duration::from_secs(135 * 60);
const QUARTER: Duration = Duration::from_secs(15 * 60);
/// The magnified part of the axis has at least so much.
const SHORTEST: Duration = Duration::from_secs(10);

const TOP: f64 = 44.0;
const LANE: f64 = 50.0;
/// Between the axis and what is magnified of it.
const GAP: f64 = 74.0;
/// The row of this run.
const HERE: (&str, &str) = ("kmsfs", "measured in this run");
const OTHERS: &str = "#b45309";

/// The longest time that a program could still read, counted from where the promise counts; `None`
/// where it did not come to that.
fn measured(facts: &Facts<'_>) -> Option<Duration> {
    match facts.since {
        Since::Order => facts.timeline.disabled?,
        Since::FirstRefusal => facts.timeline.first_refusal()?,
    };
    Row::PROGRAMS.iter().filter_map(|row| verdict::last_success(facts, *row)).max()
}

/// The picture, and the same as a table.
pub fn compare(facts: &Facts<'_>) -> String {
    let here = measured(facts);
    let promised = verdict::bound(facts);
    let from = match facts.since {
        Since::Order => "the disable",
        Since::FirstRefusal => "the KMS's first refusal",
    };
    let text = format!(
        "<p>How long data in use stays readable once its key is disabled. The time of kmsfs was \
         measured in this run, from {from} to the last success of any program; the others are \
         what their makers document.</p>\n"
    );
    text + &draw(here, promised) + &table(here, promised)
}

/// A time that was measured, in words.
fn told(here: Option<Duration>) -> String {
    here.map_or_else(|| "not measured".to_owned(), seconds)
}

fn draw(measured: Option<Duration>, promised: Duration) -> String {
    let (here, words) = (measured.unwrap_or_default(), told(measured));
    let bottom = TOP + LANE * (SERVICES.len() as f64 + 1.0);
    let length = magnified_length(here.max(promised));
    // Where all the others are still readable at its end.
    let is_magnified = SERVICES.iter().filter_map(|s| s.readable).all(|time| length < time);
    let height = bottom + if is_magnified { GAP + 2.0 * LANE } else { 0.0 } + 34.0;
    let description = SERVICES.iter().fold(
        format!("kmsfs: {words} in this run, {} promised.", seconds(promised)),
        |text, service| format!("{text} {}: {}.", service.name, service.words),
    );
    let name = "How long data stays readable once its key is disabled, to scale";
    let mut c = Canvas::new(height, LENGTH, name, Some(&description));
    c.text(14.0, 26.0, "name", "from the disable on, to scale");
    c.axis(TOP, bottom, QUARTER);
    bar(&mut c, TOP, HERE, (Some(here), SUCCESS), &words);
    for (i, service) in SERVICES.iter().enumerate() {
        let top = TOP + LANE * (i as f64 + 1.0);
        let time = (service.readable, OTHERS);
        bar(&mut c, top, (service.name, "documented"), time, service.words);
    }
    if is_magnified {
        let top = bottom + GAP;
        let factor = LENGTH.as_secs_f64() / length.as_secs_f64();
        let title = format!("its first {} s, magnified {factor:.0} times", length.as_secs());
        c.text(14.0, top - 14.0, "name", &title);
        c.rescale(length);
        c.axis(top, top + 2.0 * LANE, Duration::from_secs((length.as_secs() / 10).max(1)));
        bar(&mut c, top, HERE, (Some(here), SUCCESS), &words);
        let others = ("all the others", "documented");
        bar(&mut c, top + LANE, others, (None, OTHERS), "readable");
        mark(&mut c, top, promised);
    }
    c.finish()
}

fn mark(c: &mut Canvas, top: f64, promised: Duration) {
    let x = c.x(promised);
    c.put(format_args!(
        "<path d=\"M{x:.1} {top:.1}V{:.1}\" stroke=\"#be185d\" stroke-width=\"1.5\" \
         stroke-dasharray=\"6 4\"/>",
        top + LANE
    ));
    c.text(x + 4.0, top + 14.0, "mark", "promised: unreadable by here");
}

/// A bar from the beginning to a time, or beyond the end, with words at its end or in it.
fn bar(
    c: &mut Canvas,
    top: f64,
    (name, title): (&str, &str),
    (time, colour): (Option<Duration>, &str),
    words: &str,
) {
    c.label(top + 22.0, name, title);
    let (from, end) = (c.x(Duration::ZERO), WIDTH - RIGHT);
    let to = time.map_or(end - 12.0, |time| c.x(time));
    // What is too short to be seen is drawn as wide as a line.
    c.rect(from, top + 8.0, (to - from).max(1.0), 26.0, colour);
    if time.is_none() {
        let (middle, low) = (top + 21.0, top + 34.0);
        c.put(format_args!(
            "<path d=\"M{to:.1} {:.1}L{end:.1} {middle:.1}L{to:.1} {low:.1}Z\" fill=\"{colour}\"/>",
            top + 8.0
        ));
    }
    // Seven pixels are a letter's width, by and large.
    let width = 7.0 * words.len() as f64 + 8.0;
    if to + width < end {
        c.text(to + 6.0, top + 26.0, "key", words);
    } else {
        c.text(from + 8.0, top + 26.0, "inside", words);
    }
}

/// Whole seconds, half as many again as have to be seen.
fn magnified_length(seen: Duration) -> Duration {
    Duration::from_secs((seen * 3 / 2).as_secs() + 1).max(SHORTEST)
}

fn table(here: Option<Duration>, promised: Duration) -> String {
    let mut out = "<table>\n<tr><th>where</th><th>how long data in use stays \
                   readable</th><th>who says so</th></tr>\n"
        .to_owned();
    let _ = writeln!(
        out,
        "<tr><td><b>kmsfs</b></td><td>{}; {} at most is promised</td><td>this run</td></tr>",
        told(here),
        seconds(promised)
    );
    for Service { name, words, page, .. } in SERVICES {
        let _ = writeln!(
            out,
            "<tr><td><b>{}</b></td><td>{}</td><td>its documentation: <cite>{}</cite></td></tr>",
            markup(name),
            markup(words),
            markup(page)
        );
    }
    scrolled("What disabling means elsewhere", &(out + "</table>\n"))
}

#[cfg(test)]
mod tests {
    use super::super::means::Means;
    use super::super::timeline::Timeline;
    use super::super::timeline::tests::play;
    use super::*;

    const MEASURED: Duration = Duration::from_millis(1370);
    const PROMISED: Duration = Duration::from_secs(3);

    /// The widths of bars, in the order in which they are drawn.
    fn widths(picture: &str) -> Vec<f64> {
        let bars = picture.lines().filter(|l| l.starts_with("<rect") && !l.contains("var("));
        let width = |line: &str| {
            let rest = line.split("width=\"").nth(1).expect("a width");
            rest.split('"').next().expect("its end").parse().expect("a number")
        };
        bars.map(width).collect()
    }

    #[test]
    fn every_bar_is_to_scale() {
        let widths = widths(&draw(Some(MEASURED), PROMISED));
        let [here, azure, atlas, rds, ebs, magnified, others] = widths[..] else {
            panic!("{widths:?}");
        };
        assert!((atlas / azure - 1.5).abs() < 0.01 && (rds / azure - 12.0).abs() < 0.05);
        assert!((azure - 856.0 * 600.0 / 8100.0).abs() < 0.1);
        assert!((here - 1.0).abs() < 0.01, "a sliver that can be seen");
        assert!(ebs > rds && (others - ebs).abs() < 0.1, "without an end");
        assert!((magnified - 856.0 * 0.137).abs() < 0.1);
    }

    #[test]
    fn a_time_of_minutes_is_drawn_too() {
        assert_eq!(magnified_length(PROMISED), SHORTEST);
        assert_eq!(magnified_length(Duration::from_secs(60)), Duration::from_secs(91));
        let of = |minutes: u64| draw(None, Duration::from_secs(60 * minutes));
        assert!(of(6).contains("magnified") && !of(7).contains("magnified"));
        for here in [None, Some(Duration::ZERO), Some(LENGTH * 2)] {
            let picture = draw(here, PROMISED);
            assert!(!picture.contains("NaN") && !picture.contains("inf"));
        }
    }

    #[test]
    fn what_was_not_measured_is_not_told_as_nothing() {
        assert!(draw(None, PROMISED).contains(">not measured</text>"));
        assert!(table(None, PROMISED).contains("<td>not measured; 3.00 s at most"));
        let of = |timeline: &Timeline, since| {
            measured(&Facts {
                timeline,
                heartbeat: Duration::from_secs(2),
                since,
                means: Means::Disable,
                lines: None,
                database: None,
            })
        };
        let mut t = play();
        assert_eq!(of(&t, Since::Order), Some(Duration::from_millis(500)));
        t.beats.clear();
        assert_eq!(of(&t, Since::FirstRefusal), None);
        t.disabled = None;
        assert_eq!(of(&t, Since::Order), None);
    }

    #[test]
    fn who_does_not_see_it_is_told_the_same() {
        let (picture, table) = (draw(Some(MEASURED), PROMISED), table(Some(MEASURED), PROMISED));
        for Service { name, words, page, .. } in SERVICES {
            assert!(picture.contains(&format!("{name}: {words}.")), "{name}");
            assert!(table.contains(words) && table.contains(page), "{name}");
        }
        assert!(picture.contains("kmsfs: 1.37 s in this run, 3.00 s promised."));
        assert!(table.contains("1.37 s; 3.00 s at most is promised"));
    }
}
