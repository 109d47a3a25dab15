//! The branch key that new data keys are wrapped by. It is never one of an earlier mount, whose
//! count is not known.
//!
//! With branch keys, the KMS makes it. Where the KMS wraps each data key itself, there is one only
//! if the volume can be recovered: it is made here and sealed to the recipients, and wraps each
//! data key a second time. Nobody here could open it again.

use std::sync::Arc;
use std::time::Duration;

use super::branch::BranchKey;
use super::branches::Known;
use super::gate::Gate;
use super::keyring::Keyring;
use super::phase::Phase;
use super::pool::NoKeys;
use super::request::KeyFail;
use super::sealing::{self, Of};
use crate::clock::Moment;
use crate::ids::BranchId;
use crate::kms::{Context, KeyArn};
use crate::recovery::Sealed;
use crate::secret::Key;
use crate::store::{BranchFile, ByKms};
use crate::sync::Mutex;

/// How many data keys one branch key wraps.
const MOST_KEYS: usize = 65_536;
/// How long a branch key wraps new data keys.
const OLDEST: Duration = Duration::from_secs(24 * 60 * 60);

struct Wrapper {
    key: Arc<BranchKey>,
    /// The master key that wrapped it; `None` where the KMS knows nothing of it.
    master: Option<KeyArn>,
    since: Moment,
    left: usize,
}

/// The present branch key; see above. It wipes itself when the last user lets go.
#[derive(Default)]
pub(super) struct Present(Mutex<Option<Wrapper>>);

impl Present {
    /// The key, with `n` data keys taken off what it may wrap; `None` where there is none that may
    /// wrap as many.
    fn take(&self, n: usize, now: Moment) -> Option<Arc<BranchKey>> {
        let mut wrapper = self.0.lock();
        let wrapper = wrapper.as_mut().filter(|w| now.since(w.since) < OLDEST)?;
        wrapper.left = wrapper.left.checked_sub(n)?;
        Some(wrapper.key.clone())
    }

    /// Takes a new key, unless the mount was locked meanwhile.
    fn begin(&self, wrapper: Wrapper, gate: &Gate) -> Option<Arc<BranchKey>> {
        let mut present = self.0.lock();
        if matches!(gate.phase(), Phase::Locked(_)) {
            return None;
        }
        Some(present.insert(wrapper).key.clone())
    }

    /// New data keys come from this master key: a branch key under another wraps no more.
    pub(super) fn follow(&self, master: &KeyArn) {
        let is_other = |w: &mut Wrapper| w.master.as_ref().is_some_and(|other| other != master);
        self.0.lock().take_if(is_other);
    }

    /// Drops it.
    pub(super) fn wipe(&self) {
        *self.0.lock() = None;
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        usize::from(self.0.lock().is_some())
    }
}

/// A branch key, sealed to the recipients of the recovery where there are any.
///
/// # Errors
/// `Closed`.
fn seal(keyring: &Keyring, branch: BranchId, key: &Key) -> Result<Option<Sealed>, KeyFail> {
    let Some(recipients) = &keyring.volume().settings().recovery else { return Ok(None) };
    let keys = keyring.names()?;
    Ok(Some(sealing::seal(&keys, recipients, Of::Branch(branch), key)))
}

/// The branch key to wrap `n` new data keys, made and durable where the present one may not; `None`
/// when the keyring stops or locks meanwhile.
pub(super) fn for_new(keyring: &Keyring, n: usize) -> Result<Option<Arc<BranchKey>>, NoKeys> {
    let since = Moment::now();
    let present = keyring.branches().present();
    if let Some(key) = present.take(n, since) {
        return Ok(Some(key));
    }
    if !keyring.wait_for_rate() {
        return Ok(None);
    }
    let (volume, branch) = (keyring.volume().id(), BranchId::random());
    let context = Context::branch(volume, branch);
    let made = keyring.volume().generate(keyring.service(), &context)?;
    keyring.masters().saw(&made.master, &made.wrapped, &context);
    let by = ByKms { master: made.master, key: made.wrapped };
    let Ok(recovery) = seal(keyring, branch, &made.key) else { return Ok(None) };
    let file = BranchFile { by_kms: Some(by.clone()), recovery };
    keyring.store().write_branch(branch, &file).map_err(NoKeys::Disk)?;
    let (master, key) = (Some(by.master.clone()), BranchKey::new(&made.key, volume, branch));
    let wrapper = Wrapper { key: Arc::new(key), master, since, left: MOST_KEYS - n };
    let began = present.begin(wrapper, keyring.gate());
    if began.is_some() {
        let known = Arc::new(Known { by, key: began.clone(), since });
        keyring.branches().keep(branch, known, keyring.gate());
    }
    Ok(began)
}

