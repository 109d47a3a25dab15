//! The threads that unwrap data keys.

use super::keyring::{KeyFail, Keyring, Want};
use super::pool;
use crate::content::{ContentCipher, check};
use crate::ids::FileId;
use crate::kms::{Context, KeyRef, Verdict};
use crate::secret::scrub_stack;
use crate::store::WrapKind;

/// How many unwraps run side by side.
pub(super) const FETCHERS: usize = 4;

/// A fetch thread: until the keyring stops.
pub(super) fn run(keyring: &Keyring) {
    loop {
        let file = {
            let mut inner = keyring.inner.lock();
            loop {
                if inner.stopping {
                    return;
                }
                if let Some(file) = inner.queue.pop_front() {
                    break file;
                }
                keyring.fetch_work.wait(&mut inner);
            }
        };
        let outcome = fetch(keyring, file);
        scrub_stack();
        keyring.inner.lock().in_flight.remove(&file);
        match outcome {
            // No answer that counts: those who wait are asked for again at the next tick.
            Ok(None) => {}
            Ok(Some(())) => keyring.wake(Want::File(file), Ok(())),
            Err(fail) => keyring.wake(Want::File(file), Err(fail)),
        }
    }
}

/// Unwraps one file's key into the cache; `None` when the KMS gave no answer that counts.
fn fetch(keyring: &Keyring, file: FileId) -> Result<Option<()>, KeyFail> {
    let volume = keyring.volume.id();
    let page = keyring.store.read_page(file.page()).map_err(|e| {
        log::error!("sidecar page {}: {e}", file.page());
        KeyFail::Rejected
    })?;
    let context = Context::file(volume, file);
    for line in page.iter().flat_map(|p| p.lines(file.slot())) {
        let WrapKind::Master(master) = &line.kind else { continue };
        if !keyring.volume.accepts(master) {
            log::warn!("file {file}: its line names {master}, which is not of this volume's KMS");
            continue;
        }
        match keyring.service.decrypt(&KeyRef::from(master), &line.key, &context) {
            Ok(got) if check(&got.key, volume, file) == line.check => {
                keyring.admit(ContentCipher::new(&got.key, volume, file));
                return Ok(Some(()));
            }
            Ok(_) => log::warn!("file {file}: the unwrapped key fails its check"),
            Err(e) if e.verdict == Verdict::ThisKey => log::warn!("file {file}: {e}"),
            Err(e) => {
                log::warn!("file {file}: {e}");
                return keyring.fail_of(e.verdict).map_or(Ok(None), Err);
            }
        }
    }
    Err(KeyFail::Rejected)
}

impl Keyring {
    /// Fetches what is wanted on the caller's own thread: for offline jobs, which have no
    /// monitor and may wait. A mount never calls it.
    ///
    /// # Errors
    /// `Late` when the KMS gives no answer that counts; `Closed`, `Rejected`.
    pub fn supply(&self, want: Want) -> Result<(), KeyFail> {
        match want {
            Want::File(file) => fetch(self, file)?.ok_or(KeyFail::Late),
            Want::Fresh => pool::supply(self),
            Want::Beat => {
                self.gate().heard();
                Ok(())
            }
        }
    }
}
