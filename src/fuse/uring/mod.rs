//! FUSE over io_uring (Linux 6.14): requests come to the core that they were made on.
//!
//! The kernel has a queue of requests for each core, and a thread here for each queue. A program
//! and the thread that answers it run in turn on one core, which costs half of what waking
//! another core does, and one system call a request less. What may take long goes to the runner
//! (see [`Router`]), for a thread that waits holds up its core's queue, and what comes a megabyte
//! at a time to bulk workers (see [`Bulk`]). Mounting, FORGET and notifications stay with fuser,
//! over /dev/fuse.

mod abi;
mod bell;
mod bulk;
mod cores;
mod dispatch;
#[cfg(all(test, feature = "shuttle"))]
mod interleavings;
mod lane;
mod mailbox;
mod memory;
mod ring;
mod router;
mod scheduling;
mod slot;
#[cfg(all(test, not(feature = "shuttle")))]
mod tests;

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use super::handshake::MAX_WRITE;
use super::requests::Requests;
use super::runner::MOST_PARKED;
use crate::threads::{Role, spawn};
use bulk::Bulk;
use cores::{cores, pin, share};
use lane::{Lane, Lanes};
use ring::{Event, Parts, Ring, Serves, Uring, Wait};
use router::Router;
use scheduling::{Chooser, Permit};

/// Entries of a queue beyond those that parked requests may hold.
const WORKING: usize = 32;
/// Entries of a core's queue that is not there now.
const ABSENT: usize = 2;
const PARAMETER: &str = "/sys/module/fuse/parameters/enable_uring";

/// Rings that are ready before the kernel is told that there are any.
pub(super) struct Rings {
    lanes: Lanes,
    /// Of each lane, with its core.
    rings: Vec<(Uring, usize)>,
}

