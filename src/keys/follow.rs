//! Following a rewrap: `volume.json` may come to name another master key while it is mounted.

use std::sync::Arc;
use std::time::Duration;

use super::effects::Effects;
use super::keyring::Keyring;
use super::source::Word;
use super::volume::{Accepted, OpenError};
use crate::clock::Moment;
use crate::disk::Time;
use crate::kms::KeyArn;
use crate::secret::scrub_stack;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::threads::{Role, spawn};

/// What tells one `volume.json` from another; `None` before the first look.
type Stamp = Option<(u64, Time)>;

/// What is known of `volume.json` and of the master key that it leads to.
#[derive(Default)]
pub(super) struct Following {
    /// The `volume.json` that was looked at last.
    seen: parking_lot::Mutex<Stamp>,
    /// Some keys of files are under a master key that does not count any more: all are to be
    /// dropped, and those that still count are fetched again.
    stale: AtomicBool,
}

impl Following {
    /// Whether keys of files are to be dropped. It is said once.
    pub(super) fn take_stale(&self) -> bool {
        self.stale.swap(false, Ordering::Relaxed)
    }

    /// Has the monitor drop the keys of files, and invalidate what was read with them.
    pub(super) fn drop_keys(&self) {
        self.stale.store(true, Ordering::Relaxed);
    }
}

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
        let Some(mut seen) = self.following().seen.try_lock() else { return };
        let stamp = self.store().volume_stamp().ok();
        if stamp.is_some() && *seen == stamp {
            return;
        }
        match self.follow(None) {
            Ok(()) => *seen = stamp,
            Err(FollowError::Locked) => {}
            Err(FollowError::Open(e)) => {
                log::error!("volume.json cannot be followed: {e}");
                // The same file says the same again; the KMS may say something else.
                if !matches!(e, OpenError::Kms(_) | OpenError::Store(_)) {
                    *seen = stamp;
                }
            }
        }
    }

    /// Takes over what `volume.json` says now, which an operator vouches for, and returns when no
    /// data key under an earlier master key is on its way to the store any more. It waits for the
    /// KMS.
    ///
    /// # Errors
    /// [`FollowError`]; the mount then goes on as it was.
    pub fn adopt_rewrapped_volume(&self, word: &Word) -> Result<(), FollowError> {
        let _alone = self.following().seen.lock();
        self.follow(Some(word))?;
        self.pool().wait_for_pages();
        Ok(())
    }

    /// The KMS has named the master key of a new data key: keys made ahead under another are not
    /// used any more, and with [`Accepted::Target`] the monitor drops those of files.
    pub(super) fn targeted(&self, master: &KeyArn) {
        if !self.volume().retarget(master) {
            return;
        }
        log::warn!("new data keys come under {master} now");
        self.branches().present().follow(master);
        self.pool().wipe().into_iter().for_each(|file| self.dead().add_unused(file));
        self.pool().call();
        if self.volume().accepted() == Accepted::Target {
            self.following().drop_keys();
        }
    }

    /// Drops every key of a file's content.
    pub(super) fn drop_data_keys(&self) {
        self.files().clear();
        self.branches().wipe();
    }

    fn follow(&self, word: Option<&Word>) -> Result<(), FollowError> {
        if !self.gate().is_open() {
            return Err(FollowError::Locked);
        }
        let followed =
            self.volume().follow(self.store(), self.beat_service(), (self.store_use(), word));
        scrub_stack();
        if let Some(target) = followed? {
            self.tell_generation();
            self.targeted(&target);
        }
        Ok(())
    }
}

/// What is under another key than the present one is not to be read any more: pages are saved
/// and invalidated, then keys are dropped, then the pages that were read meanwhile. On a thread
/// of its own: a notifier call waits for the kernel, which waits for workers.
pub(super) fn drop_stale_keys(keyring: &Arc<Keyring>, effects: &Arc<dyn Effects>, limit: Duration) {
    let (again, keyring, effects) = (keyring, keyring.clone(), effects.clone());
    let work = move || {
        effects.drain(Moment::now() + limit);
        keyring.drop_data_keys();
        effects.drain(Moment::now() + limit);
    };
    if let Err(e) = spawn(Role::StaleKeys, work) {
        again.following().drop_keys();
        log::error!("cannot start a thread to drop the keys under an earlier master key: {e}");
    }
}
