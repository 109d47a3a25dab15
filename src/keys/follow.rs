//! Following a rewrap: `volume.json` may come to name another master key while it is mounted.

use super::keyring::Keyring;
use super::machine::Phase;
use super::volume::OpenError;
use crate::disk::Time;
use crate::secret::scrub_stack;

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

    fn follow(&self, seen: &mut Stamp) -> Result<(), FollowError> {
        let stamp = self.store.volume_stamp().ok();
        if stamp.is_some() && *seen == stamp {
            return Ok(());
        }
        let names = match self.names() {
            Ok(names) if self.gate().phase() == Phase::Open => names,
            _ => return Err(FollowError::Locked),
        };
        let followed = self.volume.follow(&self.store, &*self.beats, &names);
        scrub_stack();
        followed?;
        *seen = stamp;
        Ok(())
    }
}
