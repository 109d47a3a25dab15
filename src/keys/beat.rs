//! One heartbeat: GenerateDataKey, and Decrypt of the canary beside it. Where new data keys come
//! from another master key than the canary's, what came back is decrypted too: it is another key's
//! right to Decrypt. Where no data keys are made, it is Decrypt of the canary alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use super::keyring::Keyring;
use super::machine::Event;
use super::masters::Canary;
use super::monitor::Message;
use super::shared_beats::{SharedBeats, Subject};
use super::volume::NoNewKey;
use crate::clock::Moment;
use crate::ids::{FileId, PageId};
use crate::kms::{Context, KeyRef, KmsError, Verdict};
use crate::secret::scrub_stack;
use crate::threads::{Role, spawn, spawn_in};

/// Beats that are asked for, between those that come by the clock: a refusal met by any call asks
/// for one, and so does who finds the gate stale.
#[derive(Default)]
pub(super) struct AskedBeats {
    asked: AtomicBool,
    /// When the last of them started.
    last: parking_lot::Mutex<Option<Moment>>,
}

/// They start so far apart at least: a tree under a disabled earlier key is refused file by file,
/// and beats are outside of the budget of calls.
const APART: Duration = Duration::from_secs(1);

impl AskedBeats {
    /// Asks for one.
    pub(super) fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// Whether one is to start now.
    pub(super) fn take(&self, now: Moment) -> bool {
        let mut last = self.last.lock();
        if last.is_some_and(|last| now.since(last) < APART)
            || !self.asked.swap(false, Ordering::Relaxed)
        {
            return false;
        }
        *last = Some(now);
        true
    }
}

/// Starts a beat on threads of its own; its verdict comes through `events`. A KMS that hangs
/// holds up this beat alone, and the next starts on time.
pub(super) fn start(
    keyring: &Arc<Keyring>,
    events: Sender<Message>,
    shared: Option<Arc<SharedBeats>>,
) {
    let keyring = keyring.clone();
    if let Err(e) = spawn(Role::Beat, move || beat(&keyring, &events, shared.as_deref())) {
        log::error!("cannot start a thread for a heartbeat: {e}");
    }
}

/// A refusal is told as soon as one call has met it, whatever the others wait for.
fn beat(keyring: &Keyring, events: &Sender<Message>, shared: Option<&SharedBeats>) {
    let (began, subject) = (Moment::now(), subject(keyring));
    let refused = AtomicBool::new(false);
    let look = |outcome: Result<(), KmsError>| {
        scrub_stack();
        let error = outcome.err()?;
        if error.verdict.is_inconclusive() {
            return Some(error);
        }
        // ThisKey and Invalid too: the canary, and a key made this moment, are nobody's damaged
        // sidecar line.
        if !refused.swap(true, Ordering::SeqCst) {
            // The monitor may be gone: the mount is ending.
            let _ = events.send(Message { event: Event::Refused, error: Some(error), began });
        }
        None
    };
    let ask_canary = || look(keyring.volume().unwrap_canary(keyring.beat_service()).map(drop));
    let tested = [keyring.volume().master(), keyring.volume().target()];
    let others = keyring.masters().others(&tested);
    let (made, canary) = std::thread::scope(|scope| {
        for canary in &others {
            // With no thread to be had, the next beat asks.
            let _ = spawn_in(scope, Role::Canary, || ask_other(keyring, canary));
        }
        if !keyring.store_use().asks_for_data_keys(keyring.volume().accepted()) {
            return (None, ask_canary());
        }
        let canary = spawn_in(scope, Role::Canary, ask_canary);
        let made = look(make_key(keyring));
        let panicked = |_| Some(KmsError::new(Verdict::Unavailable, "Internal", "a call panicked"));
        match canary {
            Ok(canary) => (made, canary.join().unwrap_or_else(panicked)),
            // No thread is to be had: one after the other, then.
            Err(_) => (made, ask_canary()),
        }
    });
    if refused.into_inner() {
        return;
    }
    let error = made.or(canary);
    let is_good = error.is_none();
    let event = error.as_ref().map_or(Event::Good { began }, |e| Event::of_inconclusive(e.verdict));
    let _ = events.send(Message { event, error, began });
    if !is_good {
        return;
    }
    // It may have found another subject, of which the canary was not asked.
    if let Some(shared) = shared.filter(|_| subject == self::subject(keyring))
        && let Err(e) = shared.tell(&subject, began)
    {
        log::warn!("other mounts are not told of a heartbeat: {e}");
    }
    // After the verdict: this reads the store, and a disk may take its time.
    keyring.look_at_volume();
}

