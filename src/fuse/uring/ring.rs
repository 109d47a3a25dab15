//! A thread's io_uring, and the entries whose commands lie in it.
//!
//! Completions run on this thread alone, and only in its system calls (DEFER_TASKRUN): a request
//! comes into an entry while its last reply is committed, or in a later call.
//!
//! An entry's next request comes to the ring that its last reply was committed with. A lane's
//! thread commits its lane's; a bulk worker those of every lane.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue, types};

use super::abi;
use super::bell::Bell;
use super::lane::{EntryId, Lane, Lanes, PendingReply};
use super::slot::{RingReply, Slot};

/// `enum fuse_uring_cmd` of linux/fuse.h.
const REGISTER: u32 = 1;
const COMMIT_AND_FETCH: u32 = 2;
/// What names no entry: the bell.
const BELL: u64 = u64::MAX;

/// A ring whose commands have room for what FUSE wants to be told.
pub(super) type Uring = IoUring<squeue::Entry128, cqueue::Entry>;

/// A ring that can speak to FUSE, to be enabled by the one thread that will use it. `entries`
/// is how many commands can wait to be submitted at once.
pub(super) fn build(entries: usize) -> io::Result<Uring> {
    let size = u32::try_from(entries).unwrap_or(u32::MAX).next_power_of_two();
    let mut builder: io_uring::Builder<squeue::Entry128, cqueue::Entry> = IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun().setup_r_disabled().build(size)
}

/// Whose entries a ring's thread commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Serves {
    Lane(u16),
    Every,
}

/// How long to wait for an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    Never,
    Forever,
}

/// What a ring's thread is told.
pub(super) enum Event {
    /// Somebody has something for it.
    Bell,
    Request(Slot),
    /// Unmounted, or the connection was aborted.
    Gone,
}

/// What a thread needs to have a ring.
pub(super) struct Parts {
    pub(super) uring: Uring,
    pub(super) serves: Serves,
    pub(super) bell: Arc<Bell>,
    pub(super) lanes: Lanes,
    pub(super) device: OwnedFd,
}

/// A ring, on the one thread that may use it. Dropping it ends it.
pub(super) struct Ring {
    parts: Parts,
    rung: Box<[u8; 8]>,
    /// Announced and not yet looked at.
    announced: VecDeque<(u64, i32)>,
}

impl Ring {
    /// Gives this thread a ring, and registers the entries of the lane that it serves.
    pub(super) fn new(parts: Parts) -> io::Result<Self> {
        let serves = parts.serves;
        let mut ring = Self { parts, rung: Box::new([0; 8]), announced: VecDeque::new() };
        ring.parts.uring.submitter().register_enable_rings()?;
        // Best effort: the kernel then need not look the descriptor up each time.
        let _ = ring.parts.uring.submitter().register_ring_fd();
        if let Serves::Lane(number) = serves {
            ring.register(number)?;
        }
        ring.listen();
        Ok(ring)
    }

    /// What this thread is told next, or `None` where there is nothing and it is not to wait.
    pub(super) fn next(&mut self, wait: Wait) -> io::Result<Option<Event>> {
        loop {
            match self.next_event(wait)? {
                None if wait == Wait::Forever => {}
                event => return Ok(event),
            }
        }
    }

    /// The request in an entry that is the caller's, for it was announced here or forwarded.
    pub(super) fn slot(&self, id: EntryId) -> Slot {
        Slot::new(self.lane(id).clone(), id)
    }

    /// Sends a reply: it is with the program when this returns. One of a lane that this ring does
    /// not serve is left to that lane's thread, which is not waited for.
    pub(super) fn commit(&mut self, reply: RingReply) {
        if self.serves(reply.lane()) {
            let (lane, pending) = reply.into_parts();
            self.commit_entry(&lane, pending);
        }
    }

    /// Sends a reply that was left in the mailbox of a lane that this ring serves.
    pub(super) fn commit_posted(&mut self, lane: &Lane, reply: PendingReply) {
        self.commit_entry(lane, reply);
    }
    fn serves(&self, lane: &Lane) -> bool {
        match self.parts.serves {
            Serves::Lane(number) => number == lane.number,
            Serves::Every => true,
        }
    }

    fn lane(&self, entry: EntryId) -> &Arc<Lane> {
        &self.parts.lanes[usize::from(entry.lane)]
    }

    /// An entry's command. The second `struct iovec` of a registration goes where the library
    /// has no field for it: `len`, 24 bytes into `struct io_uring_sqe`.
    #[allow(unsafe_code)]
    fn command(&self, op: u32, id: EntryId, commit_id: u64) -> squeue::Entry128 {
        let (lane, index) = (self.lane(id), id.index());
        let command = abi::command(lane.queues[index], commit_id);
        let fd = types::Fd(self.parts.device.as_raw_fd());
        let built = opcode::UringCmd80::new(fd, op).cmd(command);
        if op != REGISTER {
            return built.build().user_data(id.data());
        }
        let at = lane.memory.iovecs(index);
        let mut entry = built.addr(Some(at)).build().user_data(id.data());
        // SAFETY: Entry128 is the kernel's structure of 128 bytes and nothing else; any four
        // bytes are a value of its field `len`.
        unsafe { std::ptr::from_mut(&mut entry).cast::<u8>().add(24).cast::<u32>().write(2) };
        entry
    }

    #[allow(unsafe_code)]
    fn push(&mut self, entry: &squeue::Entry128) {
        // SAFETY: what it points to (the lanes' memory and places, the bell's number) lives as
        // long as the ring.
        let pushed = unsafe { self.parts.uring.submission().push(entry) };
        pushed.expect("each is submitted at once, and registrations find room for all");
    }

