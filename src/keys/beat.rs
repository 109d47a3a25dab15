//! One heartbeat: GenerateDataKey, Decrypt of what came back, and Decrypt of the canary.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

use super::keyring::Keyring;
use super::machine::Event;
use super::monitor::Message;
use crate::clock::Moment;
use crate::ids::{FileId, PageId};
use crate::kms::{Context, KeyRef, KmsError, Verdict};
use crate::secret::scrub_stack;

/// Starts a beat on threads of its own; its verdict comes through `events`. A KMS that hangs
/// holds up this beat alone, and the next starts on time.
pub(super) fn start(keyring: &Arc<Keyring>, events: Sender<Message>) {
    let keyring = keyring.clone();
    let spawned = std::thread::Builder::new()
        .name("kmsfs-beat".to_owned())
        .spawn(move || beat(&keyring, &events));
    if let Err(e) = spawned {
        log::error!("no thread for a heartbeat: {e}");
    }
}

/// A refusal is told as soon as one call has met it, whatever the others wait for.
fn beat(keyring: &Keyring, events: &Sender<Message>) {
    let began = Moment::now();
    let refused = AtomicBool::new(false);
    let look = |outcome: Result<(), KmsError>| {
        scrub_stack();
        let error = outcome.err()?;
        if matches!(error.verdict, Verdict::Unavailable | Verdict::Credentials) {
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
    let (pair, canary) = std::thread::scope(|scope| {
        let canary = scope.spawn(|| look(keyring.volume.unwrap_canary(&*keyring.beats).map(drop)));
        let pair = look(generate_and_decrypt(keyring));
        let panicked = |_| Some(KmsError::new(Verdict::Unavailable, "Internal", "a call panicked"));
        (pair, canary.join().unwrap_or_else(panicked))
    });
    if refused.into_inner() {
        return;
    }
    let error = pair.or(canary);
    let event = if error.is_some() { Event::Unavailable } else { Event::Good { began } };
    let _ = events.send(Message { event, error, began });
    // After the verdict: this reads the store, and a disk may take its time.
    if event != Event::Unavailable {
        keyring.look_at_volume();
    }
}

fn generate_and_decrypt(keyring: &Keyring) -> Result<(), KmsError> {
    // A file id that no file has: the key is thrown away.
    let file = FileId::new(PageId::random(), 0);
    let context = Context::file(keyring.volume.id(), file);
    let made = keyring.beats.generate(&keyring.volume.asked(), &context)?;
    keyring.beats.decrypt(&KeyRef::from(&made.master), &made.wrapped, &context)?;
    keyring.targeted(&made.master);
    Ok(())
}
