//! A mount that is looked at: the programs on it, what they tell, and how its daemon stands.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use super::interrupts::Interrupts;
use super::lines;
use super::programs::Programs;
use super::role::Kind;
use super::row::Row;
use super::screen::{Screen, say};
use super::timeline::{Event, Sighting, Timeline};
use crate::clock::Moment;
use crate::console::failure::{Exit, Failure};
use crate::control;

/// How often the daemon is asked how it stands.
const LOOK: Duration = Duration::from_millis(100);
/// How long programs may take to begin, on a machine that is busy.
pub const BEGIN: Duration = Duration::from_secs(60);
/// How long a KMS may take to begin refusing, or serving again: a guess with much room.
const PATIENCE: Duration = Duration::from_secs(90);

/// How long the mount may take to notice what became of its key.
pub fn patience(heartbeat: Duration) -> Duration {
    heartbeat * 2 + PATIENCE
}

/// A mount and what was seen of it.
pub struct Observed {
    programs: Programs,
    rows: Vec<Row>,
    /// What was seen.
    pub timeline: Timeline,
    sender: Sender<Event>,
    events: Receiver<Event>,
    mountpoint: PathBuf,
    looked: Option<Instant>,
    screen: Option<Screen>,
}

impl Observed {
    /// One that has these rows, and nobody who works on it yet.
    pub fn new(mountpoint: PathBuf, rows: Vec<Row>) -> Self {
        let (sender, events) = mpsc::channel();
        let timeline = Timeline::new(Moment::now());
        let programs = Programs::default();
        Self { programs, rows, timeline, sender, events, mountpoint, looked: None, screen: None }
    }

    /// Starts a program.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&mut self, kind: Kind) -> Result<(), Failure> {
        self.programs.start(kind, &self.mountpoint, &self.sender)
    }

    /// Starts those that are at work from the beginning.
    ///
    /// # Errors
    /// When one cannot be started, or the file of lines not begun anew.
    pub fn start_all(&mut self) -> Result<(), Failure> {
        lines::begin(&self.mountpoint)?;
        Kind::ALL.into_iter().try_for_each(|kind| self.start(kind))
    }

    /// With one more row, of somebody else who works on it.
    pub fn add_row(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Where others tell what they do on the mount.
    pub fn sender(&self) -> Sender<Event> {
        self.sender.clone()
    }

    /// Where it is mounted.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Shows from now on what it sees, a line a second, and has room for rows that come later.
    pub fn show(&mut self, later: &[Row]) {
        let screen = Screen::new([&self.rows, later].concat(), self.timeline.origin);
        say("");
        say(&screen.header());
        self.screen = Some(screen);
    }

    /// Whether each row has worked.
    pub fn has_begun(&self) -> bool {
        let t = &self.timeline;
        self.rows.iter().all(|row| t.first_success(*row, t.origin).is_some())
    }

    /// Whether it is locked, and each row was refused since.
    pub fn is_refused(&self) -> bool {
        let t = &self.timeline;
        let refused = |at, row| t.last_failure(row).is_some_and(|failed| failed >= at);
        t.locked().is_some_and(|at| self.rows.iter().all(|row| refused(at, *row)))
    }

    /// Whether it is open again.
    pub fn is_reopened(&self) -> bool {
        self.timeline.reopened().is_some()
    }

    /// Whether it is open again, and each row has worked since.
    pub fn works_again(&self) -> bool {
        let t = &self.timeline;
        let works = |at, row| t.first_success(row, at).is_some();
        t.reopened().is_some_and(|at| self.rows.iter().all(|row| works(at, *row)))
    }

    /// Ends the programs: all that they told.
    pub fn end(self) -> Timeline {
        let Self { programs, mut timeline, events, .. } = self;
        drop(programs);
        timeline.events.extend(events.try_iter());
        timeline
    }

    fn look(&mut self) {
        self.looked = Some(Instant::now());
        let told = sighting(&self.mountpoint);
        let now = Moment::now();
        if let Some(told) = told {
            self.timeline.sight(now, &told);
        }
        // After the daemon's answer, which may have taken its time.
        self.timeline.events.extend(self.events.try_iter());
        if let Some(screen) = &mut self.screen {
            // A moment later, so that what a second brought has come through the pipes.
            screen.update(&self.timeline, now.before(LOOK));
        }
    }
}

/// What the daemon tells; `None` where it does not answer.
fn sighting(mountpoint: &Path) -> Option<Sighting> {
    let mount = control::at(mountpoint).ok()?.into_iter().next()?;
    let report = mount.report().ok()??;
    let last_good = Moment::now().before(Duration::from_millis(report.last_good_ms));
    let (beats, failed) = (report.beats, report.beats_failed);
    Some(Sighting { state: report.state, beats, failed, last_good })
}

/// Whether what was waited for has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// It has.
    Seen,
    /// It has not.
    TimedOut,
}

/// Looks at mounts until it is `seen`, for at most `limit`.
///
/// # Errors
/// When a program has ended by itself, or at a signal.
pub fn watch(
    all: &mut [Observed],
    interrupts: &Interrupts,
    limit: Duration,
    seen: impl Fn(&[Observed]) -> bool,
) -> Result<Watched, Failure> {
    let start = Instant::now();
    while start.elapsed() < limit {
        interrupts.check()?;
        let mut looked = false;
        for one in &mut *all {
            one.programs.check()?;
            if one.looked.is_none_or(|at| at.elapsed() >= LOOK) {
                one.look();
                looked = true;
            }
        }
        if looked && seen(all) {
            return Ok(Watched::Seen);
        }
        std::thread::sleep(LOOK / 4);
    }
    Ok(Watched::TimedOut)
}

/// Waits until each row has worked.
///
/// # Errors
/// When not each has, or as [`watch`].
pub fn begin(all: &mut [Observed], interrupts: &Interrupts) -> Result<(), Failure> {
    match watch(all, interrupts, BEGIN, |all| all.iter().all(Observed::has_begun))? {
        Watched::Seen => Ok(()),
        Watched::TimedOut => Err(Failure::new(Exit::Failed, "not every program has begun to work")),
    }
}
