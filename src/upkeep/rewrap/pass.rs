//! Going over the sidecar pages until nothing is under another master key.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::method::{Old, Target};
use super::recover::Second;
use super::{Done, Left, Order, Owner, Rewrap, RewrapError};
use crate::clock::Moment;
use crate::content::check;
use crate::ids::{BranchId, FileId, PageId};
use crate::keys::Rate;
use crate::kms::{Context, KeyArn, KmsError, Rewrapped, Verdict};
use crate::secret::Key;
use crate::store::{BranchFile, ByKms, Line, WrapKind};
use crate::threads::{Role, spawn_in};

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
        let rate = Rate::new(self.rate);
        let mut rewrapped = 0;
        for _ in 0..MOST_PASSES {
            if self.order() == Order::VolumeFirst {
                let now = self.store.read_volume()?.wrap.source.master;
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
                let left = pass.left.into_inner();
                return Ok(Done { rewrapped, left, refused, ..Done::default() });
            }
        }
        Err(RewrapError::Endless)
    }
}

impl Pass<'_> {
    fn run(&self) -> Result<(), RewrapError> {
        // First, and by themselves: each opens many files, and there are few.
        for branch in self.rewrap.store.branches()? {
            self.branch(branch)?;
        }
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
        let threads = self.rewrap.method.parallelism().max(FEWEST_THREADS);
        std::thread::scope(|scope| {
            let others: Vec<_> =
                (1..threads).flat_map(|_| spawn_in(scope, Role::Rewrap, work)).collect();
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
        let volume = self.rewrap.file.settings.volume();
        let proof = |key: &_| check(key, volume, file) == old.check;
        let context = Context::file(volume, file);
        let key = Old { key: &old.key, master, second: Second::File(file, old) };
        let new = self.key(Owner::File(file), &key, &context, proof)?;
        Ok(new.map(|new| Line {
            kind: WrapKind::Master(new.master),
            key: new.wrapped,
            ..old.clone()
        }))
    }

    /// A branch key is never removed, and nobody else replaces it.
    fn branch(&self, branch: BranchId) -> Result<(), RewrapError> {
        let owner = Owner::Branch(branch);
        let old = match self.rewrap.store.read_branch(branch) {
            Ok(old) => old,
            Err(e) if e.kind() == ErrorKind::InvalidData => {
                self.leave(owner, e.to_string());
                return Ok(());
            }
            Err(e) => return Err(e.into()),
        };
        // One of the recovery's own no KMS has wrapped.
        let Some(by) = &old.by_kms else { return Ok(()) };
        let context = Context::branch(self.rewrap.file.settings.volume(), branch);
        // What proves a branch key are the lines under it.
        let second = Second::Branch(branch, old.recovery.as_ref());
        let key = Old { key: &by.key, master: &by.master, second };
        let new = self.key(owner, &key, &context, |_| true)?;
        if let Some(new) = new {
            let by_kms = Some(ByKms { master: new.master, key: new.wrapped });
            let file = BranchFile { by_kms, recovery: old.recovery };
            self.rewrap.store.write_branch(branch, &file)?;
            self.rewrapped.fetch_add(1, Ordering::Relaxed);
            (self.progress)(1);
        }
        Ok(())
    }

    /// A wrapped key under the new master key; `None` where it is or has to stay under its own.
    fn key(
        &self,
        owner: Owner,
        old: &Old<'_>,
        context: &Context,
        proof: impl FnOnce(&Key) -> bool,
    ) -> Result<Option<Rewrapped>, RewrapError> {
        let master = old.master;
        if *master == self.rewrap.target {
            return Ok(None);
        }
        let stays = |why| {
            self.leave(owner, why);
            Ok(None)
        };
        if !self.rewrap.is_to_do(master) {
            return stays(format!("it names {master}, which is not of this volume's KMS"));
        }
        if self.refused.lock().0.contains(master) {
            return stays(format!("the KMS refuses {master}"));
        }
        std::thread::sleep(self.rate.reserve(Moment::now()));
        let method = &self.rewrap.method;
        match method.carry(&self.rewrap.store, old, &self.to, context, proof) {
            Ok(new) => Ok(Some(new)),
            Err(e) if e.verdict == Verdict::ThisKey => stays(e.to_string()),
            // A recovery asks for the new master key alone.
            Err(e) if e.verdict == Verdict::Refused && !method.is_recovery() => {
                let why = e.to_string();
                let mut refused = self.refused.lock();
                refused.0.insert(master.clone());
                refused.1.get_or_insert(e);
                drop(refused);
                stays(why)
            }
            Err(e) => Err(e.into()),
        }
    }

    fn leave(&self, owner: Owner, why: String) {
        self.left.lock().push(Left { owner, why });
    }
}
