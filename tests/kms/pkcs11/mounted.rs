//! Mounts under a key of SoftHSM's.

use std::fs::{self, File};

use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::Session;
use rustix::fs::{FlockOperation, fcntl_lock};

use super::super::switch::{self, reread, written};
use super::process::{alone, session};
use crate::support::hsm::{PIN, SoftHsm};
use crate::support::{
    EKEYEXPIRED, EKEYREVOKED, PATIENCE, errno, fails, kmsfs, run, skipped, wait_for,
};

fn skip() -> bool {
    skipped("fuse") || skipped("softhsm")
}

/// The kill switch, from another process; what was synced is there again, with no remount.
#[test]
fn a_disabled_key_locks_the_mount_and_an_enabled_one_opens_it() {
    if skip() {
        return;
    }
    let hsm = SoftHsm::new();
    let store = hsm.store(&[]);
    let mount = store.mount(&["--heartbeat", "1s"]);
    let file = written(&mount, "file", b"on a token");
    for _ in 0..2 {
        switch::locks_and_opens(&store, &mount, ("file", &file), b"on a token");
    }
    fs::write(mount.at("new"), b"and it goes on").expect("written");
    // A key that is destroyed is refused too, for good.
    alone(&hsm, "mounted::destroys_the_key");
    mount.wait_state("revoked", PATIENCE);
    assert_eq!(errno(reread(&file)), Some(EKEYREVOKED));
    assert!(mount.last_error().contains("NotFoundException"), "{}", mount.last_error());
}

/// The key `kmsfs`, in a session that may write.
fn with_the_key(change: impl FnOnce(&Session, ObjectHandle)) {
    let session = session();
    let found = session.find_objects(&[Attribute::Label("kmsfs".into())]).expect("found");
    change(&session, found[0]);
}

#[test]
#[ignore = "run by the one above, with the token in its environment"]
fn destroys_the_key() {
    with_the_key(|session, key| session.destroy_object(key).expect("destroyed"));
}

#[test]
#[ignore = "run by another, with the token in its environment"]
fn forbids_to_encrypt() {
    with_the_key(|session, key| {
        session.update_attributes(key, &[Attribute::Encrypt(false)]).expect("set");
    });
}

/// Nothing is readable later than the heartbeat and a second after the disable is asked for.
#[test]
fn the_bound_holds() {
    if skip() {
        return;
    }
    let hsm = SoftHsm::new();
    let store = hsm.store(&[]);
    switch::holds_the_bound(&store);
}

/// A token that is taken out is an outage: the mount works on until its grace is over, and opens by
/// itself when the token is back, though the library must be initialised anew for that. With
/// another PIN in the file meanwhile it waits for the right one.
#[test]
fn a_token_that_is_taken_out_is_an_outage() {
    if skip() {
        return;
    }
    let hsm = SoftHsm::new();
    let store = hsm.store(&[]);
    let mount = store.mount(&["--heartbeat", "1s", "--outage-grace", "5s"]);
    let file = written(&mount, "file", b"cached");
    let outage = || {
        hsm.take_out();
        wait_for("a failed beat", PATIENCE, || mount.last_error().contains("TokenNotPresent"));
        assert_eq!(mount.state(), "open", "within the grace");
        assert_eq!(reread(&file).expect("cached"), b"cached");
        mount.wait_state("unreachable", PATIENCE);
        assert_eq!(errno(reread(&file)), Some(EKEYEXPIRED));
    };
    let opens = || {
        mount.wait_state("open", PATIENCE);
        assert_eq!(reread(&file).expect("again"), b"cached");
    };
    outage();
    hsm.put_back();
    opens();
    outage();
    hsm.set_pin("00000");
    hsm.put_back();
    wait_for("a refused PIN", PATIENCE, || mount.last_error().contains("not tried again"));
    assert_eq!(mount.state(), "unreachable");
    hsm.set_pin(PIN);
    opens();
    fs::write(mount.at("new"), b"and it goes on").expect("written");
    // And the kill switch works in the new sessions.
    store.key(&["disable", "kmsfs"]);
    mount.wait_state("revoked", PATIENCE);
    store.key(&["enable", "kmsfs"]);
    opens();
}

