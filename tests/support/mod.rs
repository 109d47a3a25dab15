//! What the end-to-end tests share: a store with its keystore, and a mount, both cleaned up
//! when dropped, also when the test fails.
#![allow(dead_code)] // Each test binary uses a part of it.

pub mod aio;
pub mod apart;
pub mod bao;
pub mod churn;
pub mod demo;
pub mod device;
pub mod handle;
pub mod hsm;
pub mod mapping;
pub mod port;
pub mod proxy;
pub mod recovery;
pub mod role;
pub mod scan;
pub mod schedule;
pub mod server;
pub mod slow;
pub mod tinyproxy;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// errno(3) by name, of Linux.
pub const ENOKEY: i32 = 126;
/// See [`ENOKEY`].
pub const EKEYEXPIRED: i32 = 127;
/// See [`ENOKEY`].
pub const EKEYREVOKED: i32 = 128;
/// See [`ENOKEY`].
pub const EKEYREJECTED: i32 = 129;

/// The errno of what failed.
pub fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|e| e.raw_os_error())
}

/// The binary under test.
pub fn kmsfs() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kmsfs"));
    // What is remembered of volumes stays out of the user's own state.
    let state = Path::new(env!("CARGO_TARGET_TMPDIR")).join("state");
    command
        .env_remove("KMSFS_KEYSTORE")
        .env("KMSFS_CONFIG", "")
        .env("XDG_STATE_HOME", state)
        .stdin(Stdio::null());
    for name in ["ADDR", "TOKEN", "NAMESPACE", "CACERT", "CLIENT_CERT", "CLIENT_KEY", "SKIP_VERIFY"]
    {
        command.env_remove(format!("VAULT_{name}")).env_remove(format!("BAO_{name}"));
    }
    for name in ["HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    for name in ["MODULE", "TOKEN", "PIN", "PIN_FILE"] {
        command.env_remove(format!("KMSFS_PKCS11_{name}"));
    }
    command
}

/// Runs what is added as nobody, in no further group.
pub fn nobody() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups"]);
    command
}

/// A user who is not root, with a home and a binary of his own.
pub struct Ordinary(tempfile::TempDir);

impl Ordinary {
    /// With nothing else in it.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::copy(env!("CARGO_BIN_EXE_kmsfs"), folder.path().join("kmsfs")).expect("copied");
        run(Command::new("chown").args(["-R", "65534:65534"]).arg(folder.path()));
        Self(folder)
    }

    /// Its home.
    pub fn folder(&self) -> &Path {
        self.0.path()
    }

    /// A path in it.
    pub fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a script in it as that user.
    pub fn shell(&self, script: &str) -> Command {
        let mut shell = nobody();
        shell.args(["sh", "-ec", script]);
        shell.current_dir(self.0.path()).env("HOME", self.0.path()).env("TMPDIR", self.0.path());
        shell.env_remove("XDG_RUNTIME_DIR").env("KMSFS_CONFIG", "");
        shell.env("KMSFS_KEYSTORE", self.at("ks")).env("XDG_STATE_HOME", self.at("state"));
        shell
    }
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

/// Whether the long tests run at full size (`KMSFS_TEST_FULL`).
pub fn full_size() -> bool {
    std::env::var_os("KMSFS_TEST_FULL").is_some()
}

/// How long a test waits for what is sure to come. It says nothing of how quick the mount is, for
/// other tests may have the processors: where that is tested, times are compared.
pub const PATIENCE: Duration = Duration::from_secs(180);

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
    /// Where it lies, where not in the folder.
    at: Option<PathBuf>,
    env: Vec<(String, String)>,
    /// How verbs without a store find its KMS.
    kms: Vec<String>,
}

impl Store {
    /// Made by `kmsfs init` with these further arguments.
    pub fn new(args: &[&str]) -> Self {
        Self::unmade().made(args)
    }

    /// Made by `kmsfs init --kms aws` on the server at this URL, with these credentials.
    pub fn aws(url: &str, env: &[(String, String)], args: &[&str]) -> Self {
        let mut store = Self::unmade();
        store.env.extend_from_slice(env);
        store.env.push(("AWS_ENDPOINT_URL_KMS".to_owned(), url.to_owned()));
        store.kms = ["--kms", "aws", "--endpoint-url", url].map(str::to_owned).to_vec();
        run(store.kmsfs().arg("init").arg(store.path()).args(["--kms", "aws"]).args(args));
        store
    }