/// Whether the kernel's FUSE takes rings. Root allows it where it is not allowed yet: it is a
/// switch of the module's, off by default, for every filesystem that asks for it.
pub(super) fn allow() -> io::Result<()> {
    let is_on = || fs::read_to_string(PARAMETER).map(|text| text.trim() == "Y");
    if !is_on()? {
        fs::write(PARAMETER, "Y")?;
    }
    if is_on()? { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}

impl Rings {
    /// For every core that there may be.
    ///
    /// # Errors
    /// Where io_uring is not to be had.
    pub(super) fn new() -> io::Result<Self> {
        let (possible, online) = (cores("possible")?, cores("online")?);
        let (mut lanes, mut rings) = (Vec::new(), Vec::new());
        for (number, core) in (0u16..).zip(&online) {
            let mut queues = vec![queue(*core)?; MOST_PARKED + WORKING];
            // The kernel begins when every queue has an entry.
            if lanes.is_empty() {
                for absent in possible.iter().filter(|c| !online.contains(c)) {
                    queues.extend([queue(*absent)?; ABSENT]);
                }
            }
            rings.push((ring::build(queues.len() + 1)?, *core));
            lanes.push(Arc::new(Lane::new(number, queues, MAX_WRITE as usize)?));
        }
        Ok(Self { lanes: lanes.into(), rings })
    }

    /// Starts the threads. The kernel sends requests when each lane has registered its entries.
    /// `abort` is called when a ring fails later: its programs would wait for ever. A thread of its
    /// own calls it, for those that run requests may not unmount (`walls`).
    ///
    /// # Errors
    /// When a thread cannot be started, or the kernel does not take its entries. The mount is
    /// of no use then.
    pub(super) fn start(
        self,
        device: impl AsFd,
        requests: &Arc<Requests>,
        most_bulk: usize,
        abort: impl FnOnce() + Send + 'static,
    ) -> io::Result<Vec<JoinHandle<()>>> {
        let (broken, is_broken) = channel();
        spawn(Role::BrokenRing, move || {
            // An error: all threads have ended, and none has failed.
            if is_broken.recv().is_ok() {
                abort();
            }
        })?;
        let workers = self.rings.len().clamp(2, most_bulk.max(2));
        let online: Vec<usize> = self.rings.iter().map(|(_, core)| *core).collect();
        let bulk = Bulk::new(workers)?;
        let router = Arc::new(Router::new(requests, &bulk));
        let (begun, all_begun) = channel();
        let permit = Permit::ask();
        let thread = Thread { router, lanes: self.lanes, permit, begun, broken };
        let mut threads = Vec::new();
        for (number, (uring, core)) in (0u16..).zip(self.rings) {
            let (thread, device) = (thread.clone(), device.as_fd().try_clone_to_owned()?);
            let work = move || thread.serve_lane(number, uring, core, device);
            threads.push(spawn(Role::Ring, work)?);
        }
        for worker in 0..workers {
            let (thread, device) = (thread.clone(), device.as_fd().try_clone_to_owned()?);
            let (bulk, on) = (bulk.clone(), share(&online, worker, workers));
            let work = move || thread.serve_bulk(worker, &on, &bulk, device);
            threads.push(spawn(Role::Bulk, work)?);
        }
        drop(thread);
        all_begun.iter().collect::<io::Result<()>>()?;
        Ok(threads)
    }
}

/// What each thread of a ring is given.
#[derive(Clone)]
struct Thread {
    router: Arc<Router>,
    lanes: Lanes,
    permit: Option<Permit>,
    begun: Sender<io::Result<()>>,
    broken: Sender<()>,
}

impl Thread {
    fn serve_lane(self, number: u16, uring: Uring, core: usize, device: OwnedFd) {
        pin(&[core]);
        let lane = self.lanes[usize::from(number)].clone();
        let (serves, bell) = (Serves::Lane(number), lane.bell());
        let (lanes, permit) = (self.lanes.clone(), self.permit);
        let ring = Ring::new(Parts { uring, serves, bell, lanes, device });
        self.run(ring, |router, ring| {
            let _closes = Closes(&lane, router);
            serve(&lane, router, permit, ring)
        });
    }

    fn serve_bulk(self, worker: usize, on: &[usize], bulk: &Bulk, device: OwnedFd) {
        pin(on);
        let ring = bulk.ring(worker, self.lanes.clone(), device);
        self.run(ring, |router, ring| {
            let reroute = |slot, ring: &mut Ring| router.reroute(slot, ring);
            bulk.work(worker, ring, reroute, |slot, ring| router.run(slot, Instant::now(), ring))
        });
    }

    fn run(self, ring: io::Result<Ring>, work: impl FnOnce(&Router, &mut Ring) -> io::Result<()>) {
        let Self { router, begun, broken, .. } = self;
        let (ring, outcome) = match ring {
            Ok(ring) => (Some(ring), Ok(())),
            Err(e) => (None, Err(e)),
        };
        // Whoever started us waits until each has said so and let go.
        let _ = begun.send(outcome);
        drop(begun);
        let Some(mut ring) = ring else { return };
        let mut ended = Ended(Some(broken));
        match work(&router, &mut ring) {
            Ok(()) => drop(ended.0.take()),
            Err(e) => log::error!("an io_uring queue failed, unmounting: {e}"),
        }
    }
}

/// Serves a lane until the connection is gone. It never waits for another thread.
fn serve(lane: &Lane, router: &Router, permit: Option<Permit>, ring: &mut Ring) -> io::Result<()> {
    let mut chooser = permit.and_then(Chooser::new);
    loop {
        let event = ring.next(Wait::Forever)?;
        let now = Instant::now();
        if let Some(chooser) = &mut chooser {
            chooser.look(now);
        }
        match event {
            Some(Event::Request(slot)) => router.serve(slot, now, ring),
            Some(Event::Bell) => {
                let (replies, requests) = lane.mailbox.take();
                let count = replies.len();
                replies.into_iter().for_each(|reply| ring.commit_posted(lane, reply));
                lane.mailbox.note_sent(count);
                requests.into_iter().for_each(|id| router.run(ring.slot(id), Instant::now(), ring));
            }
            Some(Event::Gone) => return Ok(()),
            None => {}
        }
    }
}

/// Where a lane's thread ends, by a panic too, nobody may wait for it, or for the others.
struct Closes<'a>(&'a Lane, &'a Router);

impl Drop for Closes<'_> {
    fn drop(&mut self) {
        self.0.mailbox.close();
        self.1.close();
    }
}

/// Says so where a ring's thread ends before the mount does, by a panic too.
struct Ended(Option<Sender<()>>);

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(broken) = &self.0 {
            // It is said once, whichever thread is the first.
            let _ = broken.send(());
        }
    }
}

fn queue(core: usize) -> io::Result<u16> {
    u16::try_from(core).map_err(|_| io::ErrorKind::Unsupported.into())
}
