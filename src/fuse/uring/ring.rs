//! The thread of a lane and its io_uring.
//!
//! Completions run on this thread alone, and only while it waits for them (DEFER_TASKRUN): so
//! between the commit of a reply and the next wait no request comes into an entry, but for one
//! that waited already and was announced with the commit itself.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use super::abi;
use super::lane::{Lane, Ready};
use super::slot::Slot;

/// `enum fuse_uring_cmd` of linux/fuse.h.
const REGISTER: u32 = 1;
const COMMIT_AND_FETCH: u32 = 2;
/// What is not an entry's index: the bell.
const BELL: u64 = u64::MAX;

type Uring = IoUring<squeue::Entry128, cqueue::Entry>;

/// A ring that can speak to FUSE, to be enabled by the one thread that will use it.
pub(super) fn build(entries: usize) -> io::Result<Uring> {
    // Room for every entry's command and the bell.
    let size = u32::try_from(entries + 1).unwrap_or(u32::MAX).next_power_of_two();
    let mut builder: io_uring::Builder<squeue::Entry128, cqueue::Entry> = IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun().setup_r_disabled().build(size)
}

/// A lane's ring, on its thread.
struct Ring {
    uring: Uring,
    lane: Arc<Lane>,
    device: OwnedFd,
    rung: Box<[u8; 8]>,
    /// Announced and not yet looked at.
    announced: Vec<(u64, i32)>,
}

thread_local! {
    static RING: RefCell<Option<Ring>> = const { RefCell::new(None) };
}

/// Sends the reply that lies in an entry; `len` bytes of its payload are content or names.
pub(super) fn commit(lane: &Arc<Lane>, index: usize, commit_id: u64, len: usize) {
    let ready = Ready { index, commit_id, len };
    RING.with_borrow_mut(|ring| match ring {
        Some(ring) if Arc::ptr_eq(&ring.lane, lane) => ring.commit(ready),
        _ => lane.put(ready),
    });
}

impl Ring {
    /// An entry's command. The second `struct iovec` of a registration goes where the library
    /// has no field for it: `len`, 24 bytes into `struct io_uring_sqe`.
    #[allow(unsafe_code)]
    fn command(&self, op: u32, index: usize, commit_id: u64) -> squeue::Entry128 {
        let command = abi::command(self.lane.queues[index], commit_id);
        let fd = types::Fd(self.device.as_raw_fd());
        let built = opcode::UringCmd80::new(fd, op).cmd(command);
        if op != REGISTER {
            return built.build().user_data(index as u64);
        }
        let place = self.lane.memory.place(index);
        let mut entry = built.addr(Some(place)).build().user_data(index as u64);
        // SAFETY: Entry128 is the kernel's structure of 128 bytes and nothing else; any four
        // bytes are a value of its field `len`.
        unsafe { std::ptr::from_mut(&mut entry).cast::<u8>().add(24).cast::<u32>().write(2) };
        entry
    }

    #[allow(unsafe_code)]
    fn push(&mut self, entry: &squeue::Entry128) {
        // SAFETY: what it points to (the lane's memory and places, the bell's number) lives as
        // long as the ring.
        let pushed = unsafe { self.uring.submission().push(entry) };
        pushed.expect("there is room for each entry's one command, and the bell");
    }

    fn submit(&self, wait: usize) -> io::Result<()> {
        loop {
            match self.uring.submit_and_wait(wait) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map(drop),
            }
        }
    }

    /// Moves what was announced out of the kernel's queue.
    fn collect(&mut self) {
        let Self { uring, announced, .. } = self;
        announced.extend(uring.completion().map(|c| (c.user_data(), c.result())));
    }

    /// The reply is with the program when this returns; what it said is wiped, unless the
    /// entry has its next request already.
    fn commit(&mut self, Ready { index, commit_id, len }: Ready) {
        let entry = self.command(COMMIT_AND_FETCH, index, commit_id);
        self.push(&entry);
        if let Err(e) = self.submit(0) {
            log::error!("a reply cannot be sent: {e}");
            return;
        }
        self.collect();
        if len > 0 && !self.announced.iter().any(|(data, _)| *data == index as u64) {
            self.lane.memory.forget(index, len);
        }
    }

    fn listen(&mut self) {
        let fd = types::Fd(self.lane.bell.as_raw_fd());
        let read = opcode::Read::new(fd, self.rung.as_mut_ptr(), 8).build().user_data(BELL);
        self.push(&read.into());
    }

    fn register(&mut self) -> io::Result<()> {
        self.uring.submitter().register_enable_rings()?;
        for index in 0..self.lane.memory.entries() {
            let entry = self.command(REGISTER, index, 0);
            self.push(&entry);
        }
        self.listen();
        self.submit(0)?;
        self.collect();
        match self.announced.iter().find(|(_, result)| *result < 0) {
            Some((_, e)) => Err(io::Error::from_raw_os_error(-e)),
            None => Ok(()),
        }
    }

    /// The next announcement, waited for.
    fn next(&mut self) -> io::Result<(u64, i32)> {
        while self.announced.is_empty() {
            self.submit(1)?;
            self.collect();
        }
        Ok(self.announced.remove(0))
    }

    fn answer_the_bell(&mut self) {
        let ready = self.lane.take();
        let count = ready.len();
        ready.into_iter().for_each(|r| self.commit(r));
        self.lane.note_sent(count);
        self.listen();
    }
}

/// Closes the lane also where its thread panics.
struct Ends(Arc<Lane>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A lane that this thread may serve.
pub(super) struct Running(Arc<Lane>, Ends);

/// Makes this thread the lane's, and registers its entries with the kernel.
pub(super) fn begin(uring: Uring, lane: Arc<Lane>, device: OwnedFd) -> io::Result<Running> {
    let ends = Ends(lane.clone());
    let (rung, announced) = (Box::new([0; 8]), Vec::new());
    let mut ring = Ring { uring, lane: lane.clone(), device, rung, announced };
    ring.register()?;
    RING.set(Some(ring));
    Ok(Running(lane, ends))
}

/// Serves a lane until the connection is gone: `serve` is given each request.
pub(super) fn run(Running(lane, _ends): Running, serve: impl Fn(Slot)) -> io::Result<()> {
    let outcome = loop {
        let next = RING.with_borrow_mut(|ring| ring.as_mut().map(Ring::next));
        match next.expect("set above, and taken only below") {
            Err(e) => break Err(e),
            Ok((BELL, _)) => RING.with_borrow_mut(|ring| {
                ring.as_mut().expect("set above").answer_the_bell();
            }),
            Ok((index, 0)) => {
                let index = usize::try_from(index).expect("an index, and no bell");
                serve(Slot::new(lane.clone(), index));
            }
            // Unmounted, or the connection was aborted.
            Ok((_, e)) if e == -libc::ENOTCONN || e == -libc::ECANCELED => break Ok(()),
            Ok((_, e)) => break Err(io::Error::from_raw_os_error(-e)),
        }
    };
    // Before the memory that it points into.
    drop(RING.take());
    outcome
}
