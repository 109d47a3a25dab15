//! The keyring without its threads.

use std::sync::Arc;

use parking_lot::Mutex;

use super::fixture::{keyring, keyring_over, kms, volume};
use super::machine::{Phase, Reason};
use super::{KeyFail, Want};
use crate::clock::Moment;
use crate::ids::{FileId, PageId};

/// A writer found the pool empty; before it registered its waker the pool was filled, and
/// answered all who waited by then. Nobody woke the writer, whose request ended after four
/// seconds with EKEYEXPIRED.
#[test]
fn who_asks_for_a_fresh_key_after_the_pool_was_filled_is_answered_at_once() {
    let keyring = keyring(kms());
    assert_eq!(keyring.fresh().err(), Some(KeyFail::Need(Want::Fresh)));
    keyring.supply(Want::Fresh).expect("filled");
    let answer = Arc::new(Mutex::new(None));
    let told = answer.clone();
    keyring.want(Want::Fresh, Box::new(move |outcome| *told.lock() = Some(outcome)));
    assert_eq!(*answer.lock(), Some(Ok(())));
    assert!(keyring.fresh().is_ok());
}

/// A sidecar page that found no space was told as a key whose time is up.
#[test]
fn a_full_disk_under_the_sidecars_is_told_as_one() {
    let disk = volume();
    let keyring = keyring_over(&disk, kms());
    disk.limit_space(Some(0));
    assert_eq!(keyring.supply(Want::Fresh), Err(KeyFail::Disk(libc::ENOSPC)));
    disk.limit_space(None);
    assert_eq!(keyring.supply(Want::Fresh), Ok(()));
    assert!(keyring.fresh().is_ok());
}

/// While the mount was locked, the key of each file that was open for writing was asked for at
/// every tick; the refusal caused a beat at once, and that the next tick: a hundred beats a
/// second, for as long as the key was disabled.
#[test]
fn keys_of_files_open_for_writing_are_not_renewed_while_locked() {
    let keyring = keyring(kms());
    keyring.hold(FileId::new(PageId([7; 14]), 0));
    let reason = Reason::Refused;
    for phase in [Phase::Draining(reason), Phase::Locked(reason)] {
        keyring.gate().set(phase);
        keyring.tick(Moment::now());
        assert!(keyring.inner.lock().queue.is_empty(), "{phase:?}");
    }
    keyring.gate().set(Phase::Open);
    keyring.tick(Moment::now());
    assert_eq!(keyring.inner.lock().queue.len(), 1, "fetched as soon as it can be");
}
