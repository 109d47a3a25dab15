//! Requests for content: reads and writes, and what carries their bytes.

use std::sync::Arc;

use super::job::{Answered, Job, Past, Progress, settle};
use super::reply::{Reply, Sent};
use super::shared::Shared;
use super::watch::Watch;
use crate::fs::{Errno, Fail, Fs, Outcome, Who, errno};
use crate::keys::Purpose;
use crate::secret::wipe;

/// Where a read's content goes. It is wiped when it has been sent.
pub(super) trait Sink: Send + Sized + 'static {
    /// Its reply.
    type Sent: Sent;
    /// Has `read` fill up to `size` bytes and replies with them; or gives itself back, with
    /// nothing sent, and why.
    fn fill(
        self,
        size: usize,
        read: impl FnOnce(&mut [u8]) -> Outcome<usize>,
    ) -> Result<Self::Sent, (Fail, Self)>;
    /// Replies with an errno.
    fn fail(self, errno: Errno) -> Self::Sent;
}

/// A read.
pub(super) struct Read<S> {
    pub(super) ino: u64,
    pub(super) offset: u64,
    pub(super) size: usize,
    pub(super) who: Who,
    pub(super) sink: S,
}

impl<S: Sink> Job for Read<S> {
    type Sent = S::Sent;

    fn purpose(&self) -> Option<Purpose> {
        Some(Purpose::Use)
    }

    fn who(&self) -> Who {
        self.who
    }

    fn run(self, fs: &Fs) -> Progress<Self> {
        let Self { ino, offset, size, who, sink } = self;
        match sink.fill(size, |out| fs.read(ino, offset, out)) {
            Ok(sent) => Progress::Replied(sent),
            Err((fail, sink)) => Progress::of(fail, Self { ino, offset, size, who, sink }),
        }
    }

    fn fail(self, errno: Errno) -> S::Sent {
        self.sink.fail(errno)
    }
}

/// Where a write's content comes from, and where its reply goes. The content is wiped by then.
pub(super) trait Source: Send + Sized + 'static {
    /// Its reply.
    type Sent: Sent;
    /// The content.
    fn data(&self) -> &[u8];
    /// How much of it is kept beside the request's own buffer.
    fn weight(&self) -> usize {
        0
    }
    /// Replies how much was written, or an errno.
    fn reply(self, outcome: Result<u32, Errno>) -> Self::Sent;
}

/// Content in memory of its own.
pub(super) struct Copied<R> {
    pub(super) data: Vec<u8>,
    pub(super) reply: R,
}

impl<R: Reply<u32>> Source for Copied<R> {
    type Sent = R::Sent;

    fn data(&self) -> &[u8] {
        &self.data
    }

    fn weight(&self) -> usize {
        self.data.len()
    }

    fn reply(mut self, outcome: Result<u32, Errno>) -> R::Sent {
        wipe(&mut self.data);
        self.reply.send(outcome)
    }
}

/// A write.
pub(super) struct Write<S> {
    pub(super) ino: u64,
    pub(super) offset: u64,
    pub(super) who: Who,
    pub(super) purpose: Purpose,
    pub(super) kill: Kill,
    pub(super) watch: Option<Watch>,
    pub(super) source: S,
}

/// Whether a write drops set-id bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kill {
    /// It does: the writer lacks the privilege.
    SetIds,
    /// It does not.
    Nothing,
}

/// Runs a write from memory that is somebody else's; it is copied only where it has to wait.
pub(super) fn write<'a, R: Reply<u32>>(
    shared: &'a Arc<Shared>,
    mut job: Write<Copied<R>>,
    data: &[u8],
) -> Option<Answered<'a, R::Sent>> {
    let fs = &shared.fs;
    let (progress, pass) = match fs.enter(job.purpose) {
        Ok(pass) => {
            let outcome = job.once(fs, data);
            (job.progress(outcome), Some(pass))
        }
        Err(fail) => {
            job.gather();
            (Progress::of(fail, job), None)
        }
    };
    let keep = |mut job: Write<Copied<R>>| {
        job.source.data = data.to_vec();
        job
    };
    let progress = match progress {
        Progress::Wants(want, job) => Progress::Wants(want, keep(job)),
        Progress::Unfinished(job) => Progress::Unfinished(keep(job)),
        replied => replied,
    };
    settle(shared, progress, pass, Past::NONE)
}

impl<S: Source> Write<S> {
    fn once(&self, fs: &Fs, data: &[u8]) -> Outcome<u32> {
        match self.purpose {
            Purpose::Use => fs.act_for(self.who)?,
            Purpose::Save => fs.act_for_owner(self.ino)?,
        }
        fs.write(self.ino, self.offset, data)?;
        if self.kill == Kill::SetIds {
            fs.drop_set_ids(self.ino, self.who)?;
        }
        u32::try_from(data.len()).map_err(|_| errno(libc::EINVAL))
    }

    fn progress(mut self, outcome: Outcome<u32>) -> Progress<Self> {
        match outcome {
            Ok(n) => {
                if let Some(watch) = &self.watch {
                    watch.tell(Ok(()));
                }
                Progress::Replied(self.source.reply(Ok(n)))
            }
            Err(fail) => {
                if let (Fail::Errno(errno), Some(watch)) = (fail, &mut self.watch) {
                    watch.gather_for(errno);
                }
                Progress::of(fail, self)
            }
        }
    }
}

impl<S: Source> Job for Write<S> {
    type Sent = S::Sent;

    fn purpose(&self) -> Option<Purpose> {
        Some(self.purpose)
    }

    fn who(&self) -> Who {
        self.who
    }

    fn weight(&self) -> usize {
        self.source.weight()
    }

    fn run(self, fs: &Fs) -> Progress<Self> {
        let outcome = self.once(fs, self.source.data());
        self.progress(outcome)
    }

    fn gather(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.gather();
        }
    }

    fn fail(self, errno: Errno) -> S::Sent {
        if let Some(watch) = &self.watch {
            watch.tell(Err(errno));
        }
        self.source.reply(Err(errno))
    }
}
