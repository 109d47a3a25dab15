//! The keyring without its threads.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::fixture::{keyring, keyring_over, kms, volume};
use super::{KeyFail, Phase, Reason, Want};
use crate::clock::Moment;

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

/// A file was open for writing while the mount was locked: its key was asked for at every tick,
/// each refusal asked for a beat, and each beat's answer for a tick. A hundred calls a second
/// went to a KMS that had said no.
#[test]
fn a_locked_mount_asks_for_no_keys_of_files_open_for_writing() {
    let keyring = keyring(kms());
    keyring.supply(Want::Fresh).expect("filled");
    let file = keyring.fresh().expect("filled").file();
    keyring.hold(file);
    let now = Moment::now();
    let queued = |at: Moment| {
        keyring.tick(at);
        let mut inner = keyring.inner.lock();
        inner.in_flight.clear();
        std::mem::take(&mut inner.queue).len()
    };
    assert_eq!(queued(now), 0, "it is at hand");
    keyring.gate().set(Phase::Locked(Reason::Refused));
    drop(keyring.wipe());
    assert_eq!(queued(now), 0, "locked");
    keyring.gate().set(Phase::Open);
    assert_eq!(queued(now), 1);
    assert_eq!(queued(now), 0, "asked for just now");
    assert_eq!(queued(now + Duration::from_secs(1)), 1, "not given");
}
