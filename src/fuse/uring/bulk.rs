//! Workers for what the kernel reads ahead and saves on its own: a megabyte at a time, several
//! requests at once from one core, while that core's program goes on.
//!
//! Each has a ring of its own and commits its replies itself, so the copies into the kernel are
//! made here too, on whichever core has time. An entry comes along with the ring: what the
//! kernel asks next through it comes here, and goes back to its lane if it is of another kind.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;

use super::bell::Bell;
use super::lane::Lanes;
use super::ring::{self, Attached, Event, Parts, Serves, Wait};
use super::slot::Slot;

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Slot>,
    idle: Vec<usize>,
    closed: bool,
}

/// What a worker does next.
enum Turn {
    Run(Slot),
    /// It is woken for a request.
    Wait,
    End,
}

/// What the workers share.
pub(super) struct Bulk {
    jobs: Mutex<Jobs>,
    bells: Vec<Arc<Bell>>,
}

impl Bulk {
    /// Of so many workers, which are to be started.
    pub(super) fn new(workers: usize) -> io::Result<Arc<Self>> {
        let bells = (0..workers).map(|_| Bell::new().map(Arc::new)).collect::<io::Result<_>>()?;
        Ok(Arc::new(Self { jobs: Mutex::default(), bells }))
    }

    /// Has a worker answer a request: one that is idle, if any is.
    pub(super) fn push(&self, slot: Slot) {
        let mut jobs = self.jobs.lock();
        jobs.waiting.push_back(slot);
        self.wake(&mut jobs, 1);
    }

    /// Of a worker: it or another will answer a request; see `turn`.
    pub(super) fn keep(&self, slot: Slot) {
        self.jobs.lock().waiting.push_back(slot);
    }

    fn wake(&self, jobs: &mut Jobs, workers: usize) {
        let left = jobs.idle.len().saturating_sub(workers);
        jobs.idle.drain(left..).for_each(|idle| self.bells[idle].ring());
    }

    /// What a worker that is awake does next. It takes one of the requests that wait; others may
    /// have the rest.
    fn turn(&self, worker: usize) -> Turn {
        let mut jobs = self.jobs.lock();
        jobs.idle.retain(|idle| *idle != worker);
        if jobs.closed {
            return Turn::End;
        }
        let Some(slot) = jobs.waiting.pop_front() else {
            jobs.idle.push(worker);
            return Turn::Wait;
        };
        let rest = jobs.waiting.len();
        self.wake(&mut jobs, rest);
        Turn::Run(slot)
    }

    /// Ends the workers.
    pub(super) fn close(&self) {
        self.jobs.lock().closed = true;
        self.bells.iter().for_each(|bell| bell.ring());
    }

    /// Gives this thread a worker's ring.
    pub(super) fn attach(
        &self,
        worker: usize,
        lanes: Lanes,
        device: OwnedFd,
    ) -> io::Result<Attached> {
        let (uring, bell) = (ring::build(RING)?, self.bells[worker].clone());
        ring::attach(Parts { uring, serves: Serves::Every, bell, lanes, device })
    }

    /// A worker's life: `run` answers a request, `sort` says where one goes that came to this
    /// ring.
    pub(super) fn work(
        &self,
        worker: usize,
        attached: &Attached,
        sort: impl Fn(Slot),
        run: impl Fn(Slot),
    ) -> io::Result<()> {
        loop {
            while let Some(event) = ring::next(attached, Wait::Never)? {
                if let Event::Request(slot) = event {
                    sort(slot);
                }
            }
            match self.turn(worker) {
                Turn::Run(slot) => run(slot),
                Turn::Wait => {
                    if let Some(Event::Request(slot)) = ring::next(attached, Wait::Forever)? {
                        sort(slot);
                    }
                }
                Turn::End => return Ok(()),
            }
        }
    }
}

/// Commands are submitted one at a time; many more may wait for their completion.
const RING: usize = 32;
