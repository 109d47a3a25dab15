//! The keyring without its threads.

use std::sync::Arc;

use parking_lot::Mutex;

use super::fixture::{keyring, kms};
use super::{KeyFail, Want};

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
