//! Running a request: at once, again when its key has come, or a piece at a time.

use std::sync::Arc;
use std::time::Instant;

use super::killed::is_killed;
use super::pace::Pace;
use super::reply::{Reply, Sent};
use super::runner::{RunnerThread, Task};
use super::shared::Shared;
use super::watch::Watch;
use crate::fs::Who;
use crate::fs::{Errno, Fail, Fs, Outcome};
use crate::keys::{KeyRequest, Pass, Purpose};
use crate::metrics::RequestKind;
use crate::secret::scrub_stack;

/// A request that finds another key missing each time it is run again is given up.
const MOST_RUNS: u32 = 16;

/// A request in an owned form, with its reply.
pub(super) trait Job: Send + Sized + 'static {
    /// Its reply, when it is ready to be sent.
    type Sent: Sent;
    /// What it wants of the gate; `None` for what is served in every state, for it touches no
    /// plaintext and no name.
    fn purpose(&self) -> Option<Purpose>;
    /// The program that waits for it; the thread is 0 where that is not known.
    fn who(&self) -> Who;
    /// How many bytes it keeps while it is parked.
    fn weight(&self) -> usize {
        0
    }
    /// Runs it, or a piece of it.
    fn run(self, shared: &Shared) -> Progress<Self>;
    /// Gathers from the store what an audit log is told, for [`Job::fail`] must not touch it.
    fn gather(&mut self) {}
    /// Replies with an errno. It neither blocks nor touches the store.
    fn fail(self, errno: Errno) -> Self::Sent;
}

/// How far a job came.
pub(super) enum Progress<J: Job> {
    /// To its reply.
    Replied(J::Sent),
    /// To an errno, which is to be replied.
    Failed(Errno, J),
    /// Nowhere: it waits for a key.
    Wants(KeyRequest, J),
    /// Through one piece, and there is more.
    Unfinished(J),
}

impl<J: Job> Progress<J> {
    /// What an operation's failure means for the job that it belongs to.
    pub(super) fn of(fail: Fail, job: J) -> Self {
        match fail {
            Fail::Errno(errno) => Self::Failed(errno, job),
            Fail::Park(want) => Self::Wants(want, job),
            Fail::Unfinished => Self::Unfinished(job),
        }
    }
}

/// A reply that is to be sent by the thread that has it. The pass of the gate is held until then:
/// a lock must not be complete before.
#[must_use]
pub(super) struct Answered<'a, S> {
    sent: S,
    pass: Option<Pass<'a>>,
    shared: &'a Shared,
    arrived: Arrived,
}

impl<'a, S> Answered<'a, S> {
    /// A reply of a request that needed no pass.
    pub(super) fn of(sent: S, shared: &'a Shared, arrived: Arrived) -> Self {
        Self { sent, pass: None, shared, arrived }
    }

    /// A reply that says why a job failed, which is counted.
    fn failed<J: Job<Sent = S>>(
        job: J,
        errno: Errno,
        shared: &'a Shared,
        arrived: Arrived,
    ) -> Self {
        shared.counted.failed(arrived.kind, errno.0);
        Self::of(job.fail(errno), shared, arrived)
    }

    /// Has `send` send the reply, and leaves the gate. Answers when that was done: each look at
    /// the clock is a part in two hundred of a small request.
    pub(super) fn finish(self, send: impl FnOnce(S)) -> Instant {
        let Self { sent, pass, shared, arrived } = self;
        send(sent);
        drop(pass);
        let done = Instant::now();
        shared.counted.answered(arrived.kind, done.saturating_duration_since(arrived.at));
        // Names and blocks of plaintext that ciphers worked on.
        scrub_stack();
        done
    }
}

/// What a request is, and when it came.
#[derive(Clone, Copy)]
pub(super) struct Arrived {
    pub(super) kind: RequestKind,
    pub(super) at: Instant,
}

/// Where a request is run.
#[derive(Clone, Copy)]
pub(super) enum Start<'a> {
    /// On the thread that it came to.
    Here,
    /// By the runner, which notes how long it took.
    Runner(&'a Arc<Pace>),
}

/// Runs a job, or has it run: `None` where its reply comes later.
pub(super) fn go<'a, J: Job>(
    shared: &'a Arc<Shared>,
    job: J,
    arrived: Arrived,
    start: Start<'_>,
) -> Option<Answered<'a, J::Sent>> {
    match start {
        Start::Here => attempt(shared, job, Past::of(arrived)),
        Start::Runner(pace) => {
            let queued = Queued { shared: shared.clone(), job, past: Past::of(arrived) };
            shared.runner.push(Box::new(queued), Some(pace.clone()));
            None
        }
    }
}

/// Passes the gate and runs a job; what does not end here is parked or queued.
fn attempt<J: Job>(shared: &Arc<Shared>, mut job: J, past: Past) -> Option<Answered<'_, J::Sent>> {
    let pass = match job.purpose().map(|purpose| shared.fs.enter(purpose)).transpose() {
        Ok(pass) => pass,
        Err(fail) => {
            job.gather();
            return settle(shared, Progress::of(fail, job), None, past);
        }
    };
    let progress = job.run(shared);
    settle(shared, progress, pass, past)
}

