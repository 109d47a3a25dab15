//! What a locked daemon's memory holds of the keys that Vault gave it, over TLS.

use super::calls::root;
use crate::support::bao::Bao;
use crate::support::scan::{keys_by, locked_daemon_holds_none};
use crate::support::{Store, skipped};

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
        locked_daemon_holds_none(&store, "kmsfs", || keys_by(&store.path(), &root(&bao)));
    }
}
