//! The play: at work, the key disabled, locked, enabled, at work again; and what is found then.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use super::Demo;
use super::postgres::{Load, Server};
use super::programs::Programs;
use super::role::{self, LEDGER, LINES};
use super::screen::{Screen, say};
use super::stage::Stage;
use super::timeline::{Event, Row, Timeline};
use super::verdict::{Database, Lines};
use crate::clock::Moment;
use crate::console::failure::{Exit, Failure};

/// How often the daemon is asked how it stands.
const LOOK: Duration = Duration::from_millis(100);
/// How long programs may take to begin, on a machine that is busy.
const BEGIN: Duration = Duration::from_secs(60);
/// How long AWS KMS may take to begin refusing, or serving again: a guess with much room.
const PATIENCE: Duration = Duration::from_secs(90);

/// Signals that end the play early.
pub struct Interrupts(Arc<AtomicBool>);

impl Interrupts {
    /// Catches SIGINT, SIGTERM and SIGHUP from now on.
    ///
    /// # Errors
    /// Of sigaction(2).
    pub fn catch() -> Result<Self, Failure> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            signal_hook::flag::register(signal, flag.clone())
                .map_err(|e| Failure::io(Path::new("signals"), &e))?;
        }
        Ok(Self(flag))
    }

    fn check(&self) -> Result<(), Failure> {
        if self.0.load(Ordering::Relaxed) {
            return Err(Failure::new(Exit::Failed, "interrupted; everything is taken down"));
        }
        Ok(())
    }
}

/// What was seen and found.
pub struct Found {
    /// What was seen.
    pub timeline: Timeline,
    /// What is in the file of lines; `None` where it could not be read.
    pub lines: Option<Lines>,
    /// What is in the database; `None` where there is none.
    pub database: Option<Option<Database>>,
}

/// A play. Fields are dropped in this order: who uses the mount, before the mount.
pub struct Play {
    programs: Option<Programs>,
    load: Option<Load>,
    server: Option<Server>,
    stage: Stage,
    interrupts: Interrupts,
    sender: Sender<Event>,
    events: Receiver<Event>,
    timeline: Timeline,
    screen: Option<Screen>,
    looked: Option<Instant>,
    heartbeat: Duration,
    part: Duration,
}

impl Play {
    /// On this stage, with the demo's times.
    ///
    /// # Errors
    /// When the stage cannot be set.
    pub fn new(stage: Stage, args: &Demo, interrupts: Interrupts) -> Result<Self, Failure> {
        stage.set(args.heartbeat)?;
        interrupts.check()?;
        let ledger = stage.mountpoint().join(LEDGER);
        fs::write(&ledger, role::ledger()).map_err(|e| Failure::io(&ledger, &e))?;
        let (sender, events) = mpsc::channel();
        Ok(Self {
            programs: None,
            load: None,
            server: None,
            stage,
            interrupts,
            sender,
            events,
            timeline: Timeline::new(Moment::now()),
            screen: None,
            looked: None,
            heartbeat: args.heartbeat,
            part: Duration::from_secs(args.seconds),
        })
    }

    /// Plays it, with a PostgreSQL server if asked.
    ///
    /// # Errors
    /// When something fails that is no promise of the mount, or at a signal.
    pub fn run(mut self, postgres: bool) -> Result<Found, Failure> {
        let rows = self.begin(postgres)?;
        let went = self.run_disable_cycle(&rows)?;
        let committed = self.load.take().map(Load::finish);
        drop(self.programs.take());
        self.take_in();
        let examine = |n| self.server.as_ref().and_then(|s| s.examine(n).map_err(print).ok());
        let database = committed.map(examine);
        let lines = if went == CycleOutcome::Through { self.count_lines() } else { None };
        Ok(Found {
            timeline: std::mem::replace(&mut self.timeline, Timeline::new(Moment::now())),
            lines,
            database,
        })
    }

    /// Starts everybody, and waits until each has worked.
    fn begin(&mut self, postgres: bool) -> Result<Vec<Row>, Failure> {
        let mut rows = Row::ALL.to_vec();
        if postgres {
            say("PostgreSQL makes its cluster in the mount");
            let data = self.stage.mountpoint().join("pg");
            self.server = Some(Server::start(data, &self.stage.outside("pg"))?);
        } else {
            rows.retain(|row| *row != Row::Pgbench);
        }
        self.interrupts.check()?;
        self.timeline.origin = Moment::now();
        self.load = self.server.as_ref().map(|s| s.load(self.sender.clone())).transpose()?;
        self.programs = Some(Programs::start(&self.stage.mountpoint(), &self.sender)?);
        let screen = Screen::new(rows.clone(), self.timeline.origin);
        say("");
        say(&screen.header());
        self.screen = Some(screen);
        let all = rows.clone();
        let begun =
            self.watch(BEGIN, |t| all.iter().all(|row| t.first_success(*row, t.origin).is_some()))?;
        if begun == Watched::TimedOut {
            return Err(Failure::new(Exit::Failed, "not every program has begun to work"));
        }
        self.watch(self.part, |_| false)?;
        Ok(rows)
    }

