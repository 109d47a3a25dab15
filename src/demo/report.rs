//! The report: one HTML page that needs nothing else. Pure.

use std::fmt::Write;

use super::svg::{self, Mark, Stroke};
use super::timeline::words;
use super::verdict::{self, Check, Facts, Since, seconds};
use crate::escape::markup;

/// What else the page tells.
pub struct Setting {
    /// Where the master key lives.
    pub kms: String,
    /// The machine: kernel and architecture.
    pub machine: String,
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;color:#0f172a;background:#fff;max-width:1160px;\
margin:2rem auto;padding:0 1rem}h1{font-size:1.7rem;margin-bottom:.2rem}h2{font-size:1.2rem;\
margin-top:2rem}table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .7rem;\
border-bottom:1px solid #e2e8f0;vertical-align:top}th{background:#f8fafc}.yes{color:#15803d;\
font-weight:600}.no{color:#dc2626;font-weight:600}.verdict{padding:.7rem 1rem;border-radius:.4rem;\
background:#f0fdf4;border:1px solid #15803d}.verdict.bad{background:#fef2f2;border-color:#dc2626}\
.wide{overflow-x:auto}svg{width:100%;height:auto;border:1px solid #e2e8f0;border-radius:.4rem}small{color:#475569}";

/// Writes the page.
pub fn page(facts: &Facts<'_>, checks: &[Check], setting: &Setting) -> String {
    let held = checks.iter().all(|c| c.held);
    let (class, verdict) = if held {
        ("verdict", "Every promise held.")
    } else {
        ("verdict bad", "A promise did not hold.")
    };
    let body = [
        "<h1>kmsfs: the key is disabled, and enabled again</h1>\n".to_owned(),
        about(facts, setting),
        format!("<p class=\"{class}\">{verdict}</p>\n"),
        "<h2>Timeline</h2>\n".to_owned(),
        svg::draw(facts.timeline, &marks(facts)),
        "<h2>What each program got</h2>\n".to_owned(),
        scrolled("What each program got", &programs(facts)),
        "<h2>Promises</h2>\n".to_owned(),
        scrolled("Promises", &promises(checks)),
    ];
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>kmsfs demo</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{}</main>\n</body>\n</html>\n",
        body.concat()
    )
}

/// A table that may be wider than a phone: it is scrolled for itself, by keyboard too.
fn scrolled(name: &str, table: &str) -> String {
    format!(
        "<div class=\"wide\" role=\"region\" aria-label=\"{name}\" tabindex=\"0\">\n{table}</div>\n"
    )
}

fn about(facts: &Facts<'_>, setting: &Setting) -> String {
    format!(
        "<p><small>kmsfs {} · heartbeat {} · master key in {} · {}</small></p>\n",
        env!("CARGO_PKG_VERSION"),
        seconds(facts.heartbeat),
        markup(&setting.kms),
        markup(&setting.machine)
    )
}

fn marks(facts: &Facts<'_>) -> Vec<Mark> {
    let t = facts.timeline;
    let solid = |at, label| Mark { at, label, stroke: Stroke::Solid };
    let promised = verdict::since(facts) + verdict::bound(facts);
    let dashed =
        Mark { at: promised, label: "promised: unreadable by here", stroke: Stroke::Dashed };
    [
        t.disabled.map(|at| solid(at, "key disabled")),
        t.disabled.map(|_| dashed),
        t.enabled.map(|at| solid(at, "key enabled")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn programs(facts: &Facts<'_>) -> String {
    let t = facts.timeline;
    let after_all = t.end() + std::time::Duration::from_nanos(1);
    let disabled = t.disabled.unwrap_or(after_all);
    let enabled = t.enabled.unwrap_or(after_all);
    let from = match facts.since {
        Since::Disable => "the disable",
        Since::FirstRefusal => "the first refusal",
    };
    let mut out = format!(
        "<table>\n<tr><th>program</th><th>before the disable</th><th>until the enable</th>\
         <th>afterwards</th><th>last success after {from}</th></tr>\n"
    );
    for row in t.rows() {
        let spans = [(t.origin, disabled), (disabled, enabled), (enabled, after_all)];
        let cells = spans.map(|(from, to)| markup(&words(&t.tally(row, from, to))));
        let last = verdict::last_success(facts, row).map_or_else(|| "none".to_owned(), seconds);
        let _ = writeln!(
            out,
            "<tr><td><b>{}</b><br><small>{}</small></td><td>{}</td><td>{}</td><td>{}</td>\
             <td>{last}</td></tr>",
            row.name(),
            markup(row.title()),
            cells[0],
            cells[1],
            cells[2]
        );
    }
    out + "</table>\n"
}

fn promises(checks: &[Check]) -> String {
    let mut out = "<table>\n<tr><th>held</th><th>what</th></tr>\n".to_owned();
    for check in checks {
        let (class, word) = if check.held { ("yes", "yes") } else { ("no", "NO") };
        let what = markup(&check.what);
        let _ = writeln!(out, "<tr><td class=\"{class}\">{word}</td><td>{what}</td></tr>");
    }
    out + "</table>\n"
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::timeline::Row;
    use super::super::timeline::tests::play;
    use super::super::verdict::{Database, Lines, Sums, judge};
    use super::*;

    fn facts(timeline: &super::super::timeline::Timeline, found: u64) -> Facts<'_> {
        Facts {
            timeline,
            heartbeat: Duration::from_secs(2),
            since: Since::Disable,
            lines: Some(Lines { acknowledged: 9, found }),
            database: Some(Some(Database { committed: 5, rows: 6, sums: Sums::Agree })),
        }
    }

    fn setting() -> Setting {
        Setting { kms: "<local> & \"more\"".to_owned(), machine: "Linux".to_owned() }
    }

    #[test]
    fn a_page_tells_all_and_loads_nothing() {
        let t = play();
        let facts = facts(&t, 9);
        let page = page(&facts, &judge(&facts), &setting());
        assert!(page.contains("Every promise held.") && page.contains("&lt;local&gt; &amp;"));
        assert!(page.contains("lines acknowledged 9, found 9"));
        for row in Row::ALL {
            assert!(page.contains(&format!("<b>{}</b>", row.name())), "{row:?}");
        }
        // The one address is the name of SVG, which nothing is loaded from.
        assert_eq!(page.matches("://").count(), 1);
        assert!(!page.contains("<script") && !page.contains("url(") && !page.contains("@import"));
    }

    #[test]
    fn a_broken_promise_is_told_where_it_is_read_first() {
        let t = play();
        let facts = facts(&t, 8);
        let page = page(&facts, &judge(&facts), &setting());
        assert!(page.contains("A promise did not hold."));
        assert!(page.contains("<td class=\"no\">NO</td><td>lines acknowledged 9, found 8</td>"));
    }
}
