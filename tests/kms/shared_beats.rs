//! Mounts of one machine that share their heartbeats: they ask as often as one would, and each
//! locks within the bound.

use std::fs::File;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::proxy::Proxy;
use crate::support::server::{Rules, Server, credentials, new_key};
use crate::support::{Mount, PATIENCE, Store, kmsfs, run, skipped, wait_for};
use crate::switch::{last_success, reread, written};

fn skip() -> bool {
    skipped("fuse") || skipped("ministack")
}

const HEARTBEAT: Duration = Duration::from_secs(3);
const OPTIONS: [&str; 3] = ["--heartbeat", "3s", "--share-heartbeat"];

/// Beats of its own, and those of others that counted for it.
fn beats(mount: &Mount<'_>) -> (u64, u64) {
    let report = mount.report();
    let number = |name: &str| report[name].as_u64().expect("a number");
    (number("beats"), number("beats_heard"))
}

/// Nothing of these files is readable later than the bound.
fn locks_within_the_bound(store: &Store, key: &str, files: &[File]) {
    let last = last_success(store, key, files);
    assert!(last < HEARTBEAT + Duration::from_secs(1), "{last:?}");
}

#[test]
fn mounts_of_one_key_ask_as_often_as_one() {
    if skip() {
        return;
    }
    let server = Server::ministack(Rules::None);
    let (proxy, key) = (Proxy::before(server.port()), new_key(&server, "kmsfs"));
    let env = credentials("test", "test");
    let stores = [(); 3].map(|()| Store::aws(&proxy.url(), &env, &["--master-key", &key]));
    let mounts: Vec<_> = stores.iter().map(|store| store.mount(&OPTIONS)).collect();
    let files: Vec<_> = mounts.iter().map(|mount| written(mount, "file", b"readable")).collect();
    let (before, begun) = (proxy.calls("Decrypt"), mounts.iter().map(|m| beats(m).0).sum::<u64>());
    wait_for("ten beats for each", PATIENCE, || {
        mounts.iter().map(beats).all(|(own, heard)| own + heard >= 10)
    });
    let all: Vec<_> = mounts.iter().map(beats).collect();
    let own: u64 = all.iter().map(|(own, _)| own).sum();
    // Two that are due in the same moment may both ask.
    assert!(own < 18, "{all:?}");
    let calls = proxy.calls("Decrypt") - before;
    assert!(calls <= own - begun + 3, "{calls} of Decrypt, {all:?}");
    let told = run(kmsfs().arg("status").arg(mounts[0].root()));
    assert!(told.contains("of other mounts counted") && told.contains("pay them once"), "{told}");
    locks_within_the_bound(&stores[0], &key, &files);
    for mount in &mounts {
        mount.wait_state("revoked", PATIENCE);
    }
    stores[0].key(&["enable", &key]);
    for mount in &mounts {
        mount.wait_state("open", PATIENCE);
    }
    assert!(files.iter().all(|file| reread(file).is_ok()), "by the same descriptors");
}

/// A process that stands still until this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn new(process: Pid) -> Self {
        kill_process(process, Signal::STOP).expect("stopped");
        Self(process)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// Whichever of them is killed, or hangs, the rest ask for themselves.
#[test]
fn the_bound_holds_for_those_who_are_left() {
    if skip() {
        return;
    }
    let server = Server::ministack(Rules::None);
    let key = new_key(&server, "kmsfs");
    let env = credentials("test", "test");
    let stores = [(); 3].map(|()| Store::aws(&server.url(), &env, &["--master-key", &key]));
    let mut mounts: Vec<_> = stores.iter().map(|store| store.mount(&OPTIONS)).collect();
    let heard = || mounts.iter().map(|mount| beats(mount).1).sum::<u64>();
    wait_for("shared beats", PATIENCE, || heard() >= 4);
    // Who has asked most is killed, for the others rely on that one.
    mounts.sort_by_key(|mount| std::cmp::Reverse(beats(mount).0));
    let last = written(&mounts[2], "file", b"readable");
    let process = |mount: &Mount<'_>| Pid::from_raw(mount.pid() as i32).expect("a process");
    let (killed, stopped) = (process(&mounts[0]), process(&mounts[1]));
    kill_process(killed, Signal::KILL).expect("killed");
    let _goes_on = Stopped::new(stopped);
    let begun = beats(&mounts[2]).0;
    wait_for("beats of its own", PATIENCE, || beats(&mounts[2]).0 >= begun + 3);
    assert_eq!(mounts[2].state(), "open");
    locks_within_the_bound(&stores[2], &key, &[last]);
}

/// The KMS may answer them differently.
#[test]
fn other_callers_share_nothing() {
    if skip() {
        return;
    }
    let server = Server::ministack(Rules::None);
    let key = new_key(&server, "kmsfs");
    let stores = ["one", "two"].map(|caller| {
        Store::aws(&server.url(), &credentials(caller, "test"), &["--master-key", &key])
    });
    let mounts: Vec<_> = stores.iter().map(|store| store.mount(&OPTIONS)).collect();
    wait_for("beats", PATIENCE, || mounts.iter().all(|mount| beats(mount).0 >= 3));
    assert!(mounts.iter().all(|mount| beats(mount).1 == 0), "they are of different callers");
}
