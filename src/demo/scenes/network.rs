//! The KMS cannot be reached: what is cached is worked on, what is not waits, and nothing is locked.

use std::fs;
use std::time::Duration;

use super::goes_on::{stayed_open, went_on};
use super::line::Line;
use super::{Ending, Played, Scene};
use crate::clock::Moment;
use crate::console::failure::Failure;
use crate::demo::lines;
use crate::demo::marks::{Mark, solid};
use crate::demo::observed::{Observed, begin, patience, watch};
use crate::demo::role::{self, COLD, Kind};
use crate::demo::row::Row;
use crate::demo::screen::say;
use crate::demo::stage::{MAIN, Under};
use crate::demo::timeline::{Beat, Timeline};
use crate::demo::verdict::{Check, Lines, bytes, lines as lines_check, seconds};
use crate::kms::{NO_PROXY_VARIABLES, PROXY_VARIABLES};

/// Plays it, where there is a line that can be cut.
///
/// # Errors
/// When something fails that is no promise of the mount, or at a signal.
pub(super) fn play(scene: &mut Scene<'_>) -> Result<Ending, Failure> {
    let Scene { stage, interrupts, args, times, .. } = scene;
    let (line, through) = match Line::new(stage, args)? {
        Ok(found) => found,
        Err(why) => return Ok(Ending::LeftOut(why)),
    };
    let cold = stage.mountpoint(MAIN).join(COLD);
    fs::write(&cold, role::ledger()).map_err(|e| Failure::io(&cold, &e))?;
    // A new mount has no key of it.
    stage.unmount(MAIN)?;
    let mut mount = stage.mounting(MAIN, &through.words)?;
    if let Some(proxy) = through.proxy {
        say(&format!("HTTPS_PROXY={proxy}, for the mount alone"));
        // Others would lead past it.
        for name in PROXY_VARIABLES.into_iter().chain(NO_PROXY_VARIABLES) {
            mount.env_remove(name);
        }
        mount.env("HTTPS_PROXY", proxy);
    }
    stage.mount_by(MAIN, &mut mount)?;
    let mut all = [Observed::new(stage.mountpoint(MAIN), Row::PROGRAMS.to_vec())];
    all[0].start_all()?;
    all[0].show(&[Row::Cold]);
    begin(&mut all, interrupts)?;
    watch(&mut all, interrupts, times.part, |_| false)?;
    let [cut, mended] = line.orders();
    say("");
    say(cut);
    all[0].timeline.disabled = Some(Moment::now());
    line.cut()?;
    let asked = Moment::now();
    all[0].start(Kind::Cold)?;
    let patience = patience(times.heartbeat);
    watch(&mut all, interrupts, patience, |all| {
        let t = &all[0].timeline;
        t.last_failure(Row::Cold).is_some() && t.first_refusal().is_some()
    })?;
    watch(&mut all, interrupts, times.part, |_| false)?;
    say("");
    say(mended);
    all[0].timeline.enabled = Some(Moment::now());
    line.mend()?;
    watch(&mut all, interrupts, patience, |all| {
        let t = &all[0].timeline;
        let back = t.enabled.unwrap_or(t.origin);
        t.first_success(Row::Cold, back).is_some() && good_beat(t, back).is_some()
    })?;
    watch(&mut all, interrupts, times.part, |_| false)?;
    let [observed] = all;
    let timeline = observed.end();
    let lines = lines::count(&stage.mountpoint(MAIN), timeline.acknowledged());
    stage.unmount(MAIN)?;
    stage.mount(MAIN, Under::Master)?;
    let (checks, marks) = (judge(&timeline, asked, lines), marks(&timeline));
    Ok(Ending::Played(Played { checks, picture: Some((timeline, marks)) }))
}

fn good_beat(t: &Timeline, from: Moment) -> Option<Moment> {
    t.beats.iter().find(|(at, beat)| *at >= from && *beat == Beat::Good).map(|(at, _)| *at)
}

fn marks(t: &Timeline) -> Vec<Mark> {
    let cut = t.disabled.map(|at| solid(at, "KMS out of reach"));
    let mended = t.enabled.map(|at| solid(at, "KMS back"));
    cut.into_iter().chain(mended).collect()
}

fn judge(t: &Timeline, asked: Moment, lines: Option<Lines>) -> Vec<Check> {
    vec![
        went_on(t, t.first_refusal(), "work on cached keys"),
        waited(t, asked),
        stayed_open(t, "no lock"),
        recovered(t),
        bytes(t),
        lines_check(lines),
    ]
}

