//! A canvas of SVG with a scale of time: text with nothing from outside. Its colours are those of
//! the page, light or dark. Pure.

use std::fmt::Write;
use std::time::Duration;

use crate::escape::markup;

/// Width of the picture.
pub const WIDTH: f64 = 1120.0;
/// Where time begins; names stand before it.
pub const LEFT: f64 = 240.0;
/// What is left free behind its end.
pub const RIGHT: f64 = 24.0;
/// The colour of what works.
pub const SUCCESS: &str = "#15803d";

const STYLE: &str = "<style>text{font-family:system-ui,'DejaVu Sans',sans-serif;fill:var(--ink)}\
.name{font-size:14px;font-weight:600}.title{font-size:11px;fill:var(--pale)}\
.tick{font-size:11px;fill:var(--pale);text-anchor:middle}\
.state{font-size:12px;font-weight:600;fill:#0f172a}.inside{font-size:12px;fill:#fff}.key{font-size:12px}\
.mark{font-size:12px;font-weight:600;paint-order:stroke;stroke:var(--paper);stroke-width:5px}</style>\n";

/// What is drawn so far.
pub struct Canvas {
    out: String,
    length: Duration,
}

impl Canvas {
    /// An empty one of this height whose scale has this length, with its name and, where there is
    /// more to say, a description for who does not see it.
    pub fn new(height: f64, length: Duration, name: &str, description: Option<&str>) -> Self {
        let mut canvas = Self { out: String::new(), length };
        let name = markup(name);
        canvas.put(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             role=\"img\">\n<title>{name}</title>"
        ));
        if let Some(description) = description {
            canvas.put(format_args!("<desc>{}</desc>", markup(description)));
        }
        canvas.out.push_str(STYLE);
        canvas.rect(0.0, 0.0, WIDTH, height, "var(--paper)");
        canvas
    }

    /// The picture.
    pub fn finish(mut self) -> String {
        self.out.push_str("</svg>\n");
        self.out
    }

    /// How much time the scale has.
    pub fn length(&self) -> Duration {
        self.length
    }

    /// From now on the scale has this length.
    pub fn rescale(&mut self, length: Duration) {
        self.length = length;
    }

    /// Where a time lies; what is later lies at the end.
    pub fn x(&self, time: Duration) -> f64 {
        let part = time.min(self.length).as_secs_f64() / self.length.as_secs_f64();
        LEFT + part * (WIDTH - LEFT - RIGHT)
    }

    /// Adds an element.
    pub fn put(&mut self, element: std::fmt::Arguments<'_>) {
        self.out.write_fmt(element).expect("a String takes any text");
        self.out.push('\n');
    }

    /// Adds a filled rectangle.
    pub fn rect(&mut self, x: f64, y: f64, width: f64, height: f64, fill: &str) {
        self.put(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{fill}\"/>"
        ));
    }

    /// Adds text of a class of the style.
    pub fn text(&mut self, x: f64, y: f64, class: &str, text: &str) {
        let text = markup(text);
        self.put(format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\">{text}</text>"));
    }

    /// Adds what stands before a row.
    pub fn label(&mut self, y: f64, name: &str, title: &str) {
        self.text(14.0, y, "name", name);
        self.text(14.0, y + 16.0, "title", title);
    }

    /// Adds lines from `top` to `bottom`, one a step of time, and their times below.
    pub fn axis(&mut self, top: f64, bottom: f64, step: Duration) {
        let mut at = Duration::ZERO;
        while at <= self.length {
            let x = self.x(at);
            self.put(format_args!(
                "<path d=\"M{x:.1} {top:.1}V{bottom:.1}\" stroke=\"var(--rule)\" stroke-width=\"1\"/>"
            ));
            self.text(x, bottom + 16.0, "tick", &tick(at, step));
            at += step;
        }
    }
}

/// A time on the axis: in minutes and hours where that is its step.
fn tick(at: Duration, step: Duration) -> String {
    let seconds = at.as_secs();
    match (seconds / 3600, seconds / 60 % 60) {
        _ if step < Duration::from_secs(900) => format!("{seconds} s"),
        (0, minutes) => format!("{minutes} min"),
        (hours, 0) => format!("{hours} h"),
        (hours, minutes) => format!("{hours} h {minutes}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_lies_where_it_should() {
        let canvas = Canvas::new(100.0, Duration::from_secs(100), "a", None);
        let middle = LEFT + (WIDTH - LEFT - RIGHT) / 2.0;
        assert!((canvas.x(Duration::from_secs(50)) - middle).abs() < 1e-9);
        assert!((canvas.x(Duration::from_secs(500)) - (WIDTH - RIGHT)).abs() < 1e-9);
    }

    #[test]
    fn names_cannot_become_markup() {
        let canvas = Canvas::new(1.0, Duration::from_secs(1), "<b>", Some("a & b"));
        let picture = canvas.finish();
        assert!(picture.contains("<title>&lt;b&gt;</title>\n<desc>a &amp; b</desc>"));
    }

    #[test]
    fn ticks_are_in_the_unit_of_their_step() {
        let of = |at, step| tick(Duration::from_secs(at), Duration::from_secs(step));
        assert_eq!(of(120, 60), "120 s");
        let quarters = [0, 900, 3600, 6300].map(|at| of(at, 900));
        assert_eq!(quarters, ["0 min", "15 min", "1 h", "1 h 45"]);
    }
}