/// A call that hangs in the library, here at a lock on the token's file: nobody waits for it, and
/// the mount works on until its grace is over.
#[test]
fn a_library_that_hangs_is_an_outage() {
    if skip() {
        return;
    }
    let hsm = SoftHsm::new();
    let store = hsm.store(&[]);
    let mount = store.mount(&["--heartbeat", "1s", "--outage-grace", "6s"]);
    let file = written(&mount, "file", b"cached");
    for _ in 0..2 {
        let generation = File::options().write(true).open(hsm.token().join("generation"));
        let generation = generation.expect("opened");
        fcntl_lock(&generation, FlockOperation::LockExclusive).expect("locked");
        wait_for("a failed beat", PATIENCE, || mount.last_error().contains("Timeout"));
        assert_eq!(mount.state(), "open", "within the grace");
        assert_eq!(reread(&file).expect("cached"), b"cached");
        mount.wait_state("unreachable", PATIENCE);
        assert_eq!(errno(reread(&file)), Some(EKEYEXPIRED));
        drop(generation);
        mount.wait_state("open", PATIENCE);
        assert_eq!(reread(&file).expect("again"), b"cached");
    }
}

/// A mount with the wrong PIN ends at the terminal, and the token has counted it once.
#[test]
fn a_wrong_pin_is_told_at_the_mount() {
    if skip() {
        return;
    }
    let hsm = SoftHsm::new();
    let store = hsm.store(&[]);
    hsm.set_pin("00000");
    let mounting = || {
        let mut command = store.kmsfs();
        command.arg("mount").arg(store.path()).arg(store.mountpoint());
        command
    };
    let said = fails(&mut mounting(), 4);
    assert!(said.contains("PinIncorrect") && said.contains("--pkcs11-pin-file"), "{said}");
    hsm.set_pin(PIN);
    run(&mut mounting());
    let mount = store.mounted();
    fs::write(mount.at("file"), b"here").expect("written");
}

/// Who can write a store says neither which library is loaded nor where a PIN goes.
#[test]
fn a_pin_goes_only_to_the_token_that_its_user_names() {
    if skip() {
        return;
    }
    let hsm = SoftHsm::new();
    let store = hsm.store(&[]);
    let told = run(kmsfs().arg("info").arg(store.path()));
    assert!(told.contains("kmsfs test") && told.contains("pkcs11:kmsfs%20test:key/"), "{told}");
    assert!(!told.contains(".so"), "{told}");
    let mut mounting = kmsfs();
    mounting.arg("mount").arg(store.path()).arg(store.mountpoint());
    let said = fails(mounting.envs(hsm.env()).env_remove("KMSFS_PKCS11_TOKEN"), 4);
    assert!(said.contains("--pkcs11-token \"kmsfs test\""), "{said}");
    // Another token of the same library has no key of that name.
    hsm.add_token("another");
    let mut mounting = store.kmsfs();
    mounting.arg("mount").arg(store.path()).arg(store.mountpoint());
    let said = fails(mounting.args(["--pkcs11-token", "another"]), 5);
    assert!(said.contains("is not a key of pkcs11:another"), "{said}");
    let mount = store.mount(&[]);
    fs::write(mount.at("file"), b"here").expect("written");
}

/// A key that may decrypt and not encrypt is enough for a mount that writes nothing.
#[test]
fn a_key_that_only_decrypts_mounts_read_only() {
    if skip() {
        return;
    }
    let hsm = SoftHsm::new();
    let store = hsm.store(&[]);
    written(&store.mount(&[]), "file", b"to be read");
    alone(&hsm, "mounted::forbids_to_encrypt");
    let mut mounting = store.kmsfs();
    fails(mounting.arg("mount").arg(store.path()).arg(store.mountpoint()), 5);
    let mount = store.mount(&["--read-only", "--heartbeat", "1s"]);
    assert_eq!(fs::read(mount.at("file")).expect("readable"), b"to be read");
    wait_for("heartbeats", PATIENCE, || mount.report()["beats"].as_u64() >= Some(3));
    assert_eq!(
        (mount.state(), mount.report()["beats_failed"].as_u64()),
        ("open".to_owned(), Some(0))
    );
    store.key(&["disable", "kmsfs"]);
    mount.wait_state("revoked", PATIENCE);
}