/// A request waits four seconds for its key; this much it waits in any case.
const WAIT: Duration = Duration::from_secs(3);

/// A file whose key the mount does not have is refused after a while, as one that may be asked for
/// again.
fn waited(t: &Timeline, asked: Moment) -> Check {
    let refused = t.tally(Row::Cold, asked, t.enabled.unwrap_or(t.origin));
    let words: Vec<_> = refused.into_keys().collect();
    let first = t.first_failure(Row::Cold).map(|at| at.since(asked));
    let what = match first {
        Some(first) => format!("{} after {}", words.join(", "), seconds(first)),
        None => "it was never refused".to_owned(),
    };
    let held = words == ["EKEYEXPIRED"] && first.is_some_and(|first| first >= WAIT);
    Check { what: format!("a file whose key is not cached: {what}"), held }
}

fn recovered(t: &Timeline) -> Check {
    let since = |at: Option<Moment>| Some(at?.since(t.enabled?));
    let opened = since(t.enabled.and_then(|back| t.first_success(Row::Cold, back)));
    let beat = since(t.enabled.and_then(|back| good_beat(t, back)));
    let word = |d: Option<Duration>| d.map_or_else(|| "never".to_owned(), seconds);
    let what = format!(
        "once the KMS is back: that file opens after {}, a heartbeat is good after {}",
        word(opened),
        word(beat)
    );
    Check { what, held: opened.is_some() && beat.is_some() }
}

#[cfg(test)]
mod tests {
    use super::super::goes_on::tests::undisturbed;
    use super::*;
    use crate::demo::timeline::tests::{event, ms, sighting};

    fn outage() -> Timeline {
        let mut t = undisturbed();
        t.enabled = Some(ms(8000));
        for row in Row::PROGRAMS {
            t.events.push(event(row, 9000, "ok", 9));
        }
        t.events.push(event(Row::Cold, 7100, "EKEYEXPIRED", 1));
        t.events.push(event(Row::Cold, 8500, "ok", 1));
        t.sight(ms(8800), &sighting("open", 3, 1, 8700));
        t
    }

    fn broken(t: &Timeline) -> Vec<String> {
        let lines = Some(Lines { acknowledged: 3, found: 3 });
        judge(t, ms(3100), lines).into_iter().filter(|c| !c.held).map(|c| c.what).collect()
    }

    #[test]
    fn an_outage_keeps_its_promises() {
        let t = outage();
        assert_eq!(broken(&t), [""; 0]);
        assert!(waited(&t, ms(3100)).what.ends_with("EKEYEXPIRED after 4.00 s"));
        assert!(recovered(&t).what.ends_with("after 0.50 s, a heartbeat is good after 0.70 s"));
    }

    #[test]
    fn a_file_that_opens_without_its_key_or_does_not_wait_breaks_a_promise() {
        let cold = |events: &[(u64, &str)]| {
            let mut t = outage();
            t.events.retain(|e| e.row != Row::Cold || e.at > ms(8000));
            t.events.extend(events.iter().map(|(at, word)| event(Row::Cold, *at, word, 1)));
            let broken = broken(&t);
            assert!(broken.len() <= 1, "{broken:?}");
            broken.into_iter().next().and_then(|s| s.split_once(": ").map(|(_, s)| s.to_owned()))
        };
        assert_eq!(cold(&[(7100, "EKEYEXPIRED")]), None);
        let told = cold(&[(7100, "EKEYEXPIRED"), (7200, "ok")]);
        assert_eq!(told.as_deref(), Some("EKEYEXPIRED, ok after 4.00 s"));
        assert_eq!(cold(&[(7100, "EKEYREVOKED")]).as_deref(), Some("EKEYREVOKED after 4.00 s"));
        assert_eq!(cold(&[(3200, "EKEYEXPIRED")]).as_deref(), Some("EKEYEXPIRED after 0.10 s"));
        assert_eq!(cold(&[]).as_deref(), Some("it was never refused"));
    }

    #[test]
    fn an_outage_that_nobody_noticed_shows_nothing() {
        let mut t = outage();
        t.beats.retain(|(_, beat)| *beat == Beat::Good);
        assert_eq!(broken(&t), ["work on cached keys: it did not come to that"]);
    }

    #[test]
    fn a_mount_that_locks_or_does_not_come_back_breaks_a_promise() {
        let mut t = outage();
        t.states.push((ms(5000), "unreachable".to_owned()));
        assert_eq!(broken(&t), ["no lock: was unreachable"]);
        let mut t = outage();
        t.beats.retain(|(at, _)| *at < ms(8000));
        assert_eq!(broken(&t).len(), 1);
    }
}
