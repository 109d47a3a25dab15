//! What a locked daemon's memory holds: no key in any form, and plaintext only where
//! docs/THREATS.md says so.

use std::fs::{self, File};

use crate::support::recovery::Holder;
use crate::support::scan::{Pages, count, found, keys_of, memory_of, places};
use crate::support::{PATIENCE, Store, kmsfs, run, skipped};

const MARK: &[u8] = b"<a mark in the plaintext of a file>";

const NAME: &str = "a-marked-name-";

/// The workers' request buffers: fuser's, which it never wipes.
fn request_buffers(memory: &mut Vec<Pages>) -> Vec<Pages> {
    memory.extract_if(.., |pages| pages.region >= 16 << 20).collect()
}

#[test]
fn a_locked_daemon_holds_no_key_and_no_plaintext() {
    look_into_a_locked_daemon(&Store::new(&[]), &[]);
}

#[test]
fn a_locked_daemon_holds_no_branch_key() {
    look_into_a_locked_daemon(&Store::new(&["--data-keys", "branch"]), &[]);
}

/// Those that wrap each data key a second time, which the daemon made itself.
#[test]
fn a_locked_daemon_holds_no_key_of_its_recovery() {
    let store = Store::unmade();
    let holder = Holder::new(store.outside("holder"));
    let store = store.made(&["--recovery", &holder.recipient]);
    look_into_a_locked_daemon(&store, &[holder]);
}

fn look_into_a_locked_daemon(store: &Store, holders: &[Holder]) {
    if skipped("fuse") {
        return;
    }
    // Its paths pass through the daemon too.
    let log = store.outside("audit.jsonl");
    let mount = store.mount(&["--heartbeat", "2s", "--audit-log", log.to_str().expect("UTF-8")]);
    let text = MARK.repeat(2000);
    for i in 0..40 {
        fs::write(mount.at(&format!("{NAME}{i}")), &text).expect("written");
    }
    for i in 0..40 {
        let file = File::open(mount.at(&format!("{NAME}{i}"))).expect("opened");
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        assert_eq!(fs::read(mount.at(&format!("{NAME}{i}"))).expect("readable"), text);
    }
    let mut keys = keys_of(store);
    keys.extend(holders.iter().flat_map(|holder| holder.branch_keys(&store.path())));
    let open = memory_of(mount.pid());
    let held = !found(&open, &keys).is_empty();
    assert!(held, "an open daemon holds keys, and this search finds them");

    run(kmsfs()
        .arg("key")
        .arg("--keystore")
        .arg(store.keystore())
        .args(["disable", "alias/kmsfs"]));
    mount.wait_state("revoked", PATIENCE);
    let mut locked = memory_of(mount.pid());
    let left = found(&locked, &keys);
    assert!(left.is_empty(), "in a locked daemon's memory: {left:#?}");
    let buffers = request_buffers(&mut locked);
    println!(
        "{} keys looked for; in request buffers: {} marks of plaintext, {} names",
        keys.len(),
        count(&buffers, MARK),
        count(&buffers, NAME.as_bytes())
    );
    for mark in [MARK, NAME.as_bytes()] {
        let left = places(&locked, mark);
        assert!(left.is_empty(), "plaintext outside the request buffers: {left:#?}");
    }
}
