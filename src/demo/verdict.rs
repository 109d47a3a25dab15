//! Whether the promises held. Pure.

use std::time::Duration;

use super::means::Means;
use super::row::Row;
use super::timeline::{Timeline, WRONG};
use crate::clock::Moment;

/// From what moment the promise counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// The order that takes the key away: the embedded keystore refuses at once.
    Order,
    /// The first beat that was seen to fail: AWS KMS takes its time to begin refusing.
    FirstRefusal,
}

/// What was found of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lines {
    /// How many the writer's fsync acknowledged.
    pub acknowledged: u64,
    /// How many of them are in the file.
    pub found: u64,
}

/// What was found in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Database {
    /// How many transactions pgbench was told are committed.
    pub committed: u64,
    /// The rows that they left.
    pub rows: u64,
    /// Whether the four sums of pgbench's tables agree.
    pub sums: Sums,
}

/// The sums of accounts, tellers, branches and history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sums {
    /// All the same.
    Agree,
    /// Not so.
    Differ,
}

/// What is judged.
pub struct Facts<'a> {
    /// What was seen.
    pub timeline: &'a Timeline,
    /// The heartbeat of the mount.
    pub heartbeat: Duration,
    /// From when the promise counts.
    pub since: Since,
    /// How the key was taken away.
    pub means: Means,
    /// `None` where it did not come to that.
    pub lines: Option<Lines>,
    /// `None` without a database; an inner `None` where it could not be asked.
    pub database: Option<Option<Database>>,
}

/// One promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was promised, and what was measured.
    pub what: String,
    /// Whether it held.
    pub held: bool,
}

/// How long after the start of the promise a row succeeded last; zero where that lies before.
pub fn last_success(facts: &Facts<'_>, row: Row) -> Option<Duration> {
    let t = facts.timeline;
    let until = t.enabled.unwrap_or_else(|| after(t.end()));
    t.last_success(row, until).map(|at| at.since(since(facts)))
}

/// The promise: nothing is readable later.
pub fn bound(facts: &Facts<'_>) -> Duration {
    facts.heartbeat + Duration::from_secs(1)
}

/// Where the promise starts; the end of the timeline where it did not.
pub fn since(facts: &Facts<'_>) -> Moment {
    let t = facts.timeline;
    let at = match facts.since {
        Since::Order => t.disabled,
        Since::FirstRefusal => t.first_refusal(),
    };
    at.unwrap_or_else(|| t.end())
}

fn after(at: Moment) -> Moment {
    at + Duration::from_nanos(1)
}

/// Seconds, for people.
pub fn seconds(d: Duration) -> String {
    format!("{:.2} s", d.as_secs_f64())
}

/// Judges.
pub fn judge(facts: &Facts<'_>) -> Vec<Check> {
    let t = facts.timeline;
    let mut all = vec![locked(facts)];
    all.extend(Row::PROGRAMS.map(|row| unreadable(facts, row)));
    all.push(reopened(facts));
    all.extend(Row::PROGRAMS.map(|row| works_again(facts, row)));
    // What a database holds in its own memory is not the mount's: it is not held to the bound.
    all.extend(facts.database.map(|_| works_again(facts, Row::Pgbench)));
    all.push(bytes(t));
    all.push(lines(facts.lines));
    all.extend(facts.database.map(database));
    all
}

/// The same promises in fewer words: what holds for every program is told once.
pub fn judge_briefly(facts: &Facts<'_>) -> Vec<Check> {
    let t = facts.timeline;
    let latest = |times: [Option<Duration>; 6]| times.into_iter().flatten().max();
    let last = latest(Row::PROGRAMS.map(|row| last_success(facts, row))).unwrap_or_default();
    let back = latest(Row::PROGRAMS.map(|row| since_enabled(t, row))).unwrap_or_default();
    let (last, promised, back) = (seconds(last), seconds(bound(facts)), seconds(back));
    let mut all = vec![locked(facts)];
    all.extend(together(
        Row::PROGRAMS.map(|row| unreadable(facts, row)),
        format!("no program's last success later than {last}, promised {promised}"),
    ));
    all.push(reopened(facts));
    all.extend(together(
        Row::PROGRAMS.map(|row| works_again(facts, row)),
        format!("every program works again {back} after {}", facts.means.nouns().back),
    ));
    all.push(bytes(t));
    all.push(lines(facts.lines));
    all
}

