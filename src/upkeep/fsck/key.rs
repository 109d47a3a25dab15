//! The key of a file, and why there is none.

use std::sync::Arc;

use super::finding::{NoKey, Text, errno};
use super::{FsckError, Job, MOST_REFUSED};
use crate::content::ContentCipher;
use crate::ids::FileId;
use crate::keys::{KeyFail, KeyRequest};
use crate::kms::{KeyArn, KmsError, Verdict};
use crate::store::{Line, WrapKind};

/// A call without an answer that counts is made again so often.
const TRIES: usize = 4;

/// The cipher of a file; `None` where the check has stopped.
///
/// # Errors
/// Why the file has no key.
pub(super) fn cipher(job: &Job<'_>, file: FileId) -> Result<Option<Arc<ContentCipher>>, NoKey> {
    let lines = lines(job, file)?;
    if let Some(master) = refused_of(job, &lines) {
        return Err(NoKey::Refused((&master).into()));
    }
    let keyring = &job.fsck.keyring;
    let mut late = 0;
    while !job.is_stopped() {
        let want = match keyring.cipher(file) {
            Ok(cipher) => return Ok(Some(cipher)),
            Err(KeyFail::NotCached(want)) => want,
            Err(fail) => return failed(job, &lines, fail),
        };
        debug_assert!(matches!(want, KeyRequest::File(_)), "the file has its key already");
        match keyring.supply(want) {
            Ok(()) => {}
            // The canary says how it stands with the KMS.
            Err(KeyFail::Late) => {
                late += 1;
                match volume_answers(job) {
                    Err(e) => job.stop(FsckError::Kms(e)),
                    Ok(()) if late == TRIES => job.stop(FsckError::Kms(no_answer())),
                    Ok(()) => {}
                }
            }
            Err(fail) => return failed(job, &lines, fail),
        }
    }
    Ok(None)
}

fn failed(
    job: &Job<'_>,
    lines: &[Line],
    fail: KeyFail,
) -> Result<Option<Arc<ContentCipher>>, NoKey> {
    match fail {
        KeyFail::Rejected => Err(reason(job, lines)),
        KeyFail::Closed(_) => match volume_answers(job) {
            Ok(()) => Err(refused(job, lines)),
            Err(e) => {
                job.stop(FsckError::Kms(e));
                Ok(None)
            }
        },
        KeyFail::NotCached(_) | KeyFail::Late | KeyFail::Disk(_) => {
            job.stop(FsckError::Kms(no_answer()));
            Ok(None)
        }
    }
}

fn no_answer() -> KmsError {
    KmsError::new(Verdict::Unavailable, "Unavailable", "the KMS gives no answer that counts")
}

/// Whether the KMS still gives what is under the volume's own master key.
fn volume_answers(job: &Job<'_>) -> Result<(), KmsError> {
    match job.fsck.keyring.volume().unwrap_canary(&*job.fsck.service) {
        // A damaged canary is reported already, and is an answer.
        Err(e) if e.verdict != Verdict::ThisKey => Err(e),
        _ => Ok(()),
    }
}

/// The lines that claim the file's slot.
fn lines(job: &Job<'_>, file: FileId) -> Result<Vec<Line>, NoKey> {
    let page = match job.fsck.store.read_page(file.page()) {
        Ok(page) => page.unwrap_or_default(),
        // Its folder is missing, which is reported with it.
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Err(NoKey::NoLine),
        Err(e) => return Err(NoKey::Unreadable(errno(&e))),
    };
    let lines: Vec<Line> = page.readable().filter(|l| l.slot == file.slot()).collect();
    if lines.is_empty() { Err(NoKey::NoLine) } else { Ok(lines) }
}

/// The master key of a line; `None` where its branch key has none.
fn master_of(job: &Job<'_>, line: &Line) -> Option<KeyArn> {
    match &line.kind {
        WrapKind::Master(master) => Some(master.clone()),
        WrapKind::Branch(id) => job.fsck.store.read_branch(*id).ok()?.by_kms.map(|by| by.master),
    }
}

/// Why none of these lines gives a key.
fn reason(job: &Job<'_>, lines: &[Line]) -> NoKey {
    let Some(line) = lines.first() else { return NoKey::NoLine };
    match (master_of(job, line), &line.kind) {
        (Some(master), _) if !job.fsck.keyring.volume().accepts(&master) => {
            NoKey::NotAccepted((&master).into())
        }
        (_, WrapKind::Branch(id)) => NoKey::Branch(*id),
        (_, WrapKind::Master(_)) => NoKey::Wrong,
    }
}

/// The KMS refuses the master key of these lines, and not the volume's. It is not asked again.
fn refused(job: &Job<'_>, lines: &[Line]) -> NoKey {
    let masters: Vec<KeyArn> = lines.iter().filter_map(|l| master_of(job, l)).collect();
    if let [master] = &masters[..] {
        let mut refused = job.refused.lock();
        if refused.len() < MOST_REFUSED {
            refused.insert(master.clone());
        }
    }
    NoKey::Refused(masters.first().map_or(Text("a master key".into()), Text::from))
}

/// The master key of the one line there is, if the KMS is known to refuse it.
fn refused_of(job: &Job<'_>, lines: &[Line]) -> Option<KeyArn> {
    let [line] = lines else { return None };
    if job.refused.lock().is_empty() {
        return None;
    }
    master_of(job, line).filter(|master| job.refused.lock().contains(master))
}
