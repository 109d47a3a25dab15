//! Rewrapping on servers of the KMS API, and from the embedded keystore to one and back.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::proxy::{Fault, Proxy};
use crate::support::recovery::Holder;
use crate::support::server::{Rules, Server, credentials, key, new_key};
use crate::support::{EKEYREJECTED, Store, errno, fails, files, kmsfs, run, skipped, wait_for};

const FILES: u64 = 150;

fn rewrap(store: &Store, to: &str) -> Command {
    let mut command = kmsfs();
    command.arg("rewrap").arg(store.path()).args(["--to", to]);
    command.envs(credentials("test", "test"));
    command
}

fn names(store: &Path, what: &str) -> bool {
    files(store).iter().any(|f| fs::read_to_string(f).is_ok_and(|t| t.contains(what)))
}

/// The rewrapper may do nothing but ReEncrypt; the mount goes on beside it, and the old key can
/// be disabled at once.
#[test]
fn whoever_may_only_reencrypt_can_rewrap_beside_a_mount() {
    if skipped("fuse") || skipped("localstack") {
        return;
    }
    let server = Server::localstack();
    let old = new_key(&server, "kmsfs");
    let new = new_key(&server, "next");
    let store = Store::aws(&server.url(), &credentials("test", "test"), &["--master-key", &old]);
    let mount = store.mount(&["--heartbeat", "2s"]);
    mount.fill(FILES);
    let proxy = Proxy::before(server.port());
    proxy.set(Fault::error("AccessDeniedException", "not this one"));
    proxy.set_for("ReEncrypt", Fault::None);
    let mut command = rewrap(&store, "alias/next");
    let said = run(command.args(["--endpoint-url", &proxy.url()]));
    assert!(said.contains("rewrapped"), "{said}");
    assert!(proxy.calls("ReEncrypt") > FILES);
    assert_eq!(proxy.calls("Decrypt") + proxy.calls("DescribeKey"), 0);
    run(key(&server).args(["disable", &old]));
    fs::write(mount.at("more"), b"under the new key").expect("written");
    mount.check_filled(FILES);
    assert_eq!(mount.state(), "open");
    mount.unmount();
    assert!(!names(&store.path(), &old));
    let mount = store.mount(&[]);
    mount.check_filled(FILES);
    drop(mount);
    let info = run(kmsfs().arg("info").arg(store.path()));
    assert!(info.contains(&new) && info.contains("alias/next"), "{info}");
}

/// A store moves from the embedded keystore to a KMS server and back; cut short in between, the
/// same command goes on.
#[test]
fn a_store_moves_to_another_kms_and_back() {
    if skipped("fuse") || skipped("ministack") {
        return;
    }
    let server = Server::ministack(Rules::None);
    let there = new_key(&server, "kmsfs");
    let proxy = Proxy::before(server.port());
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    mount.fill(FILES);
    let to_aws = |more: &[&str]| {
        let mut command = rewrap(&store, "alias/kmsfs");
        command.args(["--to-kms", "aws", "--endpoint-url", &proxy.url()]).args(more);
        command
    };
    let said = fails(&mut to_aws(&[]), 9);
    assert!(said.contains("kmsfs unmount"), "{said}");
    mount.unmount();
    let said = run(&mut to_aws(&["--dry-run"]));
    assert!(said.contains(&format!("{} keys: {} calls", FILES + 2, (FILES + 2) * 2)), "{said}");

    // The KMS goes away in the middle: the store is still the keystore's.
    let child = to_aws(&[]).spawn();
    let mut child = child.expect("it starts");
    wait_for("the first pages", std::time::Duration::from_secs(60), || {
        names(&store.path(), &there)
    });
    proxy.set(Fault::Hang);
    let status = child.wait().expect("it is ours");
    proxy.set(Fault::None);
    if !status.success() {
        assert_eq!(status.code(), Some(6), "{status}");
        let mount = store.mount(&[]);
        let read = (0..FILES).map(|n| fs::read(mount.at(&format!("{n}")))).collect::<Vec<_>>();
        assert!(read.iter().any(Result::is_ok));
        let rejected = |r: std::io::Result<Vec<u8>>| errno(r) == Some(EKEYREJECTED);
        assert!(read.into_iter().filter(Result::is_err).all(rejected));
        fs::write(mount.at("between"), b"two runs").expect("written");
    }
    let said = run(&mut to_aws(&[]));
    assert!(said.contains("rewrapped"), "{said}");
    assert!(!names(&store.path(), "arn:kmsfs:"), "nothing is left under the keystore");
    let mut mount = kmsfs();
    mount.arg("mount").arg(store.path()).arg(store.mountpoint());
    run(mount.args(["--endpoint-url", &server.url()]).envs(credentials("test", "test")));
    let mount = store.mounted();
    mount.check_filled(FILES);
    mount.unmount();

    let mut back = rewrap(&store, "alias/kmsfs");
    back.args(["--to-kms", "local", "--endpoint-url", &server.url()]);
    run(back.arg("--keystore").arg(store.keystore()));
    assert!(!names(&store.path(), "arn:aws:"), "nothing is left under the server");
    let mount = store.mount(&[]);
    mount.check_filled(FILES);
}