    /// Disables, waits for the lock, enables, and waits for work.
    fn run_disable_cycle(&mut self, rows: &[Row]) -> Result<CycleOutcome, Failure> {
        let patience = self.heartbeat * 2 + PATIENCE;
        say("");
        self.timeline.disabled = Some(Moment::now());
        self.stage.disable()?;
        let locked = self.watch(patience, |t| {
            t.locked().is_some_and(|at| {
                rows.iter().all(|row| t.last_failure(*row).is_some_and(|f| f >= at))
            })
        })?;
        self.watch(self.part, |_| false)?;
        say("");
        self.timeline.enabled = Some(Moment::now());
        self.stage.enable()?;
        let opened = self.watch(patience, |t| t.reopened().is_some())?;
        if locked == Watched::TimedOut || opened == Watched::TimedOut {
            return Ok(CycleOutcome::Failed);
        }
        if let Some(server) = &mut self.server {
            say("PostgreSQL is started again, as on RDS");
            server.restart()?;
        }
        // Its recovery is waited for, too.
        let works = self.watch(BEGIN, |t| {
            let from = t.reopened().unwrap_or(t.origin);
            rows.iter().all(|row| t.first_success(*row, from).is_some())
        })?;
        self.watch(self.part, |_| false)?;
        Ok(if works == Watched::Seen { CycleOutcome::Through } else { CycleOutcome::Failed })
    }

    /// Takes in what happens until it is `seen`, for at most `limit`.
    fn watch(
        &mut self,
        limit: Duration,
        seen: impl Fn(&Timeline) -> bool,
    ) -> Result<Watched, Failure> {
        let start = Instant::now();
        while start.elapsed() < limit {
            self.interrupts.check()?;
            if let Some(programs) = &mut self.programs {
                programs.check()?;
            }
            match self.events.recv_timeout(LOOK / 2) {
                Ok(event) => self.timeline.events.push(event),
                // We hold a sender ourselves: it is never disconnected.
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            if self.looked.is_none_or(|at| at.elapsed() >= LOOK) {
                self.look();
                if seen(&self.timeline) {
                    return Ok(Watched::Seen);
                }
            }
        }
        Ok(Watched::TimedOut)
    }

    fn look(&mut self) {
        self.looked = Some(Instant::now());
        let told = self.stage.sighting();
        let now = Moment::now();
        if let Some(told) = told {
            self.timeline.sight(now, &told);
        }
        // After the daemon's answer, which may have taken its time.
        self.take_in();
        if let Some(screen) = &mut self.screen {
            // A moment later, so that what a second brought has come through the pipes.
            screen.update(&self.timeline, now.before(LOOK));
        }
    }

    fn take_in(&mut self) {
        self.timeline.events.extend(self.events.try_iter());
    }

    /// Compares the file of lines with what was acknowledged.
    fn count_lines(&self) -> Option<Lines> {
        let path = self.stage.mountpoint().join(LINES);
        let text = fs::read_to_string(&path).map_err(|e| print(Failure::io(&path, &e))).ok()?;
        Some(compare(&text, self.timeline.acknowledged()))
    }
}

fn print(failure: Failure) {
    failure.print();
}

fn compare(text: &str, acknowledged: impl Iterator<Item = u64>) -> Lines {
    let there: HashSet<&str> = text.split_inclusive('\n').collect();
    let mut lines = Lines { acknowledged: 0, found: 0 };
    for number in acknowledged {
        lines.acknowledged += 1;
        lines.found += u64::from(there.contains(role::line(number).as_str()));
    }
    lines
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Watched {
    Seen,
    TimedOut,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum CycleOutcome {
    Through,
    Failed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_counts_only_if_it_is_whole() {
        let text: String = (1..=4).filter(|n| *n != 2).map(role::line).collect();
        let wanted = Lines { acknowledged: 3, found: 2 };
        assert_eq!(compare(&text, [1, 2, 3].into_iter()), wanted);
        assert_eq!(compare(text.trim_end(), [1, 3, 4].into_iter()), wanted, "the last is torn");
        // One that was not acknowledged may be there.
        assert_eq!(compare(&text, [1].into_iter()), Lines { acknowledged: 1, found: 1 });
    }
}
