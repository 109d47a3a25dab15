//! Rewrapping within Vault, and from the embedded keystore to it and back.

use std::fs;
use std::process::Command;

use crate::support::bao::Bao;
use crate::support::{Store, fails, files, kmsfs, run, skipped};

const FILES: u64 = 60;

fn names(store: &Store, what: &str) -> bool {
    files(&store.path()).iter().any(|f| fs::read_to_string(f).is_ok_and(|t| t.contains(what)))
}

fn rewrap(bao: &Bao, store: &Store, args: &[&str]) -> Command {
    let mut command = kmsfs();
    command.arg("rewrap").arg(store.path()).args(args).envs(bao.env(bao.root()));
    command
}

fn server() -> Bao {
    let bao = Bao::start();
    for key in ["kmsfs", "next"] {
        bao.cli(&["write", "-f", &format!("transit/keys/{key}")]);
    }
    bao
}

/// Transit has no ReEncrypt for what kmsfs wraps: it is Decrypt and Encrypt, and says so. The mount
/// goes on beside it, and the old key can be disabled at once.
#[test]
fn a_mounted_store_goes_to_another_key_of_the_same_server() {
    if skipped("fuse") || skipped("openbao") {
        return;
    }
    let bao = server();
    for data_keys in ["per-file", "branch"] {
        let how = ["--master-key", "kmsfs", "--data-keys", data_keys];
        let store = Store::vault(&bao.env(bao.root()), &how);
        let mount = store.mount(&["--heartbeat", "2s"]);
        mount.fill(FILES);
        let planned = run(&mut rewrap(&bao, &store, &["--to", "next", "--dry-run"]));
        assert!(planned.contains("Decrypt, then Encrypt"), "{planned}");
        assert!(
            planned.contains("vault:transit:key/next") && !planned.contains("USD"),
            "{planned}"
        );
        assert!(!names(&store, "key/next"), "nothing is written");
        let done = run(&mut rewrap(&bao, &store, &["--to", "next"]));
        assert!(done.contains("rewrapped"), "{done}");
        store.key(&["disable", "kmsfs"]);
        fs::write(mount.at("more"), b"under the new key").expect("written");
        mount.check_filled(FILES);
        assert_eq!(mount.state(), "open");
        mount.unmount();
        assert!(!names(&store, "key/kmsfs"), "nothing is left under the old key");
        store.mount(&[]).check_filled(FILES);
        store.key(&["enable", "kmsfs"]);
    }
}

/// A server is found at another URL: the same key there is no other key.
#[test]
fn a_server_that_moved_is_noted() {
    if skipped("fuse") || skipped("openbao") {
        return;
    }
    let bao = server();
    let store = Store::vault(&bao.env(bao.root()), &["--master-key", "kmsfs"]);
    let mount = store.mount(&[]);
    mount.fill(FILES);
    mount.unmount();
    let moved = format!("http://127.0.0.1:{}", bao.plain_port());
    let to = ["--to", "kmsfs", "--vault-addr", &moved];
    let said = run(&mut rewrap(&bao, &store, &to));
    assert!(said.contains("rewrapped 0 keys"), "{said}");
    let info = run(kmsfs().arg("info").arg(store.path()));
    assert!(info.contains(&moved), "{info}");
    store.mount(&["--vault-addr", &moved]).check_filled(FILES);
}

#[test]
fn a_store_moves_from_the_keystore_to_vault_and_back() {
    if skipped("fuse") || skipped("openbao") {
        return;
    }
    let bao = server();
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    mount.fill(FILES);
    let there = ["--to", "kmsfs", "--to-kms", "vault"];
    let said = fails(&mut rewrap(&bao, &store, &there), 9);
    assert!(said.contains("kmsfs unmount"), "{said}");
    mount.unmount();
    run(&mut rewrap(&bao, &store, &there));
    assert!(!names(&store, "arn:kmsfs:"), "nothing is left under the keystore");
    let mut mounting = kmsfs();
    mounting.arg("mount").arg(store.path()).arg(store.mountpoint()).envs(bao.env(bao.root()));
    run(&mut mounting);
    let mount = store.mounted();
    mount.check_filled(FILES);
    mount.unmount();
    // A namesake in another Transit of the server's is another key.
    bao.cli(&["secrets", "enable", "-path=team/transit", "transit"]);
    bao.cli(&["write", "-f", "team/transit/keys/kmsfs"]);
    run(&mut rewrap(&bao, &store, &["--to", "kmsfs", "--vault-mount", "team/transit"]));
    assert!(!names(&store, "vault:transit:"), "nothing is left under the first");
    assert!(names(&store, "vault:team/transit:key/kmsfs"));

    let back = ["--to", "alias/kmsfs", "--to-kms", "local", "--keystore"];
    let keystore = store.keystore().display().to_string();
    run(&mut rewrap(&bao, &store, &[&back[..], &[&keystore]].concat()));
    assert!(!names(&store, "vault:"), "nothing is left under the server");
    store.mount(&[]).check_filled(FILES);
}
