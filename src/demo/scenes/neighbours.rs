//! Two stores are under the key, and one is under another: the two lock, and the third works on.

use super::goes_on::{stayed_open, went_on};
use super::{Played, Scene};
use crate::clock::Moment;
use crate::console::failure::Failure;
use crate::demo::lines;
use crate::demo::means::Means;
use crate::demo::observed::{BEGIN, Observed, begin, patience, watch};
use crate::demo::row::Row;
use crate::demo::stage::{MAIN, Under, Volume};
use crate::demo::timeline::Timeline;
use crate::demo::verdict::{self, Check, Facts, Lines};

const SECOND: Volume = Volume { store: "second", mount: "mnt-second" };
const OTHER: Volume = Volume { store: "other", mount: "mnt-other" };

/// Plays it.
///
/// # Errors
/// When something fails that is no promise of a mount, or at a signal.
pub(super) fn play(scene: &mut Scene<'_>) -> Result<Played, Failure> {
    let Scene { stage, interrupts, times, since, .. } = scene;
    for (volume, under) in [(SECOND, Under::Master), (OTHER, Under::Other)] {
        stage.make(volume, under)?;
        stage.mount(volume, under)?;
    }
    let observed = |volume| Observed::new(stage.mountpoint(volume), Row::PROGRAMS.to_vec());
    let mut all = [MAIN, SECOND, OTHER].map(observed);
    all.iter_mut().try_for_each(Observed::start_all)?;
    begin(&mut all, interrupts)?;
    watch(&mut all, interrupts, times.part, |_| false)?;
    let patience = patience(times.heartbeat);
    all.iter_mut().for_each(|one| one.timeline.disabled = Some(Moment::now()));
    stage.take(Means::Disable)?;
    watch(&mut all, interrupts, patience, |all| all[..2].iter().all(Observed::is_refused))?;
    watch(&mut all, interrupts, times.part, |_| false)?;
    all.iter_mut().for_each(|one| one.timeline.enabled = Some(Moment::now()));
    stage.give_back(Means::Disable)?;
    watch(&mut all, interrupts, patience, |all| all[..2].iter().all(Observed::is_reopened))?;
    watch(&mut all, interrupts, BEGIN, |all| all[..2].iter().all(Observed::works_again))?;
    let ended = all.map(|one| {
        let mountpoint = one.mountpoint().to_owned();
        let timeline = one.end();
        let lines = lines::count(&mountpoint, timeline.acknowledged());
        (timeline, lines)
    });
    for volume in [SECOND, OTHER] {
        stage.unmount(volume)?;
    }
    let [main, second, other] = &ended;
    let judged = |(timeline, lines): &(Timeline, Option<Lines>)| {
        let facts = Facts {
            timeline,
            heartbeat: times.heartbeat,
            since: *since,
            means: Means::Disable,
            lines: *lines,
            database: None,
        };
        verdict::judge_briefly(&facts)
    };
    let locked = main.0.locked().zip(second.0.locked()).map(|(one, two)| one.max(two));
    let checks = judge([judged(main), judged(second)], locked, &other.0, other.1);
    Ok(Played { checks, picture: None })
}

const THIRD: &str = "store under another key";

/// The promises of the two stores under the key, and of the third one, which has to work on after
/// the two were `locked`.
fn judge(
    under: [Vec<Check>; 2],
    locked: Option<Moment>,
    other: &Timeline,
    lines: Option<Lines>,
) -> Vec<Check> {
    let [first, second] = under;
    let named = |name: &'static str| {
        move |check: Check| Check { what: format!("{name}: {}", check.what), ..check }
    };
    let mut all: Vec<_> = first.into_iter().map(named("first store")).collect();
    all.extend(second.into_iter().map(named("second store")));
    all.extend([went_on(other, locked, THIRD), stayed_open(other, THIRD)]);
    all.extend([verdict::bytes(other), verdict::lines(lines)].map(named(THIRD)));
    all
}

#[cfg(test)]
mod tests {
    use super::super::goes_on::tests::undisturbed;
    use super::*;
    use crate::demo::timeline::tests::{event, ms};

    #[test]
    fn the_third_store_is_held_to_work_on() {
        let fine = || vec![Check { what: "locked".to_owned(), held: true }];
        let lines = Some(Lines { acknowledged: 1, found: 1 });
        let mut t = undisturbed();
        let all = judge([fine(), fine()], Some(ms(4000)), &t, lines);
        assert!(all.iter().all(|c| c.held), "{all:?}");
        assert_eq!(all[1].what, "second store: locked");
        t.events.push(event(Row::Open, 5000, "EKEYREVOKED", 1));
        let all = judge([fine(), fine()], Some(ms(4000)), &t, lines);
        let broken: Vec<_> = all.iter().filter(|c| !c.held).map(|c| c.what.as_str()).collect();
        assert_eq!(broken, ["store under another key: open got EKEYREVOKED"]);
        let broken = judge([fine(), fine()], None, &undisturbed(), lines);
        assert!(broken.iter().any(|c| !c.held), "the others did not lock");
    }
}
