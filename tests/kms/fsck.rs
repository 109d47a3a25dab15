//! `kmsfs fsck` of a store whose keys are on a server of the KMS API.

use std::fs;
use std::process::Command;

use crate::support::proxy::{Fault, Proxy};
use crate::support::server::{Rules, Server, credentials, key, new_key};
use crate::support::{Store, fails, run, skipped};

const FILES: u64 = 150;

/// Each file's key is one Decrypt, and they are asked for side by side; a KMS that refuses or is
/// out of reach ends the check, and damage is not made of it.
#[test]
fn a_check_asks_for_each_key_once_and_stops_where_there_is_no_answer() {
    if skipped("fuse") || skipped("ministack") {
        return;
    }
    let server = Server::ministack(Rules::None);
    let master = new_key(&server, "kmsfs");
    let store = Store::aws(&server.url(), &credentials("test", "test"), &["--master-key", &master]);
    let mount = store.mount(&[]);
    (0..FILES).for_each(|n| fs::write(mount.at(&format!("{n}")), "text").expect("written"));
    mount.unmount();
    let proxy = Proxy::before(server.port());
    let fsck = |proxy: &Proxy| -> Command {
        let mut command = store.kmsfs();
        command.arg("fsck").arg(store.path()).args(["--endpoint-url", &proxy.url()]);
        command
    };
    let told = run(&mut fsck(&proxy));
    assert!(told.contains("150 files, ") && told.contains(" 0 damage, "), "{told}");
    // The volume key, its canary, and each file's.
    assert_eq!(proxy.calls("Decrypt"), FILES + 2);
    assert_eq!(proxy.calls("GenerateDataKey"), 0);
    run(key(&server).args(["disable", &master]));
    let told = fails(&mut fsck(&proxy), 5);
    assert!(!told.contains("damage"), "{told}");
    run(key(&server).args(["enable", &master]));
    proxy.set(Fault::Reset);
    let told = fails(&mut fsck(&proxy), 6);
    assert!(!told.contains("damage"), "{told}");
}
