//! Going over the sidecar pages until nothing is under another master key.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::way::Target;
use super::{Done, Left, Order, Rewrap, RewrapError};
use crate::content::check;
use crate::ids::{FileId, PageId};
use crate::keys::Rate;
use crate::kms::{Context, KeyArn, KmsError, Verdict};
use crate::store::{Line, WrapKind};

/// Pages are written side by side even where calls are computed here: each waits for the disk.
const FEWEST_THREADS: usize = 4;
/// A pass only finds what came while the one before went on: it is a matter of two or three.
const MOST_PASSES: usize = 16;

/// What one pass shares between its threads.
struct Pass<'a> {
    rewrap: &'a Rewrap,
    rate: &'a Rate,
    progress: &'a (dyn Fn(u64) + Sync),
    to: Target,
    rewrapped: AtomicU64,
    left: Mutex<Vec<Left>>,
    /// Master keys that the KMS refused, and how it did at first: each is asked for once.
    refused: Mutex<(HashSet<KeyArn>, Option<KmsError>)>,
    stopped: AtomicBool,
}

impl Rewrap {
    /// Passes over all pages until one finds nothing to do.
    pub(super) fn passes(&self, progress: &(dyn Fn(u64) + Sync)) -> Result<Done, RewrapError> {
        let rate = Rate::new(self.way.fair_rate());
        let mut rewrapped = 0;
        for _ in 0..MOST_PASSES {
            if self.order() == Order::VolumeFirst {
                let now = self.store.read_volume()?.wrap.master;
                if now != self.target {
                    return Err(RewrapError::Overtaken(now));
                }
            }
            let pass = Pass {
                rewrap: self,
                rate: &rate,
                progress,
                to: Target::Known(self.target.clone()),
                rewrapped: AtomicU64::new(0),
                left: Mutex::default(),
                refused: Mutex::default(),
                stopped: AtomicBool::new(false),
            };
            pass.run()?;
            let found = pass.rewrapped.into_inner();
            rewrapped += found;
            if found == 0 {
                let refused = pass.refused.into_inner().1;
                return Ok(Done { rewrapped, left: pass.left.into_inner(), refused });
            }
        }
        Err(RewrapError::Endless)
    }
}

impl Pass<'_> {
    fn run(&self) -> Result<(), RewrapError> {
        let shards = Mutex::new(0..=u8::MAX);
        let pages = Mutex::new(Vec::new());
        let next = || -> Result<Option<PageId>, RewrapError> {
            let mut pages = pages.lock();
            while pages.is_empty() {
                let Some(shard) = shards.lock().next() else { return Ok(None) };
                *pages = self.rewrap.store.pages(shard)?;
            }
            Ok(pages.pop())
        };
        let work = || {
            let done = (|| {
                while !self.stopped.load(Ordering::Relaxed)
                    && let Some(page) = next()?
                {
                    self.page(page)?;
                }
                Ok(())
            })();
            if done.is_err() {
                self.stopped.store(true, Ordering::Relaxed);
            }
            done
        };
        let threads = self.rewrap.way.parallelism().max(FEWEST_THREADS);
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            others.into_iter().fold(work(), |first, other| {
                first.and(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            })
        })
    }

    /// The calls are made with no lock held, for they take as long as the network does; then
    /// each line is replaced if it still is what was read. One that was removed meanwhile stays
    /// removed.
    fn page(&self, page: PageId) -> Result<(), RewrapError> {
        let Some(read) = self.rewrap.store.read_page(page)? else { return Ok(()) };
        let mut changes = Vec::new();
        let mut failed = Ok(());
        for old in read.readable() {
            if self.stopped.load(Ordering::Relaxed) {
                break;
            }
            match self.line(FileId::new(page, old.slot), &old) {
                Ok(Some(new)) => changes.push((old, new)),
                Ok(None) => {}
                Err(e) => {
                    failed = Err(e);
                    break;
                }
            }
        }
        // What was paid for is kept, also when a later call failed.
        if !changes.is_empty() {
            let mut replaced = 0;
            self.rewrap.store.change_page(page, |lines| {
                replaced = changes.iter().filter(|(old, new)| lines.replace(old, new)).count();
            })?;
            self.rewrapped.fetch_add(changes.len() as u64, Ordering::Relaxed);
            (self.progress)(replaced as u64);
        }
        failed
    }

    /// The line that is to replace this one, if any.
    fn line(&self, file: FileId, old: &Line) -> Result<Option<Line>, RewrapError> {
        let WrapKind::Master(master) = &old.kind else { return Ok(None) };
        if *master == self.rewrap.target {
            return Ok(None);
        }
        if !self.rewrap.is_to_do(master) {
            let why = format!("it names {master}, which is not of this volume's KMS");
            return self.leave(file, why);
        }
        if self.refused.lock().0.contains(master) {
            return self.leave(file, format!("the KMS refuses {master}"));
        }
        let volume = self.rewrap.file.settings.volume();
        let proof = |key: &_| check(key, volume, file) == old.check;
        std::thread::sleep(self.rate.reserve(crate::clock::Moment::now()));
        let context = Context::file(volume, file);
        match self.rewrap.way.carry(&old.key, master, &self.to, &context, proof) {
            Ok(new) => {
                let kind = WrapKind::Master(new.master);
                Ok(Some(Line { kind, key: new.wrapped, ..old.clone() }))
            }
            Err(e) if e.verdict == Verdict::ThisKey => self.leave(file, e.to_string()),
            Err(e) if e.verdict == Verdict::Refused => {
                let why = e.to_string();
                let mut refused = self.refused.lock();
                refused.0.insert(master.clone());
                refused.1.get_or_insert(e);
                drop(refused);
                self.leave(file, why)
            }
            Err(e) => Err(e.into()),
        }
    }

    fn leave(&self, file: FileId, why: String) -> Result<Option<Line>, RewrapError> {
        self.left.lock().push(Left { file, why });
        Ok(None)
    }
}