    /// Submits what was pushed; looks at completions where it waits for one.
    fn submit(&mut self, wait: Option<Wait>) -> io::Result<()> {
        let mut waits = EnterFlags::GETEVENTS;
        // Else a core whose thread waits for requests would count as waiting for a disk.
        if self.parts.uring.params().is_feature_no_iowait() {
            waits |= EnterFlags::NO_IOWAIT;
        }
        loop {
            let outcome = match wait {
                None => self.parts.uring.submit(),
                // A wait with a timeout of zero would arm a timer, which costs more.
                Some(Wait::Never) => self.enter(0, EnterFlags::GETEVENTS),
                Some(Wait::Forever) => self.enter(1, waits),
            };
            match outcome {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map(drop),
            }
        }
    }

    /// Submits, has completions that are due run, and waits until there are so many.
    #[allow(unsafe_code)]
    fn enter(&mut self, wanted: u32, flags: EnterFlags) -> io::Result<usize> {
        let pushed = u32::try_from(self.parts.uring.submission().len()).unwrap_or(u32::MAX);
        // SAFETY: no argument structure is given, so none has to be valid.
        unsafe { self.parts.uring.submitter().enter::<()>(pushed, wanted, flags.bits(), None) }
    }

    /// Moves what was announced out of the kernel's queue.
    fn collect(&mut self) {
        let Self { parts, announced, .. } = self;
        announced.extend(parts.uring.completion().map(|c| (c.user_data(), c.result())));
    }

    /// What a reply said is wiped when it was sent, unless its entry has the next request already.
    fn commit_entry(&mut self, lane: &Lane, PendingReply { entry: id, commit_id }: PendingReply) {
        let entry = self.command(COMMIT_AND_FETCH, id, commit_id);
        self.push(&entry);
        if let Err(e) = self.submit(None) {
            log::error!("cannot send a reply: {e}");
            return;
        }
        lane.memory.wipe_unless_asked(id.index());
        self.collect();
    }

    fn listen(&mut self) {
        let read = opcode::Read::new(self.parts.bell.fd(), self.rung.as_mut_ptr(), 8);
        self.push(&read.build().user_data(BELL).into());
    }

    /// Registers the entries of a lane with the kernel.
    fn register(&mut self, lane: u16) -> io::Result<()> {
        let entries = self.parts.lanes[usize::from(lane)].memory.entries();
        for index in 0..u32::try_from(entries).unwrap_or(u32::MAX) {
            let entry = self.command(REGISTER, EntryId { lane, index }, 0);
            self.push(&entry);
        }
        self.submit(None)?;
        self.collect();
        match self.announced.iter().find(|(_, result)| *result < 0) {
            Some((_, e)) => Err(io::Error::from_raw_os_error(-e)),
            None => Ok(()),
        }
    }

    fn next_event(&mut self, wait: Wait) -> io::Result<Option<Event>> {
        if self.announced.is_empty() {
            self.submit(Some(wait))?;
            self.collect();
        }
        match self.announced.pop_front() {
            None => Ok(None),
            Some((BELL, _)) => {
                self.listen();
                Ok(Some(Event::Bell))
            }
            Some((data, 0)) => Ok(Some(Event::Request(self.slot(EntryId::of(data))))),
            Some((_, e)) if e == -libc::ENOTCONN || e == -libc::ECANCELED => Ok(Some(Event::Gone)),
            Some((_, e)) => Err(io::Error::from_raw_os_error(-e)),
        }
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::super::mailbox::Wake;
    use super::super::tests::{asked, lane, reply};
    use super::*;

    /// A ring that serves the first of two lanes, on a device that does nothing with a command;
    /// `None` where io_uring is not to be had.
    fn ring() -> Option<Ring> {
        let Ok(uring) = build(8) else {
            eprintln!("SKIPPED: io_uring (this machine has none)");
            return None;
        };
        uring.submitter().register_enable_rings().expect("it was disabled");
        let lanes: Lanes = [lane(0), lane(1)].into();
        let device = std::fs::File::open("/dev/null").expect("there").into();
        let parts = Parts { uring, serves: Serves::Lane(0), bell: lanes[0].bell(), lanes, device };
        let mut ring = Ring { parts, rung: Box::new([0; 8]), announced: VecDeque::new() };
        ring.listen();
        Some(ring)
    }

    #[test]
    fn a_bell_wakes_a_ring_again_and_again() {
        let Some(mut ring) = ring() else { return };
        for _ in 0..3 {
            let bell = ring.parts.bell.clone();
            let rings = std::thread::spawn(move || bell.wake());
            assert!(matches!(ring.next(Wait::Forever), Ok(Some(Event::Bell))));
            rings.join().expect("it does not panic");
            assert!(matches!(ring.next(Wait::Never), Ok(None)));
        }
    }

    #[test]
    fn a_ring_commits_its_own_lanes_replies_and_leaves_others_to_their_threads() {
        let Some(mut ring) = ring() else { return };
        let [own, other] = [0, 1].map(|n: usize| ring.parts.lanes[n].clone());
        ring.commit(reply(asked(&other, 0, b"")));
        assert_eq!(other.mailbox.take().0.len(), 1);
        assert!(matches!(ring.next(Wait::Never), Ok(None)), "no command was made");
        ring.commit(reply(asked(&own, 2, b"")));
        assert!(own.mailbox.take().0.is_empty());
        assert!(own.memory.payload(2).iter().all(|b| *b == 0), "wiped when it was sent");
        let answered = ring.next(Wait::Never);
        assert!(!matches!(answered, Ok(None)), "a command was made");
    }
}
