//! Running a request, and parking it with its reply while its key is fetched.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::terms::Reply;
use super::watch::Watch;
use crate::fs::{Errno, Fail, Fs, Outcome, errno};
use crate::keys::audit::Trail;
use crate::keys::{KeyFail, Purpose, Want};
use crate::secret::{scrub_stack, wipe};

/// Parked requests, at most.
pub(super) const MOST_PARKED: usize = 256;
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

/// Where a read's content goes. It is wiped when it has been sent.
pub(super) trait Sink: Send + Sized + 'static {
    /// Has `read` fill up to `size` bytes and replies with them; or gives itself back, with
    /// nothing sent, and why.
    fn fill(
        self,
        size: usize,
        read: impl FnOnce(&mut [u8]) -> Outcome<usize>,
    ) -> Result<(), (Fail, Self)>;
    /// Replies with an errno.
    fn fail(self, errno: Errno);
}

/// A read.
pub(super) struct Read<S> {
    pub(super) ino: u64,
    pub(super) offset: u64,
    pub(super) size: usize,
    pub(super) sink: S,
}

impl<S: Sink> Job for Read<S> {
    fn purpose(&self) -> Purpose {
        Purpose::Use
    }

    fn run(self, fs: &Fs) -> Option<(Want, Self)> {
        let Self { ino, offset, size, sink } = self;
        match sink.fill(size, |out| fs.read(ino, offset, out)) {
            Ok(()) => None,
            Err((Fail::Park(want), sink)) => Some((want, Self { ino, offset, size, sink })),
            Err((Fail::Errno(e), sink)) => {
                sink.fail(e);
                None
            }
        }
    }

    fn fail(self, errno: Errno) {
        self.sink.fail(errno);
    }
}

/// Where a write's content comes from, and who is told of its end. It is wiped by then.
pub(super) trait Source: Send + Sized + 'static {
    /// The content.
    fn data(&self) -> &[u8];
    /// How much of it is kept beside the request's own buffer.
    fn weight(&self) -> usize {
        0
    }
    /// Replies how much was written, or an errno.
    fn reply(self, outcome: Result<u32, Errno>);
}

/// Content in memory of its own.
pub(super) struct Copied<R> {
    pub(super) data: Vec<u8>,
    pub(super) reply: R,
}

impl<R: Reply<u32>> Source for Copied<R> {
    fn data(&self) -> &[u8] {
        &self.data
    }

    fn weight(&self) -> usize {
        self.data.len()
    }

    fn reply(mut self, outcome: Result<u32, Errno>) {
        wipe(&mut self.data);
        (self.reply)(outcome);
    }
}

/// A write.
pub(super) struct Write<S> {
    pub(super) ino: u64,
    pub(super) offset: u64,
    pub(super) purpose: Purpose,
    pub(super) kill: Kill,
    pub(super) watch: Option<Watch>,
    pub(super) source: S,
}

/// Whether a write drops suid and sgid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kill {
    /// It does: the writer lacks the privilege.
    Privileges,
    /// It does not.
    Nothing,
}

/// Runs a write from memory that is somebody else's; it is copied only where it has to wait.
pub(super) fn write<R: Reply<u32>>(shared: &Arc<Shared>, job: Write<Copied<R>>, data: &[u8]) {
    let fs = &shared.fs;
    let parked = match fs.enter(job.purpose) {
        // The pass is held until the reply is sent.
        Ok(_pass) => {
            let outcome = job.once(fs, data);
            job.answer(outcome)
        }
        Err(fail) => job.answer(Err(fail)),
    };
    if let Some((want, mut job)) = parked {
        job.source.data = data.to_vec();
        park(shared, want, job, 0);
    }
    scrub_stack();
}

impl<S: Source> Write<S> {
    fn once(&self, fs: &Fs, data: &[u8]) -> Outcome<u32> {
        fs.write(self.ino, self.offset, data)?;
        if self.kill == Kill::Privileges {
            fs.kill_privileges(self.ino)?;
        }
        u32::try_from(data.len()).map_err(|_| errno(libc::EINVAL))
    }

    fn answer(self, outcome: Outcome<u32>) -> Option<(Want, Self)> {
        match outcome {
            Ok(n) => self.end(Ok(n)),
            Err(Fail::Park(want)) => return Some((want, self)),
            Err(Fail::Errno(e)) => self.end(Err(e)),
        }
        None
    }

    fn end(self, outcome: Result<u32, Errno>) {
        if let Some(watch) = &self.watch {
            watch.tell(outcome.map(drop));
        }
        self.source.reply(outcome);
    }
}

impl<S: Source> Job for Write<S> {
    fn purpose(&self) -> Purpose {
        self.purpose
    }

    fn weight(&self) -> usize {
        self.source.weight()
    }

    fn run(self, fs: &Fs) -> Option<(Want, Self)> {
        let outcome = self.once(fs, self.source.data());
        self.answer(outcome)
    }

    fn fail(self, errno: Errno) {
        self.end(Err(errno));
    }
}
