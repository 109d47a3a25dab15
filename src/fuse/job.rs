//! Running a request, and parking it with its reply while its key is fetched.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fuser::{ReplyData, ReplyWrite};

use super::watch::Watch;
use crate::fs::{Errno, Fail, Fs, Outcome, errno};
use crate::keys::audit::Trail;
use crate::keys::{KeyFail, Purpose, Want};
use crate::secret::{scrub_stack, wipe};

/// Parked requests, at most.
const MOST_PARKED: usize = 256;
/// Their data, at most.
const MOST_BYTES: usize = 64 << 20;
/// A request that finds another key missing each time it is run again is given up.
const MOST_RUNS: u32 = 16;

/// What the workers and the parked requests share.
pub struct Shared {
    /// The filesystem.
    pub fs: Fs,
    /// Where uses of keys are told, if anywhere.
    pub trail: Option<Arc<Trail>>,
    parked: AtomicUsize,
    parked_bytes: AtomicUsize,
}

impl Shared {
    /// Nothing parked yet.
    pub fn new(fs: Fs, trail: Option<Arc<Trail>>) -> Arc<Self> {
        let none = || AtomicUsize::new(0);
        Arc::new(Self { fs, trail, parked: none(), parked_bytes: none() })
    }

    /// How many requests are parked.
    pub fn parked(&self) -> usize {
        self.parked.load(Ordering::Relaxed)
    }
}

/// A request in an owned form, with its reply.
pub(super) trait Job: Send + Sized + 'static {
    /// What it wants of the gate.
    fn purpose(&self) -> Purpose;
    /// How many bytes it keeps while it is parked.
    fn weight(&self) -> usize {
        0
    }
    /// Runs it and replies; or gives itself back, with nothing done, and what it waits for.
    fn run(self, fs: &Fs) -> Option<(Want, Self)>;
    /// Replies with an errno.
    fn fail(self, errno: Errno);
}

/// Runs a job now, or parks it.
pub(super) fn go<J: Job>(shared: &Arc<Shared>, job: J) {
    attempt(shared, job, 0);
}

fn attempt<J: Job>(shared: &Arc<Shared>, job: J, runs: u32) {
    let parked = run(shared, job);
    // Names and blocks of plaintext that ciphers worked on.
    scrub_stack();
    if let Some((want, job)) = parked {
        park(shared, want, job, runs);
    }
}

fn run<J: Job>(shared: &Shared, job: J) -> Option<(Want, J)> {
    match shared.fs.enter(job.purpose()) {
        // The pass is held until the reply is sent.
        Ok(_pass) => job.run(&shared.fs),
        Err(Fail::Park(want)) => Some((want, job)),
        Err(Fail::Errno(e)) => {
            job.fail(e);
            None
        }
    }
}

/// Parks a job that wants a key.
pub(super) fn park<J: Job>(shared: &Arc<Shared>, want: Want, job: J, runs: u32) {
    let weight = job.weight();
    let count = shared.parked.fetch_add(1, Ordering::Relaxed);
    let bytes = shared.parked_bytes.fetch_add(weight, Ordering::Relaxed);
    let unpark = {
        let shared = shared.clone();
        move || {
            shared.parked.fetch_sub(1, Ordering::Relaxed);
            shared.parked_bytes.fetch_sub(weight, Ordering::Relaxed);
        }
    };
    if count >= MOST_PARKED || bytes + weight > MOST_BYTES || runs >= MOST_RUNS {
        unpark();
        return job.fail(Errno(libc::EKEYEXPIRED));
    }
    let again = shared.clone();
    let wake = move |outcome: Result<(), KeyFail>| {
        unpark();
        match outcome {
            Ok(()) => attempt(&again, job, runs + 1),
            Err(fail) => match Fail::from(fail) {
                Fail::Errno(e) => job.fail(e),
                Fail::Park(_) => job.fail(Errno(libc::EIO)),
            },
        }
    };
    shared.fs.keyring().want(want, Box::new(wake));
}

/// A job of an operation and a reply.
pub(super) struct Simple<F, R> {
    pub(super) op: F,
    pub(super) reply: R,
    pub(super) purpose: Purpose,
}