/// What follows from how far a job came.
pub(super) fn settle<'a, J: Job>(
    shared: &'a Arc<Shared>,
    progress: Progress<J>,
    pass: Option<Pass<'a>>,
    past: Past,
) -> Option<Answered<'a, J::Sent>> {
    match progress {
        Progress::Replied(sent) => {
            return Some(Answered { sent, pass, shared, arrived: past.arrived });
        }
        Progress::Failed(errno, job) => {
            return Some(Answered { pass, ..Answered::failed(job, errno, shared, past.arrived) });
        }
        Progress::Wants(want, mut job) => {
            drop(pass);
            scrub_stack();
            let next = Past { runs: past.runs + 1, ..past };
            let fetched = match past.runs {
                MOST_RUNS.. => Some(Err(Fail::Errno(Errno(libc::EKEYEXPIRED)))),
                _ => shared.fs.fetch_here(want),
            };
            match fetched {
                Some(Ok(())) => return attempt(shared, job, next),
                Some(Err(fail)) => {
                    job.gather();
                    return settle(shared, Progress::Failed(fail.errno(), job), None, next);
                }
                None => park(shared, want, job, next),
            }
        }
        Progress::Unfinished(mut job) => {
            drop(pass);
            job.gather();
            let past = Past { runs: 0, stage: Stage::Begun, ..past };
            let queued = Queued { shared: shared.clone(), job, past };
            shared.runner.push(Box::new(queued), None);
        }
    }
    scrub_stack();
    None
}

/// Parks a job that wants a key.
fn park<J: Job>(shared: &Arc<Shared>, want: KeyRequest, mut job: J, past: Past) {
    job.gather();
    let task: Box<dyn Task> = Box::new(Queued { shared: shared.clone(), job, past });
    match shared.runner.park(task) {
        Ok(ticket) => shared.fs.keyring().wait_for(want, ticket),
        Err(task) => task.refuse(Errno(libc::EKEYEXPIRED)),
    }
}

/// Whether a job has done something already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    New,
    Begun,
}

/// What a job has behind it.
#[derive(Clone, Copy)]
pub(super) struct Past {
    /// How often it found a key missing since it last got on.
    runs: u32,
    stage: Stage,
    arrived: Arrived,
}

impl Past {
    /// Nothing yet.
    pub(super) fn of(arrived: Arrived) -> Self {
        Self { runs: 0, stage: Stage::New, arrived }
    }
}

/// A job with the runner.
struct Queued<J> {
    shared: Arc<Shared>,
    job: J,
    past: Past,
}

impl<J: Job> Task for Queued<J> {
    fn purpose(&self) -> Option<Purpose> {
        self.job.purpose()
    }

    fn user(&self) -> u32 {
        self.job.who().uid
    }

    fn weight(&self) -> usize {
        self.job.weight()
    }

    fn run(self: Box<Self>, thread: &RunnerThread) {
        if self.past.stage == Stage::Begun && is_killed(self.job.who().pid) {
            return self.refuse(Errno(libc::EINTR));
        }
        let Self { shared, job, past } = *self;
        if let Some(answered) = attempt(&shared, job, past) {
            answered.finish(|sent| sent.send_and_wait(thread));
        }
    }

    fn refuse(self: Box<Self>, errno: Errno) {
        let Self { shared, job, past } = *self;
        Answered::failed(job, errno, &shared, past.arrived).finish(Sent::send_refusal);
    }
}

/// A job of an operation and a reply. An operation that works in pieces keeps its progress.
pub(super) struct Simple<F, R> {
    pub(super) op: F,
    pub(super) reply: R,
    pub(super) purpose: Option<Purpose>,
    pub(super) who: Who,
    pub(super) watch: Option<Watch>,
}

impl<A, S, F, R> Job for Simple<F, R>
where
    S: Sent,
    F: FnMut(&Fs) -> Outcome<A> + Send + 'static,
    R: Reply<A, Sent = S>,
{
    type Sent = S;

    fn purpose(&self) -> Option<Purpose> {
        self.purpose
    }

    fn who(&self) -> Who {
        self.who
    }

    fn run(mut self, shared: &Shared) -> Progress<Self> {
        match (self.op)(&shared.fs) {
            Ok(answer) => {
                if let Some(watch) = &self.watch {
                    watch.tell(Ok(()));
                }
                Progress::Replied(self.reply.send(Ok(answer)))
            }
            Err(fail) => {
                if let (Fail::Errno(errno), Some(watch)) = (fail, &mut self.watch) {
                    watch.gather_for(errno);
                }
                Progress::of(fail, self)
            }
        }
    }

    fn gather(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.gather();
        }
    }

    fn fail(self, errno: Errno) -> S {
        if let Some(watch) = &self.watch {
            watch.tell(Err(errno));
        }
        self.reply.send(Err(errno))
    }
}
