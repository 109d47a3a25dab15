//! The timeline as a picture: SVG text with nothing from outside. Pure.

use std::time::Duration;

use super::canvas::{Canvas, LEFT, RIGHT, SUCCESS, WIDTH};
use super::marks::{Mark, Stroke};
use super::row::Row;
use super::timeline::{Beat, Tally, Timeline};
use crate::clock::Moment;

const TOP: f64 = 74.0;
const LANE: f64 = 58.0;
/// The state's band and the beats.
const HEAD: f64 = 84.0;
const FOOT: f64 = 70.0;

/// The colour of what an access got.
pub fn colour(word: &str) -> &'static str {
    match word {
        "ok" => SUCCESS,
        "EKEYREVOKED" => "#dc2626",
        "SIGBUS" => "#7c3aed",
        "EKEYEXPIRED" => "#d97706",
        "ENOKEY" => "#0369a1",
        "recovering" => "#94a3b8",
        _ => "#475569",
    }
}

fn state_colour(state: &str) -> &'static str {
    match state {
        "open" => "#bbf7d0",
        "draining" => "#fde68a",
        _ => "#fecaca",
    }
}

/// A timeline on its canvas.
struct Drawing<'a> {
    canvas: Canvas,
    timeline: &'a Timeline,
}

impl Drawing<'_> {
    fn x(&self, at: Moment) -> f64 {
        self.canvas.x(at.since(self.timeline.origin))
    }
}

/// Draws a timeline with these marks, named for who does not see it.
pub fn draw(name: &str, timeline: &Timeline, marks: &[Mark]) -> String {
    let rows = timeline.rows();
    let length = timeline.end().since(timeline.origin).max(Duration::from_secs(1));
    let bottom = TOP + HEAD + LANE * rows.len() as f64;
    let mut d = Drawing { canvas: Canvas::new(bottom + FOOT, length, name, None), timeline };
    d.canvas.axis(TOP, bottom, tick_step(length));
    states(&mut d);
    beats(&mut d);
    let step = (length.as_secs_f64() / 200.0).max(0.25);
    for (i, row) in rows.iter().enumerate() {
        lane(&mut d, *row, TOP + HEAD + LANE * i as f64, step);
    }
    draw_marks(&mut d, marks, bottom);
    legend(&mut d, &rows, bottom + 48.0);
    d.canvas.finish()
}

/// The smallest pleasant step that leaves at most 16 ticks.
fn tick_step(length: Duration) -> Duration {
    let steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800].map(Duration::from_secs);
    steps.into_iter().find(|s| length <= *s * 16).unwrap_or(Duration::from_secs(3600))
}

fn states(d: &mut Drawing<'_>) {
    d.canvas.label(TOP + 15.0, "state", "of the mount");
    let states = d.timeline.states.clone();
    for (i, (at, state)) in states.iter().enumerate() {
        let end = states.get(i + 1).map_or_else(|| d.timeline.end(), |(at, _)| *at);
        let (from, to) = (d.x(*at), d.x(end));
        d.canvas.rect(from, TOP + 4.0, (to - from).max(1.0), 22.0, state_colour(state));
        // Seven pixels are a letter's width, by and large.
        if to - from > 7.0 * state.len() as f64 + 8.0 {
            d.canvas.text(from + 5.0, TOP + 19.0, "state", state);
        }
    }
}

fn beats(d: &mut Drawing<'_>) {
    let y = TOP + 56.0;
    d.canvas.label(y, "heartbeats", "GenerateDataKey and Decrypt");
    for (at, beat) in d.timeline.beats.clone() {
        let x = d.x(at);
        match beat {
            Beat::Good => d.canvas.put(format_args!(
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"{SUCCESS}\"/>"
            )),
            Beat::Failed => d.canvas.put(format_args!(
                "<path d=\"M{:.1} {:.1}l10 10m0 -10l-10 10\" stroke=\"{}\" stroke-width=\"3\"/>",
                x - 5.0,
                y - 5.0,
                colour("EKEYREVOKED")
            )),
        }
    }
}

