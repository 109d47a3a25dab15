//! Processes of the test's own binary in other roles, and what they leave for the test.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// CLOCK_MONOTONIC in microseconds: one clock for all processes.
pub fn micros() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    t.tv_sec.unsigned_abs() * 1_000_000 + t.tv_nsec.unsigned_abs() / 1000
}

/// Numbers in a file outside the mount, by slot.
pub struct Stamps(File);

impl Stamps {
    /// The file, made where it is not.
    pub fn open(path: &Path) -> Self {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path);
        Self(file.expect("a file outside the mount"))
    }

    /// A slot; zero until it is set.
    pub fn get(&self, slot: usize) -> u64 {
        let mut bytes = [0; 8];
        // A slot that was never written reads as zero.
        let _ = self.0.read_at(&mut bytes, slot as u64 * 8).expect("readable");
        u64::from_le_bytes(bytes)
    }

    /// Sets a slot.
    pub fn set(&self, slot: usize, value: u64) {
        self.0.write_all_at(&value.to_le_bytes(), slot as u64 * 8).expect("writable");
    }
}

/// A process in another role; killed when dropped.
pub struct Role(Child);

impl Role {
    /// Starts this binary with nothing but the ignored test `entry`, which plays `role` on
    /// `folder` and leaves its stamps in the file `stamps`.
    pub fn start(entry: &str, role: &str, folder: &Path, stamps: &Path) -> Self {
        let child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", entry, "--ignored", "--nocapture"])
            .env("KMSFS_TEST_ROLE", role)
            .env("KMSFS_TEST_FOLDER", folder)
            .env("KMSFS_TEST_STAMPS", stamps)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.expect("this binary starts"))
    }

    /// Kills it, and does not wait for its end.
    pub fn kill(&mut self) {
        self.0.kill().expect("it is ours");
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        self.0.try_wait().expect("it is ours").is_some()
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The role that this process was started in, its folder and its stamps; `None` in the test
/// itself.
pub fn asked() -> Option<(String, PathBuf, PathBuf)> {
    let path = |name| PathBuf::from(std::env::var_os(name).unwrap_or_else(OsString::new));
    let role = std::env::var("KMSFS_TEST_ROLE").ok()?;
    Some((role, path("KMSFS_TEST_FOLDER"), path("KMSFS_TEST_STAMPS")))
}