/// What holds for all, or else what does not.
fn together(checks: [Check; 6], what: String) -> Vec<Check> {
    let broken: Vec<_> = checks.into_iter().filter(|c| !c.held).collect();
    if broken.is_empty() { vec![Check { what, held: true }] } else { broken }
}

fn locked(facts: &Facts<'_>) -> Check {
    let t = facts.timeline;
    let away = facts.means.nouns().away;
    let what = match t.disabled.zip(t.locked()) {
        Some((from, to)) => format!("locked {} after {away}", seconds(to.since(from))),
        None => "the mount did not lock".to_owned(),
    };
    Check { what, held: t.locked().is_some() }
}

fn unreadable(facts: &Facts<'_>, row: Row) -> Check {
    let t = facts.timeline;
    let bound = bound(facts);
    let name = row.name();
    let refused = t.disabled.is_some_and(|at| t.last_failure(row).is_some_and(|f| f >= at));
    let (what, held) = match last_success(facts, row) {
        None => (format!("{name}: never worked"), false),
        Some(_) if !refused => (format!("{name}: was never refused"), false),
        Some(last) => (
            format!("{name}: last success {}, promised {}", seconds(last), seconds(bound)),
            last <= bound,
        ),
    };
    Check { what, held }
}

fn reopened(facts: &Facts<'_>) -> Check {
    let t = facts.timeline;
    let back = facts.means.nouns().back;
    let what = match t.enabled.zip(t.reopened()) {
        Some((from, to)) => format!("open again {} after {back}", seconds(to.since(from))),
        None => "the mount did not open again".to_owned(),
    };
    Check { what, held: t.reopened().is_some() }
}

fn since_enabled(t: &Timeline, row: Row) -> Option<Duration> {
    t.enabled.and_then(|at| t.first_success(row, at).map(|first| first.since(at)))
}

fn works_again(facts: &Facts<'_>, row: Row) -> Check {
    let first = since_enabled(facts.timeline, row);
    let back = facts.means.nouns().back;
    let what = match first {
        Some(first) => format!("{}: works again {} after {back}", row.name(), seconds(first)),
        None => format!("{}: does not work again", row.name()),
    };
    Check { what, held: first.is_some() }
}

/// That no program ever read what was not written.
pub fn bytes(t: &Timeline) -> Check {
    let end = after(t.end());
    let wrong: u64 =
        Row::ALL.iter().filter_map(|row| t.tally(*row, t.origin, end).get(WRONG).copied()).sum();
    Check { what: format!("reads that gave wrong bytes: {wrong}"), held: wrong == 0 }
}

/// That what was acknowledged is there.
pub fn lines(lines: Option<Lines>) -> Check {
    let Some(Lines { acknowledged, found }) = lines else {
        return Check { what: "the lines could not be read".to_owned(), held: false };
    };
    let what = format!("lines acknowledged {acknowledged}, found {found}");
    Check { what, held: acknowledged > 0 && found == acknowledged }
}

fn database(found: Option<Database>) -> Check {
    let Some(Database { committed, rows, sums }) = found else {
        return Check { what: "the database could not be asked".to_owned(), held: false };
    };
    let agree = match sums {
        Sums::Agree => "agree",
        Sums::Differ => "DIFFER",
    };
    // A transaction whose answer was lost may have been committed: there may be more rows.
    let what =
        format!("PostgreSQL: transactions committed {committed}, found {rows}; balances {agree}");
    Check { what, held: committed > 0 && rows >= committed && sums == Sums::Agree }
}

#[cfg(test)]
mod tests {
    use super::super::timeline::tests::{event, ms, play};
    use super::*;

