//! The two copies of `volume.json`: which of them opens the volume, and what is wrong with the
//! other.

use super::finding::{Finding, Place, Problem, Text, errno};
use super::repair::{Repair, Todo};
use crate::keys::{self, OpenError, Trust, Volume};
use crate::kms::{KeyService, Verdict};
use crate::names::VolumeKeys;
use crate::store::{Copy, Store, StoreError, VolumeFile};

/// A copy that opens the volume.
pub(super) struct Opened {
    pub(super) volume: Volume,
    pub(super) names: VolumeKeys,
    file: VolumeFile,
    copy: Copy,
    has_canary: bool,
    /// Its source has the MAC of the volume key.
    is_proven: bool,
}

type Read = Result<VolumeFile, StoreError>;

/// Opens the volume from the first copy that opens, and looks at the other. Answers what is
/// wrong, too, and what can be done about it.
///
/// # Errors
/// Of the first copy, where none opens; of the KMS, where it gives no answer that counts.
pub(super) fn open(
    store: &Store,
    service: &dyn KeyService,
) -> Result<(Opened, Vec<Todo>), OpenError> {
    let (first, second) =
        (store.read_volume_copy(Copy::First), store.read_volume_copy(Copy::Second));
    let opened = choose(&first, &second, service)?;
    let copy = opened.copy;
    let other = if copy == Copy::First { &second } else { &first };
    let what = match other {
        Ok(other) if *other == opened.file => None,
        Ok(other) => Some(compare(&opened, other, service)?),
        // What cannot be read now may be newer than this one.
        Err(e @ StoreError::Io(..)) => Some((missing_or_damaged(copy.other(), e), false)),
        Err(e) => Some((missing_or_damaged(copy.other(), e), true)),
    };
    let mut found = Vec::new();
    if let Some((what, is_replaced)) = what {
        // A copy that no mount stays open with is not to be spread.
        let is_good = opened.has_canary && opened.is_proven;
        let repair = (is_replaced && is_good).then_some(Repair::Volume(copy));
        found.push(todo(copy.other(), what, repair));
    }
    if !opened.has_canary {
        found.push(todo(copy, Problem::Canary, None));
    }
    if !opened.is_proven {
        found.push(todo(copy, Problem::Unproven, None));
    }
    Ok((opened, found))
}

fn todo(copy: Copy, what: Problem, repair: Option<Repair>) -> Todo {
    let place = Place::Store(copy.to_string().into());
    Todo { finding: Finding { place, what }, repair }
}

/// The first copy that opens, with its canary and a proven source; else the first that opens.
fn choose(first: &Read, second: &Read, service: &dyn KeyService) -> Result<Opened, OpenError> {
    let mut failed = None;
    let mut without = None;
    for (copy, read) in [(Copy::First, first), (Copy::Second, second)] {
        let Ok(file) = read else { continue };
        match keys::open_file(file.clone(), service, &Trust::ToRead) {
            Ok((volume, names)) => {
                let has_canary = has_canary(&volume, service)?;
                let is_proven = keys::is_proven(file, &names);
                let file = file.clone();
                let opened = Opened { volume, names, file, copy, has_canary, is_proven };
                if has_canary && is_proven {
                    return Ok(opened);
                }
                without = without.or(Some(opened));
            }
            Err(e) if is_final(&e) => return Err(e),
            Err(e) => failed = failed.or(Some(e)),
        }
    }
    without.ok_or_else(|| failed.unwrap_or_else(|| bad(first)))
}

/// Whether the other copy need not be tried.
fn is_final(e: &OpenError) -> bool {
    matches!(e, OpenError::Kms(e) if e.verdict.is_inconclusive())
}

/// The error of a copy that could not be read, once more.
fn bad(read: &Read) -> OpenError {
    OpenError::Store(match read {
        Err(StoreError::BadVolumeFile(e)) => StoreError::BadVolumeFile(e.clone()),
        Err(StoreError::Io(what, e)) => {
            let again = e.raw_os_error().map_or(e.kind().into(), std::io::Error::from_raw_os_error);
            StoreError::Io(what, again)
        }
        _ => StoreError::NotAStore,
    })
}

fn missing_or_damaged(copy: Copy, e: &StoreError) -> Problem {
    match (e, copy) {
        (StoreError::NotAStore, Copy::First) => Problem::CopyMissing,
        (StoreError::NotAStore, Copy::Second) => Problem::SecondMissing,
        (StoreError::Io(_, e), _) => Problem::Unreadable(errno(e)),
        (StoreError::BadVolumeFile(e), _) => Problem::CopyDamaged(Text(e.to_string().into())),
        (e, _) => Problem::CopyDamaged(Text(e.to_string().into())),
    }
}

/// What is to be said of a copy that reads, and is another than the one that opened the volume;
/// and whether it can be replaced by that with no loss.
fn compare(
    opened: &Opened,
    other: &VolumeFile,
    service: &dyn KeyService,
) -> Result<(Problem, bool), OpenError> {
    // Where the two say another keystore or region, the caller may have named one that
    // both open in: which of them is right is then not to be seen here.
    let same_place = opened.file.wrap.source.provider == other.wrap.source.provider;
    let same_volume = opened.file.settings == other.settings && opened.file.mac == other.mac;
    let old = if same_volume { Problem::SecondOld } else { Problem::CopyWrong };
    match (opened.copy, keys::open_file(other.clone(), service, &Trust::ToRead)) {
        (_, Err(e)) if is_final(&e) => Err(e),
        // Under a master key that a rewrap left, or in another KMS.
        (Copy::First, Err(OpenError::Kms(e))) if e.verdict == Verdict::Refused => Ok((old, true)),
        (Copy::First, Err(_)) if !same_place => Ok((old, true)),
        // Its master key may be disabled, and the copy right all the same.
        (Copy::Second, Err(OpenError::Kms(e))) if e.verdict == Verdict::Refused => {
            Ok((Problem::CopyWrong, false))
        }
        (_, Err(_)) => Ok((Problem::CopyWrong, same_place)),
        (_, Ok((_, names))) if names.fingerprint() != opened.names.fingerprint() => {
            Ok((Problem::CopyWrong, false))
        }
        // The first opens, but its canary does not, or its source is not proven.
        (Copy::Second, Ok(_)) => Ok((Problem::CopyWrong, same_place)),
        // The second is older, if all that the first says works.
        (Copy::First, Ok(_)) => {
            let works = same_place && opened.volume.find_target(service).is_ok();
            Ok(if works { (Problem::SecondOld, true) } else { (Problem::CopiesDiffer, false) })
        }
    }
}

/// Whether the canary opens, as its key just did.
fn has_canary(volume: &Volume, service: &dyn KeyService) -> Result<bool, OpenError> {
    match volume.unwrap_canary(service).map_err(OpenError::Kms) {
        Ok(_) => Ok(true),
        Err(e) if is_final(&e) => Err(e),
        Err(_) => Ok(false),
    }
}
