//! The play: at work, the key taken away, locked, given back, at work again; and what is found
//! then.

use std::time::Duration;

use super::interrupts::Interrupts;
use super::lines;
use super::means::Means;
use super::observed::{BEGIN, Observed, Watched, begin, patience, watch};
use super::postgres::{Load, Server};
use super::row::Row;
use super::screen::say;
use super::stage::{MAIN, Stage};
use super::timeline::Timeline;
use super::verdict::{Database, Lines};
use crate::clock::Moment;
use crate::console::failure::Failure;

/// What was seen and found.
pub struct Found {
    /// What was seen.
    pub timeline: Timeline,
    /// What is in the file of lines; `None` where it could not be read.
    pub lines: Option<Lines>,
    /// What is in the database; `None` where there is none.
    pub database: Option<Option<Database>>,
}

/// How long things take.
#[derive(Clone, Copy)]
pub struct Times {
    /// The mount's heartbeat.
    pub heartbeat: Duration,
    /// Each part: at work, locked, at work again.
    pub part: Duration,
}

/// A play on the main mount. Fields are dropped in this order: who uses the mount, before the
/// server that they use.
pub struct Play<'a> {
    load: Option<Load>,
    observed: Observed,
    server: Option<Server>,
    stage: &'a mut Stage,
    interrupts: &'a Interrupts,
    times: Times,
    means: Means,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum CycleOutcome {
    Through,
    Failed,
}

impl<'a> Play<'a> {
    /// One in which the key is taken away by these means.
    pub fn new(
        stage: &'a mut Stage,
        interrupts: &'a Interrupts,
        times: Times,
        means: Means,
    ) -> Self {
        let observed = Observed::new(stage.mountpoint(MAIN), Row::PROGRAMS.to_vec());
        Self { load: None, observed, server: None, stage, interrupts, times, means }
    }

    /// With a PostgreSQL server on the mount, too.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn with_postgres(mut self) -> Result<Self, Failure> {
        say("PostgreSQL makes its cluster in the mount");
        let data = self.observed.mountpoint().join("pg");
        self.server = Some(Server::start(data, &self.stage.outside("pg"))?);
        self.observed.add_row(Row::Pgbench);
        Ok(self)
    }

    /// Plays it.
    ///
    /// # Errors
    /// When something fails that is no promise of the mount, or at a signal.
    pub fn run(mut self) -> Result<Found, Failure> {
        self.interrupts.check()?;
        self.observed.timeline.origin = Moment::now();
        let sender = self.observed.sender();
        self.load = self.server.as_ref().map(|s| s.load(sender)).transpose()?;
        self.observed.start_all()?;
        self.observed.show(&[]);
        begin(std::slice::from_mut(&mut self.observed), self.interrupts)?;
        self.pass(self.times.part)?;
        let went = self.cycle()?;
        let committed = self.load.take().map(Load::finish);
        let mountpoint = self.observed.mountpoint().to_owned();
        let timeline = self.observed.end();
        let examine = |n| {
            let told = self.server.as_ref().map(|s| s.examine(n))?;
            told.map_err(|e| e.print()).ok()
        };
        let database = committed.map(examine);
        let lines = match went {
            CycleOutcome::Through => lines::count(&mountpoint, timeline.acknowledged()),
            CycleOutcome::Failed => None,
        };
        Ok(Found { timeline, lines, database })
    }

    /// Takes the key away, waits for the lock, gives the key back, and waits for work.
    fn cycle(&mut self) -> Result<CycleOutcome, Failure> {
        let patience = patience(self.times.heartbeat);
        say("");
        self.observed.timeline.disabled = Some(Moment::now());
        self.stage.take(self.means)?;
        let locked = self.watch(patience, Observed::is_refused)?;
        self.pass(self.times.part)?;
        say("");
        self.observed.timeline.enabled = Some(Moment::now());
        self.stage.give_back(self.means)?;
        let opened = self.watch(patience, Observed::is_reopened)?;
        if locked == Watched::TimedOut || opened == Watched::TimedOut {
            return Ok(CycleOutcome::Failed);
        }
        if let Some(server) = &mut self.server {
            say("PostgreSQL is started again, as on RDS");
            server.restart()?;
        }
        // Its recovery is waited for, too.
        let works = self.watch(BEGIN, Observed::works_again)?;
        self.pass(self.times.part)?;
        Ok(if works == Watched::Seen { CycleOutcome::Through } else { CycleOutcome::Failed })
    }

    fn watch(
        &mut self,
        limit: Duration,
        seen: impl Fn(&Observed) -> bool,
    ) -> Result<Watched, Failure> {
        let all = std::slice::from_mut(&mut self.observed);
        watch(all, self.interrupts, limit, |all| all.iter().all(&seen))
    }

    /// Lets time pass.
    fn pass(&mut self, time: Duration) -> Result<(), Failure> {
        self.watch(time, |_| false).map(drop)
    }
}
