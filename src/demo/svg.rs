//! The timeline as a picture: SVG text with nothing from outside. Pure.

use crate::escape::markup;
use std::fmt::Write;
use std::time::Duration;

use super::timeline::{Beat, Row, Tally, Timeline};
use crate::clock::Moment;

const WIDTH: f64 = 1120.0;
const LEFT: f64 = 240.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 74.0;
const LANE: f64 = 58.0;
/// The state's band and the beats.
const HEAD: f64 = 84.0;
const FOOT: f64 = 70.0;
const SUCCESS: &str = "#15803d";

/// A vertical line with its label.
pub struct Mark {
    /// When.
    pub at: Moment,
    /// What.
    pub label: &'static str,
    /// How it is drawn.
    pub stroke: Stroke,
}

/// How a mark is drawn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stroke {
    /// Something happened.
    Solid,
    /// Something was promised.
    Dashed,
}

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

/// The words that each part of the picture is drawn with, on a scale of time.
struct Canvas<'a> {
    out: String,
    timeline: &'a Timeline,
    length: f64,
}

impl Canvas<'_> {
    fn x(&self, at: Moment) -> f64 {
        let seconds = at.since(self.timeline.origin).as_secs_f64().min(self.length);
        LEFT + seconds / self.length * (WIDTH - LEFT - RIGHT)
    }

    fn put(&mut self, element: std::fmt::Arguments<'_>) {
        self.out.write_fmt(element).expect("a String takes any text");
        self.out.push('\n');
    }

    fn rect(&mut self, x: f64, y: f64, width: f64, height: f64, fill: &str) {
        self.put(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{fill}\"/>"
        ));
    }

    fn text(&mut self, x: f64, y: f64, class: &str, text: &str) {
        let text = markup(text);
        self.put(format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\">{text}</text>"));
    }

    fn label(&mut self, y: f64, name: &str, title: &str) {
        self.text(14.0, y, "name", name);
        self.text(14.0, y + 16.0, "title", title);
    }
}

/// Draws a timeline with these marks.
pub fn draw(timeline: &Timeline, marks: &[Mark]) -> String {
    let rows = timeline.rows();
    let length = timeline.end().since(timeline.origin).as_secs_f64().max(1.0);
    let bottom = TOP + HEAD + LANE * rows.len() as f64;
    let height = bottom + FOOT;
    let mut c = Canvas { out: String::new(), timeline, length };
    c.put(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         role=\"img\" aria-label=\"Timeline of the demonstration\">"
    ));
    c.out.push_str(STYLE);
    c.rect(0.0, 0.0, WIDTH, height, "#ffffff");
    axis(&mut c, bottom);
    states(&mut c);
    beats(&mut c);
    let step = (length / 200.0).max(0.25);
    for (i, row) in rows.iter().enumerate() {
        lane(&mut c, *row, TOP + HEAD + LANE * i as f64, step);
    }
    draw_marks(&mut c, marks, bottom);
    legend(&mut c, &rows, bottom + 48.0);
    c.out.push_str("</svg>\n");
    c.out
}

const STYLE: &str = "<style>text{font-family:system-ui,'DejaVu Sans',sans-serif;fill:#0f172a}\
.name{font-size:14px;font-weight:600}.title{font-size:11px;fill:#475569}\
.tick{font-size:11px;fill:#475569;text-anchor:middle}.state{font-size:12px;font-weight:600}\
.mark{font-size:12px;font-weight:600;paint-order:stroke;stroke:#fff;stroke-width:5px}.key{font-size:12px}</style>\n";

/// The smallest pleasant step that leaves at most 16 ticks.
fn tick_step(length: f64) -> f64 {
    let steps = [1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0];
    steps.into_iter().find(|s| length / s <= 16.0).unwrap_or(3600.0)
}

fn axis(c: &mut Canvas<'_>, bottom: f64) {
    let step = tick_step(c.length);
    let mut at = 0.0;
    while at <= c.length {
        let x = LEFT + at / c.length * (WIDTH - LEFT - RIGHT);
        c.put(format_args!(
            "<path d=\"M{x:.1} {TOP}V{bottom:.1}\" stroke=\"#e2e8f0\" stroke-width=\"1\"/>"
        ));
        c.text(x, bottom + 16.0, "tick", &format!("{at} s"));
        at += step;
    }
}

fn states(c: &mut Canvas<'_>) {
    c.label(TOP + 15.0, "state", "of the mount");
    let states = c.timeline.states.clone();
    for (i, (at, state)) in states.iter().enumerate() {
        let end = states.get(i + 1).map_or_else(|| c.timeline.end(), |(at, _)| *at);
        let (from, to) = (c.x(*at), c.x(end));
        c.rect(from, TOP + 4.0, (to - from).max(1.0), 22.0, state_colour(state));
        // Seven pixels are a letter's width, by and large.
        if to - from > 7.0 * state.len() as f64 + 8.0 {
            c.text(from + 5.0, TOP + 19.0, "state", state);
        }
    }
}

