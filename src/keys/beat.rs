//! One heartbeat: GenerateDataKey, Decrypt of what came back, and Decrypt of the canary.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use super::keyring::Keyring;
use super::machine::Event;
use crate::ids::{FileId, PageId};
use crate::kms::{Context, KeyRef, KmsError, Verdict};

/// Starts a beat on threads of its own; its verdict comes through `events`. A KMS that hangs
/// holds up this beat alone, and the next starts on time.
pub(super) fn start(keyring: &Arc<Keyring>, events: Sender<(Event, Option<KmsError>)>) {
    let keyring = keyring.clone();
    let spawned = std::thread::Builder::new().name("kmsfs-beat".to_owned()).spawn(move || {
        let verdict = beat(&keyring);
        // The monitor may be gone: the mount is ending.
        let _ = events.send(verdict);
    });
    if let Err(e) = spawned {
        log::error!("no thread for a heartbeat: {e}");
    }
}

fn beat(keyring: &Keyring) -> (Event, Option<KmsError>) {
    let (pair, canary) = std::thread::scope(|scope| {
        let canary = scope.spawn(|| keyring.volume.unwrap_canary(&*keyring.beats).map(drop));
        let pair = generate_and_decrypt(keyring);
        let canary = canary.join().unwrap_or_else(|_| {
            Err(KmsError::new(Verdict::Unavailable, "Internal", "the KMS client panicked"))
        });
        (pair, canary)
    });
    let mut worst = (Event::Good, None);
    for error in [pair, canary].into_iter().filter_map(Result::err) {
        let event = match error.verdict {
            Verdict::Unavailable | Verdict::Credentials => Event::Unavailable,
            // The canary and a key made this moment are nobody's damaged sidecar line.
            Verdict::Refused | Verdict::ThisKey | Verdict::Invalid => Event::Refused,
        };
        if worst.0 != Event::Refused {
            worst = (event, Some(error));
        }
    }
    worst
}

fn generate_and_decrypt(keyring: &Keyring) -> Result<(), KmsError> {
    // A file id that no file has: the key is thrown away.
    let file = FileId::new(PageId::random(), 0);
    let context = Context::file(keyring.volume.id(), file);
    let made = keyring.beats.generate(&keyring.volume.asked(), &context)?;
    keyring.beats.decrypt(&KeyRef::from(&made.master), &made.wrapped, &context)?;
    Ok(())
}