/// What a beat asks for now.
pub(super) fn subject(keyring: &Keyring) -> Subject {
    let (master, target) = (keyring.volume().master(), keyring.volume().target());
    let makes = keyring.store_use().asks_for_data_keys(keyring.volume().accepted());
    let others = keyring.masters().others(&[master.clone(), target.clone()]);
    let mut others: Vec<_> = others.into_iter().map(|canary| canary.master).collect();
    others.sort();
    let decrypting = [master].into_iter().chain(others).collect();
    let making = makes.then(|| (keyring.volume().asked(), target));
    Subject { decrypting, making }
}

/// As after a beat of one's own, on a thread that may wait for a disk.
pub(super) fn look_at_volume(keyring: &Arc<Keyring>) {
    let keyring = keyring.clone();
    if let Err(e) = spawn(Role::Beat, move || keyring.look_at_volume()) {
        log::error!("cannot start a thread to look at volume.json: {e}");
    }
}

/// Whether a master key that only some files are under is still good. What was unwrapped under
/// one that is refused is dropped, and what was read of those files.
fn ask_other(keyring: &Keyring, canary: &Canary) {
    let master = KeyRef::from(&canary.master);
    let got = keyring.beat_service().decrypt(&master, &canary.wrapped, &canary.context);
    scrub_stack();
    let Err(e) = got.map(drop) else { return };
    if !e.verdict.is_inconclusive() {
        log::warn!("{e}: files under {} are not readable any more", canary.master);
        keyring.masters().forget(&canary.master);
        keyring.following().drop_keys();
    }
}

/// Has the KMS make a data key, and open it where nothing else asks its master key for that.
fn make_key(keyring: &Keyring) -> Result<(), KmsError> {
    // A file id that no file has: the key is thrown away.
    let file = FileId::new(PageId::random(), 0);
    let context = Context::file(keyring.volume().id(), file);
    let made = match keyring.volume().generate(keyring.beat_service(), &context) {
        Ok(made) => made,
        Err(NoNewKey::Kms(e)) => return Err(e),
        // An alias leads to a key of somebody else's. What is there already stays readable, for
        // the volume's own key is still good; new data keys find it out for themselves.
        Err(NoNewKey::Unaccepted(_)) => return Ok(()),
    };
    if made.master != keyring.volume().master() {
        keyring.beat_service().decrypt(&KeyRef::from(&made.master), &made.wrapped, &context)?;
    }
    keyring.targeted(&made.master);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each refused file key started a beat at once: sixty calls a second of a KMS that had said
    /// no, outside of `--kms-rate`.
    #[test]
    fn beats_that_are_asked_for_are_a_second_apart() {
        let (beats, start) = (AskedBeats::default(), Moment(Duration::from_secs(100)));
        let at = |millis: u64| start + Duration::from_millis(millis);
        assert!(!beats.take(at(0)), "nobody asked");
        let started = (0..3000).filter(|millis| {
            beats.ask();
            beats.take(at(*millis))
        });
        assert_eq!(started.collect::<Vec<_>>(), [0, 1000, 2000], "the first at once");
        assert!(beats.take(at(3000)), "who asked meanwhile is not forgotten");
        assert!(!beats.take(at(9000)), "and gets one");
    }
}
