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

/// Seconds to unpack, and to read all again on a fresh mount.
fn round(server: &Server, key: &str, added: Duration, archive: &Path) -> (f64, f64) {
    let proxy = Proxy::before(server.port());
    let store = Store::aws(&proxy.url(), &credentials("test", "test"), &["--master-key", key]);
    proxy.set(Fault::Latency(added));
    let mount = store.mount(&["--key-cache", "8192"]);
    let start = Instant::now();
    run(Command::new("tar").arg("-C").arg(mount.root()).arg("-xf").arg(archive));
    let unpacked = start.elapsed().as_secs_f64();
    mount.unmount();
    let mount = store.mount(&["--key-cache", "8192"]);
    let start = Instant::now();
    let length = |p: &std::path::PathBuf| fs::read(p).expect("readable").len();
    let bytes: usize = crate::support::files(&mount.root()).iter().map(length).sum();
    assert!(bytes > FILES * 1000, "all was read");
    (unpacked, start.elapsed().as_secs_f64())
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

#[test]
#[ignore = "a measurement of several minutes"]
fn an_archive_of_5000_files() {
    let rounds = std::env::var("KMSFS_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(3);
    let temp = tempfile::tempdir().expect("a folder");
    archive(temp.path());
    let server = Server::ministack(Rules::None);
    let key = new_key(&server, "kmsfs");
    let (mut ratios, mut reads) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let tar = temp.path().join("a.tar");
        let (near, _) = round(&server, &key, Duration::ZERO, &tar);
        let (far, read) = round(&server, &key, Duration::from_millis(10), &tar);
        eprintln!(
            "unpacked in {near:.2} s at 0 ms, {far:.2} s at 10 ms; read again in {read:.2} s"
        );
        ratios.push(far / near);
        reads.push(read);
    }
    let (ratio, read) = (median(ratios), median(reads));
    println!(
        "5,000 files at 10 ms: unpacked in {ratio:.2} x of 0 ms (wanted: at most 1.3), read in {read:.1} s (wanted: at most 10)"
    );
    assert!(ratio <= 1.3 && read <= 10.0);
}
