//! FUSE over io_uring (Linux 6.14): requests come to the core that they were made on.
//!
//! The kernel has a queue of requests for each core, and a thread here for each queue. A program
//! and the thread that answers it run in turn on one core, which costs half of what waking
//! another core does, and one system call a request less. What may take long goes to helpers
//! (see [`Helpers`]), for a thread that waits holds up its core's queue. Mounting, FORGET and
//! notifications stay with fuser, over /dev/fuse.

mod abi;
mod dispatch;
mod helpers;
mod lane;
mod memory;
mod ring;
mod slot;

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;

use io_uring::{IoUring, cqueue, squeue};
use rustix::thread::{CpuSet, sched_setaffinity};

use super::handshake::MAX_WRITE;
use super::job::MOST_PARKED;
use super::requests::Requests;
use helpers::Helpers;
use lane::Lane;

/// Entries of a queue beyond those that parked requests may hold.
const WORKING: usize = 32;
/// Entries of a core's queue that is not there now.
const ABSENT: usize = 2;
const PARAMETER: &str = "/sys/module/fuse/parameters/enable_uring";

/// Rings that are ready before the kernel is told that there are any.
pub(super) struct Rings {
    lanes: Vec<(Lane, IoUring<squeue::Entry128, cqueue::Entry>, usize)>,
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

/// The numbers in a list of the kernel's (`0-3,8`).
fn numbers(list: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    list.trim().split(',').filter_map(range).flatten().collect()
}

fn cores(which: &str) -> io::Result<Vec<usize>> {
    Ok(numbers(&fs::read_to_string(format!("/sys/devices/system/cpu/{which}"))?))
}

impl Rings {
    /// For every core that there may be.
    ///
    /// # Errors
    /// Where io_uring is not to be had.
    pub(super) fn new() -> io::Result<Self> {
        let (possible, online) = (cores("possible")?, cores("online")?);
        let mut lanes = Vec::new();
        for core in &online {
            let mut queues = vec![queue(*core)?; MOST_PARKED + WORKING];
            // The kernel begins when every queue has an entry.
            if lanes.is_empty() {
                for absent in possible.iter().filter(|c| !online.contains(c)) {
                    queues.extend([queue(*absent)?; ABSENT]);
                }
            }
            let uring = ring::build(queues.len())?;
            lanes.push((Lane::new(queues, MAX_WRITE as usize)?, uring, *core));
        }
        Ok(Self { lanes })
    }

    /// Starts the threads. The kernel sends requests when each has registered its entries.
    /// `broken` is called when a ring fails later: its core's programs would wait for ever.
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
        let helpers = Arc::new(Helpers::start(requests, helpers)?);
        let (mut threads, (begun, all_begun)) = (Vec::new(), channel());
        for (lane, uring, core) in self.lanes {
            let device: OwnedFd = device.as_fd().try_clone_to_owned()?;
            let (helpers, begun, broken) = (helpers.clone(), begun.clone(), broken.clone());
            let work = move || {
                pin(core);
                let running = ring::begin(uring, Arc::new(lane), device);
                let (running, outcome) = match running {
                    Ok(running) => (Some(running), Ok(())),
                    Err(e) => (None, Err(e)),
                };
                // Whoever started us waits until each has said so and let go.
                let _ = begun.send(outcome);
                drop(begun);
                let Some(running) = running else { return };
                let ended = Ended(broken);
                match ring::run(running, |slot| helpers.serve(slot)) {
                    Ok(()) => std::mem::forget(ended),
                    Err(e) => log::error!("the ring of core {core} failed, the mount ends: {e}"),
                }
            };
            threads.push(std::thread::Builder::new().name("kmsfs-ring".to_owned()).spawn(work)?);
        }
        drop(begun);
        all_begun.iter().collect::<io::Result<()>>()?;
        Ok(threads)
    }
}

/// Calls it where a ring's thread ends before the mount does, by a panic too.
struct Ended<F: Fn()>(F);

impl<F: Fn()> Drop for Ended<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// In a cpuset without this core the thread runs elsewhere, only slower.
fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    let _ = sched_setaffinity(None, &set);
}

fn queue(core: usize) -> io::Result<u16> {
    u16::try_from(core).map_err(|_| io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn lists_of_cores_are_read() {
        assert_eq!(numbers("0-3,8\n"), [0, 1, 2, 3, 8]);
        assert_eq!(numbers("0\n"), [0]);
        assert_eq!(numbers("\n"), [] as [usize; 0]);
    }
}
