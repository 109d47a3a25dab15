//! Nothing acknowledged is lost, however often the mount locks and opens under writers.
//!
//! `KMSFS_TEST_FULL=1` runs a hundred cycles.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::support::mapping::Map;
use crate::support::role::{self, Role, Stamps};
#[cfg(feature = "aws")]
use crate::support::server::{Rules, Server};
use crate::support::{PATIENCE, Store, full_size, skipped, wait_for};

const ROLES: &str = "cycles::a_role";
const PAGES: usize = 64;
const PAGE: usize = 4096;
const LINE: usize = 20;
/// The stamp of each writer: how many of its numbers were acknowledged.
const LOGGED: usize = 0;
const MAPPED: usize = 1;

/// Appends numbered lines, each fdatasynced, until it is refused.
fn append(folder: &Path, stamps: &Stamps) {
    let log = OpenOptions::new().create(true).append(true).open(folder.join("log"));
    let mut log = log.expect("the mount is open");
    for n in stamps.get(LOGGED).. {
        // The kernel splits a write at a page's end: a lock in between leaves the line's first
        // half, which the next line's newline ends.
        let line = format!("\n{n:019}");
        if log.write_all(line.as_bytes()).and_then(|()| log.sync_data()).is_err() {
            return;
        }
        stamps.set(LOGGED, n + 1);
    }
}

/// Numbers the pages of a shared map round and round, each msynced, until it dies of SIGBUS.
fn map(folder: &Path, stamps: &Stamps) {
    let path = folder.join("map");
    let file = File::options().read(true).write(true).open(path).expect("the mount is open");
    let map = Map::shared(&file, PAGES * PAGE);
    for n in stamps.get(MAPPED).. {
        let at = n as usize % PAGES * PAGE;
        n.to_le_bytes().iter().enumerate().for_each(|(i, b)| map.set(at + i, *b));
        if map.sync(at).is_err() {
            return;
        }
        stamps.set(MAPPED, n + 1);
    }
}

/// Not a test: what the processes do that the test starts.
#[test]
#[ignore = "a process that other tests start"]
fn a_role() {
    let Some((role, folder, stamps)) = role::asked() else { return };
    let stamps = Stamps::open(&stamps);
    match role.as_str() {
        "append" => append(&folder, &stamps),
        "map" => map(&folder, &stamps),
        other => panic!("no such role: {other}"),
    }
}

/// What lies where a line should be, or not far behind: lines may be there twice.
fn around(log: &[u8], n: u64) -> String {
    let at = (n as usize * LINE).min(log.len());
    log[at..(at + 20 * LINE).min(log.len())].escape_ascii().to_string()
}

/// Every number that was acknowledged is in its place, or a later one in the map.
fn check(root: &Path, stamps: &Stamps, cycle: usize) {
    let logged = stamps.get(LOGGED);
    let log = fs::read(root.join("log")).expect("readable");
    let lines: std::collections::HashSet<_> = log.split(|b| *b == b'\n').collect();
    for n in 0..logged {
        let there = lines.contains(format!("{n:019}").as_bytes());
        assert!(there, "line {n} of {logged} is lost in cycle {cycle}: {}", around(&log, n));
    }
    let mapped = stamps.get(MAPPED);
    let file = File::open(root.join("map")).expect("opened");
    for n in mapped.saturating_sub(PAGES as u64)..mapped {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, n % PAGES as u64 * PAGE as u64).expect("readable");
        let found = u64::from_le_bytes(bytes);
        assert!(found >= n, "number {n} of the map is lost in cycle {cycle}: {found} is there");
    }
}

fn cycles(store: &Store, options: &[&str]) {
    let cycles = if full_size() { 100 } else { 3 };
    let mount = store.mount(&[&["--heartbeat", "1s"], options].concat());
    let (root, at) = (mount.root(), store.outside("stamps"));
    let stamps = Stamps::open(&at);
    File::create(root.join("map")).and_then(|f| f.set_len((PAGES * PAGE) as u64)).expect("made");
    for cycle in 0..cycles {
        let (lines, pages) = (stamps.get(LOGGED), stamps.get(MAPPED));
        let mut writers = ["append", "map"].map(|r| Role::start(ROLES, r, &root, &at));
        wait_for("a line and a page", PATIENCE, || {
            stamps.get(LOGGED) > lines && stamps.get(MAPPED) > pages
        });
        store.key(&["disable", "alias/kmsfs"]);
        mount.wait_state("revoked", PATIENCE);
        wait_for("the end of both writers", PATIENCE, || writers.iter_mut().all(Role::ended));
        store.key(&["enable", "alias/kmsfs"]);
        mount.wait_state("open", PATIENCE);
        check(&root, &stamps, cycle);
    }
    println!("{cycles} cycles: {} lines, {} pages", stamps.get(LOGGED), stamps.get(MAPPED));
}

#[test]
fn nothing_acknowledged_is_lost() {
    if !skipped("fuse") {
        cycles(&Store::new(&[]), &[]);
    }
}

#[test]
fn nothing_acknowledged_is_lost_with_writeback() {
    if !skipped("fuse") {
        cycles(&Store::new(&[]), &["--writeback"]);
    }
}

#[cfg(feature = "aws")]
#[test]
fn nothing_acknowledged_is_lost_with_a_kms_server() {
    if !skipped("fuse") && !skipped("ministack") {
        let server = Server::ministack(Rules::None);
        cycles(&Store::on(&server), &[]);
    }
}
