//! Following a rewrap: `volume.json` may come to name another master key while it is mounted.

use std::sync::Arc;
use std::time::Duration;

use super::keyring::Keyring;
use super::machine::Phase;
use super::monitor::Effects;
use super::volume::{Accepted, OpenError};
use crate::clock::Moment;
use crate::disk::Time;
use crate::kms::KeyArn;
use crate::secret::scrub_stack;
use crate::sync::atomic::Ordering;

/// What tells one `volume.json` from another; `None` before the first look.
pub(super) type Stamp = Option<(u64, Time)>;

/// Why a mount does not take over what `volume.json` says.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// Locked, or about to be: it reads `volume.json` when it opens.
    #[error("it is locked")]
    Locked,
    /// The file, its key, or the KMS.
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl Keyring {
    /// Looks whether `volume.json` was replaced, as each good heartbeat does. What cannot be
    /// followed is told in the log at each look; the mount goes on under the old master key.
    pub(super) fn look_at_volume(&self) {
        // Another look goes on, perhaps on a disk that hangs.
        let Some(mut seen) = self.followed.try_lock() else { return };
        match self.follow(&mut seen) {
            Ok(()) | Err(FollowError::Locked) => {}
            Err(FollowError::Open(e)) => log::error!("volume.json cannot be followed: {e}"),
        }
    }

    /// Takes over what `volume.json` says now, and returns when no data key under an earlier
    /// master key is on its way to the store any more. It waits for the KMS.
    ///
    /// # Errors
    /// [`FollowError`]; the mount then goes on as it was.
    pub fn settle(&self) -> Result<(), FollowError> {
        self.follow(&mut self.followed.lock())?;
        drop(self.filling.lock());
        Ok(())
    }

    /// The KMS has named the master key of a new data key: keys made ahead under another are not
    /// used any more, and with [`Accepted::Target`] the monitor drops those of files.
    pub(super) fn targeted(&self, master: &KeyArn) {
        if !self.volume.retarget(master) {
            return;
        }
        log::warn!("new data keys come under {master} now");
        self.branches.follow(master);
        let unused = self.inner.lock().pool.wipe();
        unused.into_iter().for_each(|file| self.dead.add(file));
        self.pool_work.notify_one();
        if self.volume.accepted() == Accepted::Target {
            self.turned.store(true, Ordering::Relaxed);
        }
    }

    /// Drops every key of a file's content.
    pub(super) fn drop_data_keys(&self) {
        let mut inner = self.inner.lock();
        inner.dropped = Moment::now();
        inner.cache.wipe();
        drop(inner);
        self.branches.wipe();
    }

    fn follow(&self, seen: &mut Stamp) -> Result<(), FollowError> {
        let stamp = self.store.volume_stamp().ok();
        if stamp.is_some() && *seen == stamp {
            return Ok(());
        }
        if self.gate().phase() != Phase::Open {
            return Err(FollowError::Locked);
        }
        let followed = self.volume.follow(&self.store, &*self.beats);
        scrub_stack();
        if let Some(target) = followed? {
            self.targeted(&target);
        }
        *seen = stamp;
        Ok(())
    }
}

/// What is under another key than the present one is not to be read any more: pages are saved
/// and invalidated, then keys are dropped, then the pages that were read meanwhile. On a thread
/// of its own: a notifier call waits for the kernel, which waits for workers.
pub(super) fn turn(keyring: &Arc<Keyring>, effects: &Arc<dyn Effects>, limit: Duration) {
    let (again, keyring, effects) = (keyring, keyring.clone(), effects.clone());
    let work = move || {
        effects.drain(Moment::now() + limit);
        keyring.drop_data_keys();
        effects.drain(Moment::now() + limit);
    };
    if let Err(e) = std::thread::Builder::new().name("kmsfs-turn".to_owned()).spawn(work) {
        again.turned.store(true, Ordering::Relaxed);
        log::error!("no thread to drop the keys under an earlier master key: {e}");
    }
}
