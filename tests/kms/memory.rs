//! What a locked daemon's memory holds of the keys that AWS KMS gave it.

use std::process::Command;

use kmsfs::kms::aws::{AwsKms, Place, PlainHttp};

use crate::support::scan::{keys_by, locked_daemon_holds_none, tell_keys, told_keys};
use crate::support::server::{REGION, Rules, Server, credentials, new_key};
use crate::support::{Store, run, skipped};

/// Unwraps all keys of a store in a child: the SDK takes credentials from the environment, which
/// a process with threads must not change.
fn keys_of(store: &Store, server: &Server) -> Vec<(String, [u8; 32])> {
    let this = std::env::current_exe().expect("a test binary");
    let said = run(Command::new(this)
        .args(["--exact", "memory::unwraps_all_keys", "--ignored", "--nocapture"])
        .env("KMSFS_TEST_STORE", store.path())
        .env("KMSFS_TEST_ENDPOINT", server.url())
        .envs(credentials("test", "test")));
    told_keys(&said)
}

#[test]
#[ignore = "run by the others, with credentials in its environment"]
fn unwraps_all_keys() {
    let var = |name| std::env::var(name).expect("set by the parent");
    let place = Place {
        region: Some(REGION.to_owned()),
        endpoint: Some(var("KMSFS_TEST_ENDPOINT")),
        profile: None,
        plain_http: PlainHttp::Loopback,
        ..Place::default()
    };
    let kms = AwsKms::new(&place).expect("a client");
    tell_keys(&keys_by(var("KMSFS_TEST_STORE").as_ref(), &kms));
}

/// Answers with keys passed through buffers of the HTTP client's, which it keeps with its
/// connections and never wipes.
#[test]
fn a_locked_daemon_holds_no_key_that_aws_gave() {
    if skipped("fuse") || skipped("ministack") {
        return;
    }
    for data_keys in ["per-file", "branch"] {
        let server = Server::ministack(Rules::None);
        new_key(&server, "kmsfs");
        let env = credentials("test", "test");
        let how = ["--master-key", "alias/kmsfs", "--data-keys", data_keys];
        let store = Store::aws(&server.url(), &env, &how);
        locked_daemon_holds_none(&store, "alias/kmsfs", || keys_of(&store, &server));
    }
}