    /// Made by `kmsfs init --kms vault`, reached and known as this environment says.
    pub fn vault(env: &[(String, String)], args: &[&str]) -> Self {
        let mut store = Self::unmade();
        store.env.extend_from_slice(env);
        store.kms = ["--kms", "vault"].map(str::to_owned).to_vec();
        run(store.kmsfs().arg("init").arg(store.path()).args(["--kms", "vault"]).args(args));
        store
    }

    /// Made by `kmsfs init --kms pkcs11`, on the token of this environment.
    pub fn pkcs11(env: &[(String, String)], args: &[&str]) -> Self {
        let mut store = Self::unmade();
        store.env.extend_from_slice(env);
        store.kms = ["--kms", "pkcs11"].map(str::to_owned).to_vec();
        run(store.kmsfs().arg("init").arg(store.path()).args(["--kms", "pkcs11"]).args(args));
        store
    }

    /// On a new key of this server's, `alias/kmsfs`, as the account's root.
    pub fn on(server: &server::Server) -> Self {
        server::new_key(server, "kmsfs");
        let env = server::credentials("test", "test");
        Self::aws(&server.url(), &env, &["--master-key", "alias/kmsfs"])
    }

    /// With its folder and its mountpoint alone.
    pub fn unmade() -> Self {
        Self::unmade_in(&std::env::temp_dir())
    }

    /// As [`Store::unmade`], in this folder.
    pub fn unmade_in(folder: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("kmsfs-test-").tempdir_in(folder);
        let store =
            Self { folder: folder.expect("a folder"), at: None, env: Vec::new(), kms: Vec::new() };
        std::fs::create_dir(store.mountpoint()).expect("a folder");
        store
    }

    /// With its store at another place.
    pub fn at(mut self, path: PathBuf) -> Self {
        self.at = Some(path);
        self
    }

    /// Runs `kmsfs init` with these further arguments.
    pub fn made(self, args: &[&str]) -> Self {
        let store = self;
        run(kmsfs()
            .arg("init")
            .arg(store.path())
            .arg("--keystore")
            .arg(store.keystore())
            .arg("--no-passphrase")
            .args(args));
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
        self.at.clone().unwrap_or_else(|| self.folder.path().join("store"))
    }

    /// The tree in it: what a mount shows, as it lies on disk.
    pub fn tree(&self) -> PathBuf {
        self.path().join("files")
    }

    /// Its keystore.
    pub fn keystore(&self) -> PathBuf {
        self.folder.path().join("keystore")
    }

    /// A path beside the store, which no mount covers.
    pub fn outside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where it is mounted.
    pub fn mountpoint(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    /// Runs `kmsfs key` on its keystore or its server, in another process.
    pub fn key(&self, args: &[&str]) -> String {
        let mut command = self.kmsfs();
        command.arg("key");
        if self.kms.is_empty() {
            command.arg("--keystore").arg(self.keystore());
        }
        command.args(&self.kms);
        run(command.args(args))
    }

    /// Mounts it with these further arguments.
    pub fn mount(&self, args: &[&str]) -> Mount<'_> {
        run(self.kmsfs().arg("mount").arg(self.path()).arg(self.mountpoint()).args(args));
        self.mounted()
    }

    /// Its mount that was made otherwise, to be unmounted when dropped.
    pub fn mounted(&self) -> Mount<'_> {
        Mount { store: self }
    }
}

/// The id of the key that the store is on, and of another.
pub fn two_keys(store: &Store) -> [String; 2] {
    let told = store.key(&["describe", "alias/kmsfs"]);
    let first = told.split_whitespace().find(|w| w.len() == 36).expect("a key id").to_owned();
    [first, store.key(&["create"]).trim().to_owned()]
}

/// A small filesystem in memory, unmounted when dropped.
pub struct Tmpfs {
    folder: tempfile::TempDir,
}

impl Tmpfs {
    /// With these mount options (`size=8m`).
    pub fn new(options: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("kmsfs-tmpfs-").tempdir().expect("a folder");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(folder.path()));
        Self { folder }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: a daemon that is ending may still hold it.
        let _ = Command::new("umount").arg("--lazy").arg(self.folder.path()).output();
    }
}

/// A filesystem in a file, unmounted when dropped.
pub struct Loop {
    folder: tempfile::TempDir,
}

impl Loop {
    /// An ext4 so many bytes large, made by mkfs.ext4 with these arguments.
    pub fn new(size: u64, args: &[&str]) -> Self {
        Self::of("ext4", size, args)
    }

