//! FUSE over io_uring (Linux 6.14): requests come to the core that they were made on.
//!
//! The kernel has a queue of requests for each core, and a thread here for each queue. A program
//! and the thread that answers it run in turn on one core, which costs half of what waking
//! another core does, and one system call a request less. What may take long goes to helpers
//! (see [`Helpers`]), for a thread that waits holds up its core's queue, and what comes a megabyte
//! at a time to bulk workers (see [`Bulk`]). Mounting, FORGET and notifications stay with fuser,
//! over /dev/fuse.

mod abi;
mod bell;
mod bulk;
mod cores;
mod dispatch;
mod helpers;
mod lane;
mod memory;
mod policy;
mod ring;
mod slot;

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use super::handshake::MAX_WRITE;
use super::job::MOST_PARKED;
use super::requests::Requests;
use bulk::Bulk;
use cores::{cores, pin, share};
use helpers::Helpers;
use lane::{Lane, Lanes};
use policy::{Chooser, Permit};
use ring::{Attached, Event, Parts, Serves, Uring, Wait};

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
    /// `broken` is called when a ring fails later: its programs would wait for ever.
    ///
    /// # Errors
    /// When a thread cannot be started, or the kernel does not take its entries. The mount is
    /// of no use then.
    pub(super) fn start(
        self,
        device: impl AsFd,
        requests: &Arc<Requests>,
        helpers: usize,
        broken: impl Fn() + Clone + Send + 'static,
    ) -> io::Result<Vec<JoinHandle<()>>> {
        let workers = self.rings.len().clamp(2, helpers.max(2));
        let online: Vec<usize> = self.rings.iter().map(|(_, core)| *core).collect();
        let bulk = Bulk::new(workers)?;
        let helpers = Arc::new(Helpers::start(requests, helpers, &bulk)?);
        let (begun, all_begun) = channel();
        let permit = Permit::ask();
        let thread = Thread { helpers, lanes: self.lanes, permit, begun, broken };
        let mut threads = Vec::new();
        for (number, (uring, core)) in (0u16..).zip(self.rings) {
            let (thread, device) = (thread.clone(), device.as_fd().try_clone_to_owned()?);
            let work = move || thread.serve_lane(number, uring, core, device);
            threads.push(std::thread::Builder::new().name("kmsfs-ring".to_owned()).spawn(work)?);
        }
        for worker in 0..workers {
            let (thread, device) = (thread.clone(), device.as_fd().try_clone_to_owned()?);
            let (bulk, on) = (bulk.clone(), share(&online, worker, workers));
            let work = move || thread.serve_bulk(worker, &on, &bulk, device);
            threads.push(std::thread::Builder::new().name("kmsfs-bulk".to_owned()).spawn(work)?);
        }
        drop(thread);
        all_begun.iter().collect::<io::Result<()>>()?;
        Ok(threads)
    }
}

/// What each thread of a ring is given.
#[derive(Clone)]
struct Thread<F: Fn()> {
    helpers: Arc<Helpers>,
    lanes: Lanes,
    permit: Option<Permit>,
    begun: Sender<io::Result<()>>,
    broken: F,
}

impl<F: Fn()> Thread<F> {
    fn serve_lane(self, number: u16, uring: Uring, core: usize, device: OwnedFd) {
        pin(&[core]);
        let lane = self.lanes[usize::from(number)].clone();
        let (serves, bell) = (Serves::Lane(number), lane.bell.clone());
        let (lanes, permit) = (self.lanes.clone(), self.permit);
        let attached = ring::attach(Parts { uring, serves, bell, lanes, device });
        self.run(attached, |helpers, attached| {
            let _closes = Closes(&lane, helpers);
            serve(&lane, helpers, permit, attached)
        });
    }

    fn serve_bulk(self, worker: usize, on: &[usize], bulk: &Bulk, device: OwnedFd) {
        pin(on);
        let attached = bulk.attach(worker, self.lanes.clone(), device);
        self.run(attached, |helpers, attached| {
            bulk.work(worker, attached, |slot| helpers.sort(slot), |slot| helpers.run(slot))
        });
    }

    fn run(
        self,
        attached: io::Result<Attached>,
        work: impl FnOnce(&Helpers, &Attached) -> io::Result<()>,
    ) {
        let Self { helpers, begun, broken, .. } = self;
        let (attached, outcome) = match attached {
            Ok(attached) => (Some(attached), Ok(())),
            Err(e) => (None, Err(e)),
        };
        // Whoever started us waits until each has said so and let go.
        let _ = begun.send(outcome);
        drop(begun);
        let Some(attached) = attached else { return };
        let ended = Ended(broken);
        match work(&helpers, &attached) {
            Ok(()) => std::mem::forget(ended),
            Err(e) => log::error!("a ring failed, the mount ends: {e}"),
        }
    }
}

/// Serves a lane until the connection is gone.
fn serve(
    lane: &Lane,
    helpers: &Helpers,
    permit: Option<Permit>,
    attached: &Attached,
) -> io::Result<()> {
    let mut chooser = permit.and_then(Chooser::new);
    loop {
        let event = ring::next(attached, Wait::Forever)?;
        if let Some(chooser) = &mut chooser {
            chooser.look();
        }
        match event {
            Some(Event::Request(slot)) => helpers.serve(slot),
            Some(Event::Bell) => {
                let (ready, slots) = lane.take();
                let count = ready.len();
                ready.into_iter().for_each(|r| ring::commit(lane, r));
                lane.note_sent(count);
                slots.into_iter().for_each(|slot| helpers.run(slot));
            }
            Some(Event::Gone) => return Ok(()),
            None => {}
        }
    }
}

/// Where a lane's thread ends, by a panic too, nobody may wait for it, or for the others.
struct Closes<'a>(&'a Lane, &'a Helpers);

impl Drop for Closes<'_> {
    fn drop(&mut self) {
        self.0.close();
        self.1.close();
    }
}

/// Calls it where a ring's thread ends before the mount does, by a panic too.
struct Ended<F: Fn()>(F);

impl<F: Fn()> Drop for Ended<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

fn queue(core: usize) -> io::Result<u16> {
    u16::try_from(core).map_err(|_| io::ErrorKind::Unsupported.into())
}