fn beats(c: &mut Canvas<'_>) {
    let y = TOP + 56.0;
    c.label(y, "heartbeats", "GenerateDataKey and Decrypt");
    for (at, beat) in c.timeline.beats.clone() {
        let x = c.x(at);
        match beat {
            Beat::Good => c.put(format_args!(
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"{SUCCESS}\"/>"
            )),
            Beat::Failed => c.put(format_args!(
                "<path d=\"M{:.1} {:.1}l10 10m0 -10l-10 10\" stroke=\"{}\" stroke-width=\"3\"/>",
                x - 5.0,
                y - 5.0,
                colour("EKEYREVOKED")
            )),
        }
    }
}

/// Successes upward, failures downward, each bar a step of time.
fn lane(c: &mut Canvas<'_>, row: Row, top: f64, step: f64) {
    let base = top + 36.0;
    c.label(top + 22.0, row.name(), row.title());
    c.put(format_args!(
        "<path d=\"M{LEFT} {base:.1}H{:.1}\" stroke=\"#94a3b8\" stroke-width=\"1\"/>",
        WIDTH - RIGHT
    ));
    let origin = c.timeline.origin;
    let moment = |i: u32| origin + Duration::from_secs_f64(step * f64::from(i));
    let timeline = c.timeline;
    let tallies: Vec<_> = (0u32..)
        .take_while(|i| step * f64::from(*i) < c.length)
        .map(|i| (moment(i), timeline.tally(row, moment(i), moment(i + 1))))
        .collect();
    let most = |good| tallies.iter().map(|(_, t)| total(t, good)).max().unwrap_or(0).max(1) as f64;
    let (most_good, most_bad) = (most(Side::Good), most(Side::Bad));
    for (at, tally) in &tallies {
        let x = c.x(*at);
        let width = (c.x(*at + Duration::from_secs_f64(step)) - x).max(2.0) - 0.5;
        let mut below = base;
        for (word, n) in tally {
            if *word == "ok" {
                // One among many is drawn all the same.
                let height = (*n as f64 / most_good * 30.0).max(2.0);
                c.rect(x, base - height, width, height, colour(word));
            } else {
                let height = (*n as f64 / most_bad * 18.0).max(2.0);
                c.rect(x, below, width, height, colour(word));
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

fn draw_marks(c: &mut Canvas<'_>, marks: &[Mark], bottom: f64) {
    for (i, mark) in marks.iter().enumerate() {
        let x = c.x(mark.at);
        // Neighbours do not write over each other.
        let y = if i % 2 == 0 { 42.0 } else { 62.0 };
        let (dashes, colour) = match mark.stroke {
            Stroke::Solid => ("none", "#0f172a"),
            Stroke::Dashed => ("6 4", "#be185d"),
        };
        c.put(format_args!(
            "<path d=\"M{x:.1} {:.1}V{bottom:.1}\" stroke=\"{colour}\" stroke-width=\"1.5\" \
             stroke-dasharray=\"{dashes}\"/>",
            y - 10.0
        ));
        c.text(x + 4.0, y, "mark", mark.label);
    }
}

fn legend(c: &mut Canvas<'_>, rows: &[Row], y: f64) {
    let (start, end) = (c.timeline.origin, c.timeline.end() + Duration::from_nanos(1));
    let timeline = c.timeline;
    let words: Tally<'_> = rows.iter().flat_map(|row| timeline.tally(*row, start, end)).collect();
    let mut x = LEFT;
    c.text(14.0, y, "key", "up: successes · down: failures");
    let names = std::iter::once("ok").chain(words.into_keys().filter(|w| *w != "ok"));
    for word in names {
        c.rect(x, y - 11.0, 13.0, 13.0, colour(word));
        let shown = if word == "ok" { "success" } else { word };
        c.text(x + 19.0, y, "key", shown);
        x += 44.0 + 8.5 * shown.len() as f64;
    }
    c.put(format_args!(
        "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"5\" fill=\"{SUCCESS}\"/>",
        x + 5.0,
        y - 4.0
    ));
    c.text(x + 17.0, y, "key", "good beat");
    x += 100.0;
    c.put(format_args!(
        "<path d=\"M{x:.1} {:.1}l10 10m0 -10l-10 10\" stroke=\"{}\" stroke-width=\"3\"/>",
        y - 9.0,
        colour("EKEYREVOKED")
    ));
    c.text(x + 17.0, y, "key", "failed beat");
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
        let picture = draw(&t, &[Mark { at: ms(3000), label: "a<b", stroke: Stroke::Solid }]);
        assert!(!picture.contains("<script>") && !picture.contains("<b>"));
        assert!(picture.contains("&lt;script&gt;") && picture.contains("a&lt;b"));
    }

    #[test]
    fn every_row_beat_and_state_is_drawn() {
        let t = play();
        let picture = draw(&t, &[]);
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
        let picture = draw(&Timeline::new(ms(5)), &[]);
        assert!(picture.starts_with("<svg") && picture.ends_with("</svg>\n"));
        assert!(!picture.contains("NaN") && !picture.contains("inf"));
    }

    #[test]
    fn ticks_stay_few() {
        assert!((tick_step(12.0) - 1.0).abs() < f64::EPSILON);
        assert!((tick_step(100.0) - 10.0).abs() < f64::EPSILON);
        assert!((tick_step(1e9) - 3600.0).abs() < f64::EPSILON);
    }
}