impl<A, F, R> Job for Simple<F, R>
where
    F: Fn(&Fs) -> Outcome<A> + Send + 'static,
    R: FnOnce(Result<A, Errno>) + Send + 'static,
{
    fn purpose(&self) -> Purpose {
        self.purpose
    }

    fn run(self, fs: &Fs) -> Option<(Want, Self)> {
        match (self.op)(fs) {
            Ok(answer) => (self.reply)(Ok(answer)),
            Err(Fail::Errno(e)) => (self.reply)(Err(e)),
            Err(Fail::Park(want)) => return Some((want, self)),
        }
        None
    }

    fn fail(self, errno: Errno) {
        (self.reply)(Err(errno));
    }
}

thread_local! {
    /// Plaintext on its way to the kernel; wiped after each reply.
    static OUT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A read.
pub(super) struct Read {
    pub(super) ino: u64,
    pub(super) offset: u64,
    pub(super) size: usize,
    pub(super) reply: ReplyData,
}

impl Job for Read {
    fn purpose(&self) -> Purpose {
        Purpose::Use
    }

    fn run(self, fs: &Fs) -> Option<(Want, Self)> {
        OUT.with_borrow_mut(|out| {
            if out.len() < self.size {
                out.resize(self.size, 0);
            }
            let out = &mut out[..self.size];
            match fs.read(self.ino, self.offset, out) {
                Ok(n) => {
                    self.reply.data(&out[..n]);
                    wipe(&mut out[..n]);
                }
                Err(Fail::Park(want)) => return Some((want, self)),
                Err(Fail::Errno(e)) => {
                    wipe(out);
                    self.fail(e);
                }
            }
            None
        })
    }

    fn fail(self, errno: Errno) {
        self.reply.error(fuser::Errno::from_i32(errno.0));
    }
}

/// A write.
pub(super) struct Write {
    pub(super) ino: u64,
    pub(super) offset: u64,
    /// Empty while it lies in the request's own buffer.
    pub(super) data: Vec<u8>,
    pub(super) purpose: Purpose,
    pub(super) kill: Kill,
    pub(super) watch: Option<Watch>,
    pub(super) reply: ReplyWrite,
}

/// Whether a write drops suid and sgid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kill {
    /// It does: the writer lacks the privilege.
    Privileges,
    /// It does not.
    Nothing,
}

/// Runs a write from the request's buffer; it is copied only where it has to wait.
pub(super) fn write(shared: &Arc<Shared>, job: Write, data: &[u8]) {
    let fs = &shared.fs;
    let want = match fs.enter(job.purpose) {
        Ok(_pass) => {
            let outcome = write_once(fs, job.ino, job.offset, data, job.kill);
            job.answer(outcome)
        }
        Err(fail) => job.answer(Err(fail)),
    };
    if let Some((want, job)) = want {
        park(shared, want, Write { data: data.to_vec(), ..job }, 0);
    }
    scrub_stack();
}

/// One write, from whatever holds the data.
fn write_once(fs: &Fs, ino: u64, offset: u64, data: &[u8], kill: Kill) -> Outcome<u32> {
    fs.write(ino, offset, data)?;
    if kill == Kill::Privileges {
        fs.kill_privileges(ino)?;
    }
    u32::try_from(data.len()).map_err(|_| errno(libc::EINVAL))
}

impl Write {
    fn answer(mut self, outcome: Outcome<u32>) -> Option<(Want, Self)> {
        match outcome {
            Ok(n) => {
                wipe(&mut self.data);
                if let Some(watch) = &self.watch {
                    watch.tell(Ok(()));
                }
                self.reply.written(n);
            }
            Err(Fail::Park(want)) => return Some((want, self)),
            Err(Fail::Errno(e)) => self.fail(e),
        }
        None
    }
}

impl Job for Write {
    fn purpose(&self) -> Purpose {
        self.purpose
    }

    fn weight(&self) -> usize {
        self.data.len()
    }

    fn run(self, fs: &Fs) -> Option<(Want, Self)> {
        let outcome = write_once(fs, self.ino, self.offset, &self.data, self.kill);
        self.answer(outcome)
    }

    fn fail(mut self, errno: Errno) {
        wipe(&mut self.data);
        if let Some(watch) = &self.watch {
            watch.tell(Err(errno));
        }
        self.reply.error(fuser::Errno::from_i32(errno.0));
    }
}