    fn facts(timeline: &Timeline) -> Facts<'_> {
        Facts {
            timeline,
            heartbeat: Duration::from_secs(2),
            since: Since::Order,
            means: Means::Disable,
            lines: Some(Lines { acknowledged: 9, found: 9 }),
            database: Some(Some(Database { committed: 5, rows: 6, sums: Sums::Agree })),
        }
    }

    fn broken(facts: &Facts<'_>) -> Vec<String> {
        judge(facts).into_iter().filter(|c| !c.held).map(|c| c.what).collect()
    }

    #[test]
    fn a_play_that_went_well_keeps_every_promise() {
        let t = play();
        let all = judge(&facts(&t));
        assert!(all.iter().all(|c| c.held), "{all:?}");
        // Locked, six rows, open, seven rows, bytes, lines, database.
        assert_eq!(all.len(), 1 + 6 + 1 + 7 + 3);
        assert_eq!(last_success(&facts(&t), Row::Map), Some(Duration::from_millis(500)));
    }

    #[test]
    fn a_read_after_the_bound_breaks_the_promise() {
        for row in &Row::ALL[..6] {
            let mut t = play();
            t.enabled = Some(ms(9000));
            t.states.last_mut().expect("open").0 = ms(9500);
            t.events.retain(|e| e.at < ms(6000));
            t.events.extend(Row::ALL.map(|r| event(r, 9600, "ok", 9)));
            assert_eq!(broken(&facts(&t)), [""; 0]);
            t.events.push(event(*row, 6000, "ok", 9));
            assert_eq!(broken(&facts(&t)), [""; 0], "3.0 s after is within 2 s + 1 s");
            t.events.push(event(*row, 6001, "ok", 9));
            let broken = broken(&facts(&t));
            assert_eq!(broken.len(), 1, "{broken:?}");
            assert!(broken[0].starts_with(row.name()));
        }
    }

    #[test]
    fn in_brief_what_is_broken_is_told_of_each_program() {
        let mut t = play();
        let brief = |t: &Timeline| judge_briefly(&Facts { means: Means::Deletion, ..facts(t) });
        let all = brief(&t);
        assert!(all.iter().all(|c| c.held), "{all:?}");
        let what: Vec<_> = all.iter().map(|c| c.what.as_str()).collect();
        assert_eq!(
            what,
            [
                "locked 1.00 s after the scheduling",
                "no program's last success later than 0.50 s, promised 3.00 s",
                "open again 1.00 s after the cancellation",
                "every program works again 1.50 s after the cancellation",
                "reads that gave wrong bytes: 0",
                "lines acknowledged 9, found 9",
            ]
        );
        t.events.retain(|e| e.row != Row::Stat && (e.row != Row::Open || e.at < ms(4000)));
        let broken = brief(&t).into_iter().filter(|c| !c.held).map(|c| c.what);
        assert_eq!(
            broken.collect::<Vec<_>>(),
            [
                "open: was never refused",
                "stat: never worked",
                "open: does not work again",
                "stat: does not work again"
            ]
        );
    }

    #[test]
    fn a_row_that_is_silent_is_no_success() {
        let mut t = play();
        t.events.retain(|e| e.row != Row::Stat);
        assert_eq!(broken(&facts(&t)), ["stat: never worked", "stat: does not work again"]);
        let mut t = play();
        t.events.retain(|e| e.row != Row::Open || e.at < ms(4000));
        assert_eq!(broken(&facts(&t)), ["open: was never refused", "open: does not work again"]);
    }

    #[test]
    fn a_mount_that_does_not_lock_or_does_not_open_is_told() {
        let mut t = play();
        t.states.truncate(2);
        let broken = broken(&facts(&t));
        assert_eq!(broken, ["the mount did not lock", "the mount did not open again"]);
    }

    #[test]
    fn a_lost_line_a_wrong_byte_and_a_lost_row_break_promises() {
        let mut t = play();
        let with_lines = |lines| broken(&Facts { lines, ..facts(&t) }).len();
        assert_eq!(with_lines(Some(Lines { acknowledged: 9, found: 8 })), 1);
        assert_eq!(with_lines(Some(Lines { acknowledged: 0, found: 0 })), 1, "nothing was shown");
        assert_eq!(with_lines(None), 1);
        let with_rows = |database| broken(&Facts { database, ..facts(&t) }).len();
        let found = Database { committed: 5, rows: 4, sums: Sums::Agree };
        assert_eq!(with_rows(Some(Some(found))), 1);
        assert_eq!(with_rows(Some(Some(Database { rows: 5, sums: Sums::Differ, ..found }))), 1);
        assert_eq!(with_rows(Some(None)), 1);
        t.events.push(event(Row::Map, 7600, WRONG, 1));
        assert_eq!(broken(&facts(&t)), ["reads that gave wrong bytes: 1"]);
    }

    /// AWS KMS answers well for a while after a disable: the promise counts from its first no.
    #[test]
    fn on_aws_the_time_until_the_first_refusal_is_not_counted() {
        let t = play();
        let late = Facts { since: Since::FirstRefusal, ..facts(&t) };
        assert_eq!(since(&late), ms(3900));
        assert_eq!(last_success(&late, Row::Open), Some(Duration::ZERO));
    }
}
