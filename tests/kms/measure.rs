//! Measurements with 10 ms added to every call; `scripts/acceptance kms` runs and prints them.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::proxy::{Fault, Proxy};
use crate::support::server::{Rules, Server, credentials, new_key};
use crate::support::{Store, run};

const FILES: usize = 5000;

/// A tar archive of many small files in fifty folders.
fn archive(at: &Path) {
    let tree = at.join("tree");
    for n in 0..FILES {
        let folder = tree.join(format!("d{:02}", n / 100));
        fs::create_dir_all(&folder).expect("made");
        fs::write(folder.join(format!("f{n}")), vec![b'x'; 1000 + n % 4000]).expect("written");
    }
    run(Command::new("tar").arg("-C").arg(at).args(["-cf"]).arg(at.join("a.tar")).arg("tree"));
}

/// What one round took.
struct Round {
    /// Seconds to unpack.
    unpack: f64,
    /// Seconds to read all again, on a fresh mount.
    read: f64,
    /// Calls of the KMS by the two mounts.
    calls: u64,
}

fn round(server: &Server, key: &str, mode: &str, added: Duration, archive: &Path) -> Round {
    let proxy = Proxy::before(server.port());
    let args = ["--master-key", key, "--data-keys", mode];
    let store = Store::aws(&proxy.url(), &credentials("test", "test"), &args);
    proxy.set(Fault::Latency(added));
    // Without heartbeats, the calls are those for keys.
    let args = ["--key-cache", "8192", "--heartbeat", "1h"];
    let mount = store.mount(&args);
    let start = Instant::now();
    run(Command::new("tar").arg("-C").arg(mount.root()).arg("-xf").arg(archive));
    let unpack = start.elapsed().as_secs_f64();
    let calls = mount.kms_calls();
    mount.unmount();
    let mount = store.mount(&args);
    let start = Instant::now();
    let length = |p: &std::path::PathBuf| fs::read(p).expect("readable").len();
    let bytes: usize = crate::support::files(&mount.root()).iter().map(length).sum();
    let read = start.elapsed().as_secs_f64();
    assert!(bytes > FILES * 1000, "all was read");
    Round { unpack, read, calls: calls + mount.kms_calls() }
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

fn rounds() -> usize {
    std::env::var("KMSFS_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3)
}

/// Rounds at 0 ms and at 10 ms, side by side.
fn pairs(mode: &str) -> Vec<(Round, Round)> {
    let temp = tempfile::tempdir().expect("a folder");
    archive(temp.path());
    let server = Server::ministack(Rules::None);
    let key = new_key(&server, "kmsfs");
    let tar = temp.path().join("a.tar");
    let pair = |_| {
        let near = round(&server, &key, mode, Duration::ZERO, &tar);
        let far = round(&server, &key, mode, Duration::from_millis(10), &tar);
        eprintln!(
            "{mode}: unpacked in {:.2} s at 0 ms, {:.2} s at 10 ms; read again in {:.2} s and \
             {:.2} s; {} and {} calls",
            near.unpack, far.unpack, near.read, far.read, near.calls, far.calls
        );
        (near, far)
    };
    (0..rounds()).map(pair).collect()
}

#[test]
#[ignore = "a measurement of several minutes"]
fn an_archive_of_5000_files() {
    let pairs = pairs("per-file");
    let ratio = median(pairs.iter().map(|(near, far)| far.unpack / near.unpack).collect());
    let read = median(pairs.iter().map(|(_, far)| far.read).collect());
    println!(
        "5,000 files at 10 ms: unpacked in {ratio:.2} x of 0 ms (wanted: at most 1.3), read in {read:.1} s (wanted: at most 10)"
    );
    assert!(ratio <= 1.3 && read <= 10.0);
}

#[test]
#[ignore = "a measurement of several minutes"]
fn an_archive_of_5000_files_under_branch_keys() {
    let pairs = pairs("branch");
    let unpack = median(pairs.iter().map(|(near, far)| far.unpack / near.unpack).collect());
    let read = median(pairs.iter().map(|(near, far)| far.read / near.read).collect());
    let calls = pairs.iter().map(|(_, far)| far.calls).max().expect("a round at least");
    println!(
        "5,000 files under branch keys at 10 ms: unpacked in {unpack:.2} x, read in {read:.2} x of 0 ms (wanted: at most 1.1), {calls} calls (wanted: fewer than 20)"
    );
    assert!(unpack <= 1.1 && read <= 1.1 && calls < 20);
}
