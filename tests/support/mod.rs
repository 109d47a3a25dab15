//! What the end-to-end tests share: a store with its keystore, and a mount, both cleaned up
//! when dropped, also when the test fails.
#![allow(dead_code)] // Each test binary uses a part of it.

pub mod proxy;
pub mod server;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The binary under test.
pub fn kmsfs() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kmsfs"));
    // What is remembered of volumes stays out of the user's own state.
    let state = Path::new(env!("CARGO_TARGET_TMPDIR")).join("state");
    command.env_remove("KMSFS_KEYSTORE").env("XDG_STATE_HOME", state).stdin(Stdio::null());
    command
}

/// Whether `KMSFS_SKIP` names this requirement; the skip is counted in the output.
pub fn skipped(requirement: &str) -> bool {
    let skip = std::env::var("KMSFS_SKIP").unwrap_or_default();
    let named = skip.split(',').any(|s| s.trim() == requirement);
    if named {
        eprintln!("SKIPPED: {requirement} (named in KMSFS_SKIP)");
    }
    named
}

/// Waits for a condition, and fails loudly when it does not come.
pub fn wait_for(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "{what} did not come within {limit:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    start.elapsed()
}

/// Runs a command that must succeed, and answers its stdout.
pub fn run(command: &mut Command) -> String {
    let output = command.output().expect("the command can be started");
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command that must end with this exit code, and answers its stderr.
pub fn fails(command: &mut Command, code: i32) -> String {
    let output = command.output().expect("the command can be started");
    assert_eq!(output.status.code(), Some(code), "{command:?}: {}", text(&output));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text(output: &Output) -> String {
    format!(
        "{:?}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A store in a temporary folder, on a keystore of its own or on a KMS server.
pub struct Store {
    folder: tempfile::TempDir,
    env: Vec<(String, String)>,
}

impl Store {
    /// Made by `kmsfs init` with these further arguments.
    pub fn new(args: &[&str]) -> Self {
        let store = Self::bare(Vec::new());
        run(kmsfs()
            .arg("init")
            .arg(store.path())
            .arg("--keystore")
            .arg(store.keystore())
            .arg("--no-passphrase")
            .args(args));
        store
    }

    /// Made by `kmsfs init --kms aws` on the server at this URL, with these credentials.
    pub fn aws(url: &str, env: &[(String, String)], args: &[&str]) -> Self {
        let mut env = env.to_vec();
        env.push(("AWS_ENDPOINT_URL_KMS".to_owned(), url.to_owned()));
        let store = Self::bare(env);
        run(store.kmsfs().arg("init").arg(store.path()).args(["--kms", "aws"]).args(args));
        store
    }

    fn bare(env: Vec<(String, String)>) -> Self {
        let folder = tempfile::Builder::new().prefix("kmsfs-test-").tempdir().expect("a folder");
        let store = Self { folder, env };
        std::fs::create_dir(store.mountpoint()).expect("a folder");
        store
    }

    /// The binary under test, with this store's credentials.
    pub fn kmsfs(&self) -> Command {
        let mut command = kmsfs();
        command.envs(self.env.iter().map(|(k, v)| (k, v)));
        command
    }

    /// The store.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// Its keystore.
    pub fn keystore(&self) -> PathBuf {
        self.folder.path().join("keystore")
    }

    /// Where it is mounted.
    pub fn mountpoint(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    /// Runs `kmsfs key` on its keystore, in another process.
    pub fn key(&self, args: &[&str]) -> String {
        run(kmsfs().arg("key").arg("--keystore").arg(self.keystore()).args(args))
    }

    /// Mounts it with these further arguments.
    pub fn mount(&self, args: &[&str]) -> Mount<'_> {
        run(self.kmsfs().arg("mount").arg(self.path()).arg(self.mountpoint()).args(args));
        Mount { store: self }
    }
}

/// A mount, unmounted when dropped.
pub struct Mount<'a> {
    store: &'a Store,
}

impl Mount<'_> {
    /// A path in it.
    pub fn at(&self, name: &str) -> PathBuf {
        self.store.mountpoint().join(name)
    }

    /// Its root.
    pub fn root(&self) -> PathBuf {
        self.store.mountpoint()
    }

    /// `open`, `revoked`, …
    pub fn state(&self) -> String {
        let output = kmsfs()
            .arg("status")
            .arg(self.root())
            .args(["--output", "json"])
            .output()
            .expect("status can be started");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}", text(&output)));
        report["state"].as_str().expect("a state").to_owned()
    }

    /// Waits until it is in this state.
    pub fn wait_state(&self, state: &str, limit: Duration) -> Duration {
        wait_for(state, limit, || self.state() == state)
    }

    /// Unmounts it; the daemon has ended then.
    pub fn unmount(self) {
        run(kmsfs().arg("unmount").arg(self.root()));
        std::mem::forget(self);
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let done = kmsfs().arg("unmount").arg(self.root()).output();
        if !done.is_ok_and(|o| o.status.success()) {
            let _ = kmsfs().arg("unmount").arg("--lazy").arg(self.root()).output();
        }
    }
}

/// Every file under a folder.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            all.extend(files(&path));
        } else {
            all.push(path);
        }
    }
    all
}
