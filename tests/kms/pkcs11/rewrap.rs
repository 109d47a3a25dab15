//! Rewrapping on a token, and from the embedded keystore to it and back.

use std::fs;
use std::process::Command;

use crate::support::hsm::SoftHsm;
use crate::support::{Store, fails, files, kmsfs, run, skipped};

const FILES: u64 = 60;

fn names(store: &Store, what: &str) -> bool {
    files(&store.path()).iter().any(|f| fs::read_to_string(f).is_ok_and(|t| t.contains(what)))
}

fn rewrap(hsm: &SoftHsm, store: &Store, args: &[&str]) -> Command {
    let mut command = kmsfs();
    command.arg("rewrap").arg(store.path()).args(args).envs(hsm.env());
    command
}

fn new_key(hsm: &SoftHsm, label: &str) -> String {
    run(&mut hsm.key(&["create", "--alias", label])).trim().to_owned()
}

/// A token has no ReEncrypt: it is Decrypt and Encrypt, and says so. The mount goes on beside it,
/// and the old key can be disabled at once.
#[test]
fn a_mounted_store_goes_to_another_key_of_the_token() {
    if skipped("fuse") || skipped("softhsm") {
        return;
    }
    let hsm = SoftHsm::new();
    let [first, next] = ["first", "next"].map(|label| new_key(&hsm, label));
    for data_keys in ["per-file", "branch"] {
        let how = ["--master-key", "first", "--data-keys", data_keys];
        let store = Store::pkcs11(&hsm.env(), &how);
        let mount = store.mount(&["--heartbeat", "2s"]);
        mount.fill(FILES);
        let planned = run(&mut rewrap(&hsm, &store, &["--to", "next", "--dry-run"]));
        assert!(planned.contains("Decrypt, then Encrypt"), "{planned}");
        assert!(planned.contains(&format!("key/{next}")) && !planned.contains("USD"), "{planned}");
        assert!(!names(&store, &next), "nothing is written");
        let done = run(&mut rewrap(&hsm, &store, &["--to", "next"]));
        assert!(done.contains("rewrapped"), "{done}");
        store.key(&["disable", "first"]);
        fs::write(mount.at("more"), b"under the new key").expect("written");
        mount.check_filled(FILES);
        assert_eq!(mount.state(), "open");
        mount.unmount();
        assert!(!names(&store, &first), "nothing is left under the old key");
        store.mount(&[]).check_filled(FILES);
        store.key(&["enable", "first"]);
    }
}

#[test]
fn a_store_moves_from_the_keystore_to_a_token_and_back() {
    if skipped("fuse") || skipped("softhsm") {
        return;
    }
    let hsm = SoftHsm::new();
    new_key(&hsm, "kmsfs");
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    mount.fill(FILES);
    let there = ["--to", "alias/kmsfs", "--to-kms", "pkcs11"];
    let said = fails(&mut rewrap(&hsm, &store, &there), 9);
    assert!(said.contains("kmsfs unmount"), "{said}");
    mount.unmount();
    run(&mut rewrap(&hsm, &store, &there));
    assert!(!names(&store, "arn:kmsfs:"), "nothing is left under the keystore");
    let mut mounting = kmsfs();
    run(mounting.arg("mount").arg(store.path()).arg(store.mountpoint()).envs(hsm.env()));
    let mount = store.mounted();
    mount.check_filled(FILES);
    mount.unmount();

    let back = ["--to", "alias/kmsfs", "--to-kms", "local", "--keystore"];
    let keystore = store.keystore().display().to_string();
    run(&mut rewrap(&hsm, &store, &[&back[..], &[&keystore]].concat()));
    assert!(!names(&store, "pkcs11:"), "nothing is left on the token");
    store.mount(&[]).check_filled(FILES);
}