    /// As [`Loop::new`], of another kind.
    pub fn of(kind: &str, size: u64, args: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("kmsfs-loop-").tempdir().expect("a folder");
        let disk = Self { folder };
        std::fs::create_dir(disk.path()).expect("made");
        let image = disk.folder.path().join("image");
        let file = std::fs::File::create_new(&image).and_then(|file| file.set_len(size));
        file.expect("an image");
        // mkfs.btrfs looks at all mounts.
        run(apart::program(&format!("mkfs.{kind}")).arg("-q").args(args).arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(disk.path()));
        disk
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // Lazily: a daemon that is ending may still hold it.
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).output();
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
        self.report()["state"].as_str().expect("a state").to_owned()
    }

    /// The daemon's process.
    pub fn pid(&self) -> u64 {
        self.report()["pid"].as_u64().expect("a process id")
    }

    /// What `status` tells.
    pub fn report(&self) -> serde_json::Value {
        let output = kmsfs()
            .arg("status")
            .arg(self.root())
            .args(["--output", "json"])
            .output()
            .expect("status can be started");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output)))
    }

    /// What the KMS last said when it did not answer well.
    pub fn last_error(&self) -> String {
        self.report()["last_error"].as_str().unwrap_or_default().to_owned()
    }

    /// Its lines by master key, as JSON text, once they have been counted.
    pub fn lines(&self) -> String {
        let mut lines = serde_json::Value::Null;
        wait_for("a count of lines", PATIENCE, || {
            lines = self.report()["lines"].take();
            !lines.is_null()
        });
        lines.to_string()
    }

    /// How often its daemon has called the KMS, heartbeats included.
    pub fn kms_calls(&self) -> u64 {
        let report = self.report();
        let calls = report["kms_calls"].as_array().expect("a list").iter();
        let outcomes = ["ok", "refused", "unavailable", "rejected"];
        calls.flat_map(|c| outcomes.map(|o| c[o].as_u64().expect("a number"))).sum()
    }

    /// Waits until it is in this state.
    pub fn wait_state(&self, state: &str, limit: Duration) -> Duration {
        wait_for(state, limit, || self.state() == state)
    }

    /// Unmounts it; the daemon has ended then.
    ///
    /// Programs that other tests start have this test's open files too, from fork(2) to execve(2):
    /// for so long it is busy.
    pub fn unmount(self) {
        const BUSY: i32 = 9;
        let mut told = None;
        wait_for("an unmount", PATIENCE, || {
            let output = kmsfs().arg("unmount").arg(self.root()).output().expect("started");
            let is_over = output.status.code() != Some(BUSY);
            told = Some(output);
            is_over
        });
        let told = told.expect("it was tried");
        assert!(told.status.success(), "{}\n{}", text(&told), self.story());
        std::mem::forget(self);
    }

    /// Makes so many small files, whose content is known.
    pub fn fill(&self, files: u64) {
        for n in 0..files {
            std::fs::write(self.at(&format!("{n}")), format!("text {n}")).expect("ok");
        }
    }

    /// Reads what [`Mount::fill`] has made.
    pub fn check_filled(&self, files: u64) {
        for n in 0..files {
            let text = std::fs::read(self.at(&format!("{n}"))).expect("readable");
            assert_eq!(text, format!("text {n}").into_bytes());
        }
    }

    /// Whether it is there and what its daemon has logged, for the message of a test that fails.
    pub fn story(&self) -> String {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let at = self.root().display().to_string();
        let mounts: Vec<_> = mounts.lines().filter(|line| line.contains(&at)).collect();
        let file = std::fs::read(self.store.path().join("volume.json")).unwrap_or_default();
        let file: serde_json::Value = serde_json::from_slice(&file).unwrap_or_default();
        // A text within the text, for it is authenticated byte by byte.
        let settings = file["settings"].as_str().unwrap_or_default();
        let settings: serde_json::Value = serde_json::from_str(settings).unwrap_or_default();
        let id = settings["volume"].as_str().unwrap_or("no volume.json");
        let log = std::fs::read_to_string(format!("/run/kmsfs/{id}.log"));
        let log = log.unwrap_or_else(|e| format!("{id}: {e}"));
        format!("the kernel lists {mounts:?}; the daemon's log: {log}")
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

/// A place where something other than a [`Store`] is mounted, unmounted when dropped.
pub struct MountedAt(PathBuf);

impl MountedAt {
    /// A folder that is there.
    pub fn new(at: &Path) -> Self {
        Self(at.to_owned())
    }
}

impl Drop for MountedAt {
    fn drop(&mut self) {
        // Where the test has done it already this fails, and nothing is left to do.
        let _ = kmsfs().arg("unmount").arg("--lazy").arg(&self.0).output();
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