/// Successes upward, failures downward, each bar a step of time.
fn lane(d: &mut Drawing<'_>, row: Row, top: f64, step: f64) {
    let base = top + 36.0;
    d.canvas.label(top + 22.0, row.name(), row.title());
    d.canvas.put(format_args!(
        "<path d=\"M{LEFT} {base:.1}H{:.1}\" stroke=\"#94a3b8\" stroke-width=\"1\"/>",
        WIDTH - RIGHT
    ));
    let origin = d.timeline.origin;
    let moment = |i: u32| origin + Duration::from_secs_f64(step * f64::from(i));
    let timeline = d.timeline;
    let tallies: Vec<_> = (0u32..)
        .take_while(|i| step * f64::from(*i) < d.canvas.length().as_secs_f64())
        .map(|i| (moment(i), timeline.tally(row, moment(i), moment(i + 1))))
        .collect();
    let most = |good| tallies.iter().map(|(_, t)| total(t, good)).max().unwrap_or(0).max(1) as f64;
    let (most_good, most_bad) = (most(Side::Good), most(Side::Bad));
    for (at, tally) in &tallies {
        let x = d.x(*at);
        let width = (d.x(*at + Duration::from_secs_f64(step)) - x).max(2.0) - 0.5;
        let mut below = base;
        for (word, n) in tally {
            if *word == "ok" {
                // One among many is drawn all the same.
                let height = (*n as f64 / most_good * 30.0).max(2.0);
                d.canvas.rect(x, base - height, width, height, colour(word));
            } else {
                let height = (*n as f64 / most_bad * 18.0).max(2.0);
                d.canvas.rect(x, below, width, height, colour(word));
                below += height;
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Good,
    Bad,
}

fn total(tally: &Tally<'_>, side: Side) -> u64 {
    tally.iter().filter(|(w, _)| (**w == "ok") == (side == Side::Good)).map(|(_, n)| n).sum()
}

fn draw_marks(d: &mut Drawing<'_>, marks: &[Mark], bottom: f64) {
    for (i, mark) in marks.iter().enumerate() {
        let x = d.x(mark.at);
        // Neighbours do not write over each other.
        let y = if i % 2 == 0 { 42.0 } else { 62.0 };
        let (dashes, colour) = match mark.stroke {
            Stroke::Solid => ("none", "var(--ink)"),
            Stroke::Dashed => ("6 4", "#be185d"),
        };
        d.canvas.put(format_args!(
            "<path d=\"M{x:.1} {:.1}V{bottom:.1}\" stroke=\"{colour}\" stroke-width=\"1.5\" \
             stroke-dasharray=\"{dashes}\"/>",
            y - 10.0
        ));
        d.canvas.text(x + 4.0, y, "mark", mark.label);
    }
}

fn legend(d: &mut Drawing<'_>, rows: &[Row], y: f64) {
    let (start, end) = (d.timeline.origin, d.timeline.end() + Duration::from_nanos(1));
    let timeline = d.timeline;
    let words: Tally<'_> = rows.iter().flat_map(|row| timeline.tally(*row, start, end)).collect();
    let mut x = LEFT;
    d.canvas.text(14.0, y, "key", "up: successes · down: failures");
    let names = std::iter::once("ok").chain(words.into_keys().filter(|w| *w != "ok"));
    for word in names {
        d.canvas.rect(x, y - 11.0, 13.0, 13.0, colour(word));
        let shown = if word == "ok" { "success" } else { word };
        d.canvas.text(x + 19.0, y, "key", shown);
        x += 44.0 + 8.5 * shown.len() as f64;
    }
    d.canvas.put(format_args!(
        "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"5\" fill=\"{SUCCESS}\"/>",
        x + 5.0,
        y - 4.0
    ));
    d.canvas.text(x + 17.0, y, "key", "good beat");
    x += 100.0;
    d.canvas.put(format_args!(
        "<path d=\"M{x:.1} {:.1}l10 10m0 -10l-10 10\" stroke=\"{}\" stroke-width=\"3\"/>",
        y - 9.0,
        colour("EKEYREVOKED")
    ));
    d.canvas.text(x + 17.0, y, "key", "failed beat");
}

#[cfg(test)]
mod tests {
    use super::super::timeline::tests::{event, ms, play};
    use super::*;

    #[test]
    fn what_is_written_cannot_become_markup() {
        let mut t = play();
        t.events.push(event(Row::Map, 4600, "<script>", 1));
        t.states.push((ms(7600), "<b>".to_owned()));
        t.states.push((ms(9600), "open".to_owned()));
        let picture = draw("a", &t, &[Mark { at: ms(3000), label: "a<b", stroke: Stroke::Solid }]);
        assert!(!picture.contains("<script>") && !picture.contains("<b>"));
        assert!(picture.contains("&lt;script&gt;") && picture.contains("a&lt;b"));
    }

    #[test]
    fn every_row_beat_and_state_is_drawn() {
        let t = play();
        let picture = draw("a", &t, &[]);
        for row in Row::ALL {
            assert!(picture.contains(row.title()), "{row:?}");
        }
        // One more of each stands in the legend.
        assert_eq!(picture.matches("<circle").count(), 3 + 1);
        assert_eq!(picture.matches("l10 10m0").count(), 2 + 1);
        assert_eq!(picture.matches(state_colour("open")).count(), 2);
        // Rows but the map and pgbench, whose third event stands for three.
        assert_eq!(picture.matches(colour("SIGBUS")).count(), 1 + 1);
    }

    #[test]
    fn an_empty_timeline_is_a_picture_too() {
        let picture = draw("a", &Timeline::new(ms(5)), &[]);
        assert!(picture.starts_with("<svg") && picture.ends_with("</svg>\n"));
        assert!(!picture.contains("NaN") && !picture.contains("inf"));
    }

    #[test]
    fn ticks_stay_few() {
        let of = |seconds| tick_step(Duration::from_secs(seconds)).as_secs();
        assert_eq!([12, 100, 1_000_000_000].map(of), [1, 10, 3600]);
    }
}
