//! What a locked daemon's memory holds of the keys that passed through the library.

use super::process::{alone, client};
use crate::support::hsm::SoftHsm;
use crate::support::scan::{keys_by, locked_daemon_holds_none, tell_keys, told_keys};
use crate::support::skipped;

#[test]
#[ignore = "run by the one below, with the token in its environment"]
fn unwraps_all_keys() {
    let store = std::fs::read_to_string(super::process::at("store")).expect("set by the parent");
    tell_keys(&keys_by(store.as_ref(), &client()));
}

/// The master key is another matter: with SoftHSM it lies in the daemon's memory.
#[test]
fn a_locked_daemon_holds_no_key_that_a_token_gave() {
    if skipped("fuse") || skipped("softhsm") {
        return;
    }
    for data_keys in ["per-file", "branch"] {
        let hsm = SoftHsm::new();
        let store = hsm.store(&["--data-keys", data_keys]);
        std::fs::write(hsm.at("store"), store.path().to_str().expect("UTF-8")).expect("written");
        locked_daemon_holds_none(&store, "kmsfs", || {
            let said = alone(&hsm, "memory::unwraps_all_keys");
            told_keys(&said)
        });
    }
}