/// The embedded keystore is lost, and its store is recovered to a server, which refuses in the
/// middle: the same command goes on.
#[test]
fn a_store_whose_keystore_is_lost_is_recovered_to_a_server() {
    if skipped("fuse") || skipped("ministack") {
        return;
    }
    let server = Server::ministack(Rules::None);
    let there = new_key(&server, "kmsfs");
    let proxy = Proxy::before(server.port());
    let store = Store::unmade();
    let holder = Holder::new(store.outside("identity"));
    let store = store.made(&["--recovery", &holder.recipient]);
    let mount = store.mount(&[]);
    mount.fill(FILES);
    mount.unmount();
    fs::remove_dir_all(store.keystore()).expect("removed");
    let recover = |more: &[&str]| {
        let mut command = kmsfs();
        command.arg("recover").arg(store.path()).arg("--identity").arg(&holder.file);
        command.args(["--kms", "aws", "--endpoint-url", &proxy.url()]);
        command.envs(credentials("test", "test")).args(more);
        command
    };
    let said = fails(&mut recover(&[]), 2);
    assert!(said.contains("--master-key"), "{said}");
    let named = ["--master-key", "alias/kmsfs"];
    let slowly = recover(&named).args(["--kms-rate", "100"]).spawn();
    let mut slowly = slowly.expect("it starts");
    wait_for("the first pages", std::time::Duration::from_secs(60), || {
        names(&store.path(), &there)
    });
    proxy.set(Fault::error("AccessDeniedException", "not now"));
    let status = slowly.wait().expect("it is ours");
    assert_eq!(status.code(), Some(5), "{status}");
    proxy.set(Fault::None);
    let before = proxy.calls("Encrypt");
    let said = run(&mut recover(&named));
    assert!(said.contains("recovered"), "{said}");
    assert!(proxy.calls("Encrypt") - before < FILES, "what was done stayed done");
    assert!(!names(&store.path(), "arn:kmsfs:"), "nothing is left under the keystore");
    let mut mount = kmsfs();
    mount.arg("mount").arg(store.path()).arg(store.mountpoint());
    run(mount.args(["--endpoint-url", &server.url()]).envs(credentials("test", "test")));
    store.mounted().check_filled(FILES);
}

/// With `--only-current-key` an alias of the server's that moves cuts off what is under the old
/// key, open and cached, within a heartbeat; moved back, it is readable again.
#[test]
fn an_alias_of_a_server_that_moves_cuts_off_the_old_key() {
    if skipped("fuse") || skipped("localstack") {
        return;
    }
    let server = Server::localstack();
    let old = new_key(&server, "kmsfs");
    let new = new_key(&server, "next");
    let env = credentials("test", "test");
    let args = ["--master-key", "alias/kmsfs", "--only-current-key"];
    let store = Store::aws(&server.url(), &env, &args);
    let mount = store.mount(&["--heartbeat", "1s"]);
    mount.fill(FILES);
    let open = fs::File::open(mount.at("7")).expect("opened");
    let reread = || {
        let mut text = [0; 6];
        std::os::unix::fs::FileExt::read_exact_at(&open, &mut text, 0).map(|()| text)
    };
    assert_eq!(&reread().expect("readable"), b"text 7");
    let soon = std::time::Duration::from_secs(20);
    run(key(&server).args(["alias", "set", "kmsfs", &new]));
    wait_for("the old key is cut off", soon, || errno(reread()) == Some(EKEYREJECTED));
    assert_eq!(errno(fs::read(mount.at("8"))), Some(EKEYREJECTED));
    fs::write(mount.at("more"), b"under the new key").expect("written");
    assert_eq!(mount.state(), "open");
    run(key(&server).args(["alias", "set", "kmsfs", &old]));
    wait_for("the old key is back", soon, || reread().is_ok());
    mount.check_filled(FILES);
    assert_eq!(errno(fs::read(mount.at("more"))), Some(EKEYREJECTED));
    let mut command = rewrap(&store, "alias/next");
    run(command.args(["--endpoint-url", &server.url()]));
    wait_for("all under one key", soon, || fs::read(mount.at("more")).is_ok());
    mount.check_filled(FILES);
}
