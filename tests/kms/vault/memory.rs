//! What a locked daemon's memory holds of the keys that Vault gave it, over TLS.

use std::fs::{self, File};

use super::calls::root;
use crate::support::bao::Bao;
use crate::support::scan::{found, keys_by, memory_of};
use crate::support::{PATIENCE, Store, skipped};

/// Connections that wait for the next call keep the last answer in the buffers of HTTP and TLS.
#[test]
fn a_locked_daemon_holds_no_key_that_vault_gave() {
    if skipped("fuse") || skipped("openbao") {
        return;
    }
    for data_keys in ["per-file", "branch"] {
        let bao = Bao::start();
        bao.cli(&["write", "-f", "transit/keys/kmsfs"]);
        let how = ["--master-key", "kmsfs", "--data-keys", data_keys];
        let store = Store::vault(&bao.env(bao.root()), &how);
        let mount = store.mount(&["--heartbeat", "1s"]);
        for n in 0..40 {
            fs::write(mount.at(&format!("file{n}")), b"content").expect("written");
        }
        mount.unmount();
        // All keys are fetched, and others made.
        let mount = store.mount(&["--heartbeat", "1s"]);
        for n in 0..40 {
            assert_eq!(fs::read(mount.at(&format!("file{n}"))).expect("readable"), b"content");
        }
        let open_file = File::create(mount.at("another")).expect("made");
        let keys = keys_by(&store.path(), &root(&bao));
        assert!(keys.len() > 20, "{}", keys.len());
        let held = found(&memory_of(mount.pid()), &keys);
        assert!(!held.is_empty(), "an open daemon holds keys, and this search finds them");
        store.key(&["disable", "kmsfs"]);
        mount.wait_state("revoked", PATIENCE);
        drop(open_file);
        let left = found(&memory_of(mount.pid()), &keys);
        assert!(left.is_empty(), "{data_keys}: {} of {}: {left:#?}", left.len(), keys.len());
        store.key(&["enable", "kmsfs"]);
        mount.wait_state("open", PATIENCE);
    }
}
