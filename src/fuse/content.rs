//! Requests for content: reads and writes, and what carries their bytes.

use std::sync::Arc;

use super::job::{Answered, Arrived, Job, Past, Progress, settle};
use super::reply::{Reply, Sent};
use super::shared::Shared;
use super::terms::PageCache;
use super::watch::Watch;
use crate::fs::{Errno, Fail, Outcome, SyncWhat, Who, errno};
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

    fn run(self, shared: &Shared) -> Progress<Self> {
        let Self { ino, offset, size, who, sink } = self;
        let read = |out: &mut [u8]| shared.fs.read(ino, offset, out);
        let counted = |n: &usize| shared.counted.read.add(*n as u64);
        match sink.fill(size, |out| read(out).inspect(counted)) {
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
    pub(super) kill: Kill,
    pub(super) stage: Stage,
    pub(super) watch: Option<Watch>,
    pub(super) source: S,
}

/// How far a write is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// To be done for this purpose, and synced then if a program asked for that with open(2).
    Writing(Purpose, Option<SyncWhat>),
    /// So many bytes are written, and synced before the program is told. No pass of the gate is
    /// held meanwhile: a disk may take long.
    Syncing(SyncWhat, u32),
}

/// Whether a write drops set-id bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kill {
    /// It does: the writer lacks the privilege.
    SetIds,
    /// It does not.
    Nothing,
}

/// What a WRITE request says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WriteWords {
    /// `FUSE_WRITE_*` of linux/fuse.h.
    pub(super) request: u32,
    /// Those of open(2).
    pub(super) open: i32,
}

impl WriteWords {
    /// FUSE_WRITE_CACHE: pages that the kernel saves, and no write of a program's.
    pub(super) const CACHE: u32 = 1 << 0;
    const KILL_SUIDGID: u32 = 1 << 2;

    /// What it is to do.
    pub(super) fn meaning(self, cache: PageCache) -> (Stage, Kill) {
        let has = |flag| self.request & flag != 0;
        let kill = if has(Self::KILL_SUIDGID) { Kill::SetIds } else { Kill::Nothing };
        if has(Self::CACHE) {
            return (Stage::Writing(Purpose::Save, None), kill);
        }
        // Where there is a page cache, the kernel asks for an fsync after the write.
        let sync = match cache {
            PageCache::Direct if self.open & libc::O_SYNC == libc::O_SYNC => Some(SyncWhat::All),
            PageCache::Direct if self.open & libc::O_DSYNC != 0 => Some(SyncWhat::Data),
            _ => None,
        };
        (Stage::Writing(Purpose::Use, sync), kill)
    }
}

/// Runs a write from memory that is somebody else's; it is copied only where it has to wait.
pub(super) fn write<'a, R: Reply<u32>>(
    shared: &'a Arc<Shared>,
    mut job: Write<Copied<R>>,
    data: &[u8],
    arrived: Arrived,
) -> Option<Answered<'a, R::Sent>> {
    let fs = &shared.fs;
    let (progress, pass) = match job.purpose().map(|purpose| fs.enter(purpose)).transpose() {
        Ok(pass) => {
            let outcome = job.once(shared, data);
            (job.progress(outcome), pass)
        }
        Err(fail) => {
            job.gather();
            (Progress::of(fail, job), None)
        }
    };
    let keep = |mut job: Write<Copied<R>>| {
        if matches!(job.stage, Stage::Writing(..)) {
            job.source.data = data.to_vec();
        }
        job
    };
    let progress = match progress {
        Progress::Wants(want, job) => Progress::Wants(want, keep(job)),
        Progress::Unfinished(job) => Progress::Unfinished(keep(job)),
        replied => replied,
    };
    settle(shared, progress, pass, Past::of(arrived))
}

impl<S: Source> Write<S> {
    /// Does what its stage is; answers how many bytes are written, and what is to be synced yet.
    fn once(&self, shared: &Shared, data: &[u8]) -> Outcome<(u32, Option<SyncWhat>)> {
        let fs = &shared.fs;
        let (purpose, sync) = match self.stage {
            Stage::Writing(purpose, sync) => (purpose, sync),
            Stage::Syncing(what, written) => {
                fs.fsync(self.ino, what)?;
                return Ok((written, None));
            }
        };
        match purpose {
            Purpose::Use => fs.act_for(self.who)?,
            Purpose::Save => fs.act_for_owner(self.ino)?,
        }
        fs.write(self.ino, self.offset, data)?;
        shared.counted.written.add(data.len() as u64);
        if self.kill == Kill::SetIds {
            fs.drop_set_ids(self.ino, self.who)?;
        }
        Ok((u32::try_from(data.len()).map_err(|_| errno(libc::EINVAL))?, sync))
    }

    fn progress(mut self, outcome: Outcome<(u32, Option<SyncWhat>)>) -> Progress<Self> {
        match outcome {
            Ok((written, Some(what))) => {
                self.stage = Stage::Syncing(what, written);
                Progress::Unfinished(self)
            }
            Ok((n, None)) => {
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
        match self.stage {
            Stage::Writing(purpose, _) => Some(purpose),
            Stage::Syncing(..) => None,
        }
    }

    fn who(&self) -> Who {
        self.who
    }

    fn weight(&self) -> usize {
        self.source.weight()
    }

    fn run(self, shared: &Shared) -> Progress<Self> {
        let outcome = self.once(shared, self.source.data());
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
