//! Workers for what the kernel reads ahead and saves on its own: a megabyte at a time, several
//! requests at once from one core, while that core's program goes on.
//!
//! Each has a ring of its own and commits its replies itself, so the copies into the kernel are
//! made here too, on whichever core has time. An entry's next request comes to the ring that its
//! last reply was committed with: it goes from here back to its lane if it is of another kind.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;

use super::bell::Bell;
use super::lane::Lanes;
use super::mailbox::Wake;
use super::ring::{self, Event, Parts, Ring, Serves, Wait};
use super::slot::Slot;

#[derive(Default)]
struct Jobs {
    waiting: VecDeque<Slot>,
    idle: Vec<usize>,
    closed: bool,
}

/// What a worker does next.
pub(super) enum Turn {
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

    /// Of a worker, which looks at what waits before it sleeps: it or another answers a request.
    pub(super) fn enqueue_without_wake(&self, slot: Slot) {
        self.jobs.lock().waiting.push_back(slot);
    }

    fn wake(&self, jobs: &mut Jobs, workers: usize) {
        let left = jobs.idle.len().saturating_sub(workers);
        jobs.idle.drain(left..).for_each(|idle| self.bells[idle].wake());
    }

    /// What a worker that is awake does next. It takes one of the requests that wait; others may
    /// have the rest.
    pub(super) fn turn(&self, worker: usize) -> Turn {
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

    #[cfg(all(test, not(feature = "shuttle")))]
    pub(super) fn bell(&self, worker: usize) -> &Bell {
        &self.bells[worker]
    }

    /// Ends the workers.
    pub(super) fn close(&self) {
        self.jobs.lock().closed = true;
        self.bells.iter().for_each(|bell| bell.wake());
    }

    /// Gives this thread a worker's ring.
    pub(super) fn ring(&self, worker: usize, lanes: Lanes, device: OwnedFd) -> io::Result<Ring> {
        let (uring, bell) = (ring::build(RING)?, self.bells[worker].clone());
        Ring::new(Parts { uring, serves: Serves::Every, bell, lanes, device })
    }

    /// A worker's life: `run` answers a request, `reroute` says where one goes that came to this
    /// ring.
    pub(super) fn work(
        &self,
        worker: usize,
        ring: &mut Ring,
        reroute: impl Fn(Slot, &mut Ring),
        run: impl Fn(Slot, &mut Ring),
    ) -> io::Result<()> {
        loop {
            while let Some(event) = ring.next(Wait::Never)? {
                if let Event::Request(slot) = event {
                    reroute(slot, ring);
                }
            }
            match self.turn(worker) {
                Turn::Run(slot) => run(slot, ring),
                Turn::Wait => {
                    if let Some(Event::Request(slot)) = ring.next(Wait::Forever)? {
                        reroute(slot, ring);
                    }
                }
                Turn::End => return Ok(()),
            }
        }
    }
}

/// Commands are submitted one at a time; many more may wait for their completion.
const RING: usize = 32;
