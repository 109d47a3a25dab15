//! The report: one HTML page that needs nothing else. Pure.

use std::fmt::Write;

use super::scenes::{Act, Ending};
use super::timeline::words;
use super::verdict::{self, Check, Facts, Since, seconds};
use super::{elsewhere, marks, svg};
use crate::escape::markup;

/// What else the page tells.
pub struct Setting {
    /// Where the master key lives.
    pub kms: String,
    /// The machine: kernel and architecture.
    pub machine: String,
}

const STYLE: &str = ":root{color-scheme:light dark;--ink:#0f172a;--paper:#fff;--pale:#475569;\
--rule:#e2e8f0;--head:#f8fafc;--yes:#15803d;--no:#dc2626;--good:#f0fdf4;--bad:#fef2f2}\
@media(prefers-color-scheme:dark){:root{--ink:#e2e8f0;--paper:#0f172a;--pale:#94a3b8;--rule:#334155;\
--head:#1e293b;--yes:#4ade80;--no:#f87171;--good:#052e16;--bad:#450a0a}}\
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:1160px;\
margin:2rem auto;padding:0 1rem}h1{font-size:1.7rem;margin-bottom:.2rem}h2{font-size:1.2rem;\
margin-top:2rem}table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .7rem;\
border-bottom:1px solid var(--rule);vertical-align:top}th{background:var(--head)}\
.yes{color:var(--yes);font-weight:600}.no{color:var(--no);font-weight:600}\
.verdict{padding:.7rem 1rem;border-radius:.4rem;background:var(--good);border:1px solid var(--yes)}\
.verdict.bad{background:var(--bad);border-color:var(--no)}.wide{overflow-x:auto}\
svg{width:100%;height:auto;border:1px solid var(--rule);border-radius:.4rem}small{color:var(--pale)}";

/// Writes the page.
pub fn page(facts: &Facts<'_>, checks: &[Check], acts: &[Act], setting: &Setting) -> String {
    let held = checks.iter().all(|c| c.held) && acts.iter().all(Act::held);
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
        svg::draw("Timeline of the demonstration", facts.timeline, &marks::of(facts)),
        "<h2>What each program got</h2>\n".to_owned(),
        scrolled("What each program got", &programs(facts)),
        "<h2>Promises</h2>\n".to_owned(),
        scrolled("Promises", &promises(checks)),
        "<h2>What disabling means elsewhere</h2>\n".to_owned(),
        elsewhere::compare(facts),
        acts.iter().map(act).collect(),
    ];
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>kmsfs demo</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{}</main>\n</body>\n</html>\n",
        body.concat()
    )
}

/// A table that may be wider than a phone: it is scrolled for itself, by keyboard too.
pub fn scrolled(name: &str, table: &str) -> String {
    format!(
        "<div class=\"wide\" role=\"region\" aria-label=\"{}\" tabindex=\"0\">\n{table}</div>\n",
        markup(name)
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

/// A further part: what was seen of it, and its promises.
fn act(act: &Act) -> String {
    let (name, title) = (act.part.name(), act.part.title());
    let heading = format!("<h2>{}: {}</h2>\n", markup(name), markup(title));
    let played = match &act.ending {
        Ending::Played(played) => played,
        Ending::LeftOut(why) => return format!("{heading}<p>Left out: {}.</p>\n", markup(why)),
    };
    let draw =
        |(timeline, marks): &(_, Vec<_>)| svg::draw(&format!("Timeline: {title}"), timeline, marks);
    let picture = played.picture.as_ref().map(draw).unwrap_or_default();
    let promises = scrolled(&format!("Promises: {title}"), &promises(&played.checks));
    heading + &picture + &promises
}

fn programs(facts: &Facts<'_>) -> String {
    let t = facts.timeline;
    let after_all = t.end() + std::time::Duration::from_nanos(1);
    let disabled = t.disabled.unwrap_or(after_all);
    let enabled = t.enabled.unwrap_or(after_all);
    let from = match facts.since {
        Since::Order => "the disable",
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

    use super::super::means::Means;
    use super::super::row::Row;
    use super::super::scenes::{Part, Played};
    use super::super::timeline::tests::play;
    use super::super::verdict::{Database, Lines, Sums, judge};
    use super::*;

    fn facts(timeline: &super::super::timeline::Timeline, found: u64) -> Facts<'_> {
        Facts {
            timeline,
            heartbeat: Duration::from_secs(2),
            since: Since::Order,
            means: Means::Disable,
            lines: Some(Lines { acknowledged: 9, found }),
            database: Some(Some(Database { committed: 5, rows: 6, sums: Sums::Agree })),
        }
    }

    fn setting() -> Setting {
        Setting { kms: "<local> & \"more\"".to_owned(), machine: "Linux".to_owned() }
    }

    fn acts() -> Vec<Act> {
        let checks = vec![Check { what: "it does not <mount>".to_owned(), held: true }];
        let picture = Some((play(), Vec::new()));
        let copy = Ending::Played(Played { checks, picture });
        [(Part::Copy, copy), (Part::Network, Ending::LeftOut("it has no network"))]
            .map(|(part, ending)| Act { part, ending })
            .into()
    }

    #[test]
    fn a_page_tells_all_and_loads_nothing() {
        let t = play();
        let facts = facts(&t, 9);
        let page = page(&facts, &judge(&facts), &acts(), &setting());
        assert!(page.contains("Every promise held.") && page.contains("&lt;local&gt; &amp;"));
        assert!(page.contains("lines acknowledged 9, found 9"));
        for row in Row::ALL {
            assert!(page.contains(&format!("<b>{}</b>", row.name())), "{row:?}");
        }
        assert!(page.contains("<h2>copy: ") && page.contains("<td>it does not &lt;mount&gt;</td>"));
        assert!(page.contains("<p>Left out: it has no network.</p>"));
        // The one address is the name of SVG, which nothing is loaded from.
        let pictures = page.matches("</svg>").count();
        assert_eq!((pictures, page.matches("://").count()), (3, 3));
        assert!(!page.contains("<script") && !page.contains("url(") && !page.contains("@import"));
    }

    #[test]
    fn a_promise_of_a_part_counts_as_any_other() {
        let t = play();
        let facts = facts(&t, 9);
        let checks = vec![Check { what: "it does not lock".to_owned(), held: false }];
        let ending = Ending::Played(Played { checks, picture: None });
        let acts = [Act { part: Part::Deletion, ending }];
        let page = page(&facts, &judge(&facts), &acts, &setting());
        assert!(page.contains("A promise did not hold."));
    }

    #[test]
    fn a_broken_promise_is_told_where_it_is_read_first() {
        let t = play();
        let facts = facts(&t, 8);
        let page = page(&facts, &judge(&facts), &[], &setting());
        assert!(page.contains("A promise did not hold."));
        assert!(page.contains("<td class=\"no\">NO</td><td>lines acknowledged 9, found 8</td>"));
    }
}