/// What wraps new data keys of the KMS's a second time.
pub(super) enum Second {
    /// Nothing: the volume has no recipients.
    None,
    /// This branch key.
    By(Arc<BranchKey>),
}

/// As [`for_new`], for second wraps of `n` data keys of the KMS's; `None` as there.
pub(super) fn for_second(keyring: &Keyring, n: usize) -> Result<Option<Second>, NoKeys> {
    if keyring.volume().settings().recovery.is_none() {
        return Ok(Some(Second::None));
    }
    let since = Moment::now();
    let present = keyring.branches().present();
    if let Some(key) = present.take(n, since) {
        return Ok(Some(Second::By(key)));
    }
    let (volume, branch, key) = (keyring.volume().id(), BranchId::random(), Key::random());
    let Ok(recovery) = seal(keyring, branch, &key) else { return Ok(None) };
    let file = BranchFile { by_kms: None, recovery };
    keyring.store().write_branch(branch, &file).map_err(NoKeys::Disk)?;
    let key = Arc::new(BranchKey::new(&key, volume, branch));
    let wrapper = Wrapper { key, master: None, since, left: MOST_KEYS - n };
    Ok(present.begin(wrapper, keyring.gate()).map(Second::By))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::VolumeId;

    fn at(secs: u64) -> Moment {
        Moment(Duration::from_secs(secs))
    }

    fn wrapper(id: u8, master: Option<&str>, since: Moment, left: usize) -> Wrapper {
        let key = BranchKey::new(&Key::random(), VolumeId([1; 16]), BranchId([id; 16]));
        let master = master.map(|arn| KeyArn(arn.to_owned()));
        Wrapper { key: Arc::new(key), master, since, left }
    }

    fn present() -> (Present, Gate) {
        (Present::default(), Gate::new(Duration::MAX))
    }

    #[test]
    fn a_branch_key_wraps_so_many_data_keys_and_for_so_long() {
        let (present, gate) = present();
        assert!(present.take(1, at(0)).is_none(), "none of an earlier mount");
        present.begin(wrapper(1, Some("arn:a"), at(0), MOST_KEYS - 64), &gate).expect("open");
        let pages = (0..).take_while(|_| present.take(64, at(1)).is_some()).count();
        assert_eq!((pages + 1) * 64, 65_536);
        present.begin(wrapper(2, Some("arn:a"), at(10), MOST_KEYS), &gate).expect("open");
        let day = 24 * 60 * 60;
        assert!(present.take(64, at(10 + day - 1)).is_some());
        assert!(present.take(64, at(10 + day)).is_none());
    }

    #[test]
    fn a_branch_key_under_another_master_key_wraps_no_more() {
        let (present, gate) = present();
        let (one, other) = (KeyArn("arn:a".to_owned()), KeyArn("arn:b".to_owned()));
        present.begin(wrapper(1, Some("arn:a"), at(0), MOST_KEYS), &gate).expect("open");
        present.follow(&one);
        assert!(present.take(1, at(1)).is_some());
        present.follow(&other);
        assert!(present.take(1, at(1)).is_none());
        present.begin(wrapper(1, None, at(0), MOST_KEYS), &gate).expect("open");
        present.follow(&other);
        assert!(present.take(1, at(1)).is_some(), "it is under none");
    }

    #[test]
    fn a_locked_mount_takes_no_branch_key() {
        let (present, gate) = present();
        present.begin(wrapper(1, None, at(0), MOST_KEYS), &gate).expect("open");
        gate.set(Phase::Locked(crate::keys::Reason::Refused));
        present.wipe();
        assert!(present.begin(wrapper(2, None, at(0), MOST_KEYS), &gate).is_none());
        assert_eq!(present.len(), 0);
    }
}
