//! The stage: a fresh folder with a keystore, a store and its mount, and what is done to them by
//! other processes of this binary. Taken down when dropped.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::screen::say;
use super::timeline::Sighting;
use crate::clock::{self, Moment};
use crate::console::failure::{Exit, Failure};
use crate::console::printing::tell;
use crate::control;
use crate::ids::VolumeId;

/// Whose master key is disabled.
#[derive(Clone)]
pub enum Master {
    /// One in a keystore made for the occasion.
    Embedded,
    /// The user's own, in a KMS elsewhere.
    Remote {
        /// Its name on the command line.
        kms: &'static str,
        /// An id, an ARN or `alias/NAME`.
        key: String,
        /// How it is reached: words of the command line.
        options: Vec<OsString>,
    },
}

/// What becomes of the store afterwards.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    /// It is removed.
    Remove,
    /// It stays, unmounted.
    Keep,
}

/// The folder and what is in it.
pub struct Stage {
    root: PathBuf,
    master: Master,
    afterwards: Afterwards,
    /// Whether the user's own key stands disabled by us.
    key_is_off: bool,
}

impl Stage {
    /// An empty one, in the system's temporary folder.
    ///
    /// # Errors
    /// Of making the folder.
    pub fn new(master: Master, afterwards: Afterwards) -> Result<Self, Failure> {
        let temporary = std::env::temp_dir();
        let temporary = temporary.canonicalize().map_err(|e| Failure::io(&temporary, &e))?;
        let name = VolumeId::random().to_string();
        let root = temporary.join(format!("kmsfs-demo-{}", &name[..8]));
        // A database server runs as its own user, and must be able to pass.
        let folder = |path: &Path, mode| {
            fs::DirBuilder::new().mode(mode).create(path).map_err(|e| Failure::io(path, &e))
        };
        folder(&root, 0o711)?;
        let stage = Self { root, master, afterwards, key_is_off: false };
        folder(&stage.private(), 0o700)?;
        folder(&stage.mountpoint(), 0o755)?;
        Ok(stage)
    }

    fn private(&self) -> PathBuf {
        self.root.join("private")
    }

    /// The mount.
    pub fn mountpoint(&self) -> PathBuf {
        self.root.join("mnt")
    }

    /// A path beside the mount.
    pub fn outside(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn store(&self) -> PathBuf {
        self.private().join("store")
    }

    /// This binary, as another process, with nothing of the user's own settings of kmsfs.
    fn kmsfs(&self) -> Command {
        let mut command = Command::new("/proc/self/exe");
        // Ctrl-C is for the demonstration, which takes its stage down in order.
        command.arg0("kmsfs").process_group(0).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            // A PIN has no option: it is in a variable, or in a file.
            let is_kept = ["KMSFS_LOG", "KMSFS_PKCS11_PIN"].contains(&&*text);
            if text.starts_with("KMSFS_") && !is_kept {
                command.env_remove(&name);
            }
        }
        // An empty name: no configuration file.
        command.env("KMSFS_CONFIG", "").env("XDG_STATE_HOME", self.private().join("state"));
        command
    }

    fn place(&self, command: &mut Command) {
        match &self.master {
            Master::Embedded => command.arg("--keystore").arg(self.private().join("keystore")),
            Master::Remote { options, .. } => command.args(options),
        };
    }

    /// Runs a verb, which is shown first as it could be typed.
    fn run(&self, command: &mut Command) -> Result<(), Failure> {
        let root = format!("{}/", self.root.display());
        let words: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
        say(&format!("$ kmsfs {}", words.join(" ").replace(&root, "")));
        let status = command.stdout(Stdio::null()).status();
        let status = status.map_err(|e| Failure::io(Path::new("/proc/self/exe"), &e))?;
        if status.success() {
            return Ok(());
        }
        // It has told why on stderr.
        Err(Failure::already_reported(Exit::from_code(status.code().unwrap_or(1))))
    }

    /// Makes the store, and mounts it in the background.
    ///
    /// # Errors
    /// As the verbs.
    pub fn set(&self, heartbeat: Duration) -> Result<(), Failure> {
        let mut init = self.kmsfs();
        init.arg("init").arg(self.store());
        match &self.master {
            Master::Embedded => init.arg("--no-passphrase"),
            Master::Remote { kms, key, .. } => init.args(["--kms", kms, "--master-key", key]),
        };
        self.place(&mut init);
        self.run(&mut init)?;
        let mut mount = self.kmsfs();
        mount.arg("mount").arg(self.store()).arg(self.mountpoint());
        mount.arg("--heartbeat").arg(clock::typed(heartbeat));
        if let Master::Remote { .. } = self.master {
            self.place(&mut mount);
        }
        self.run(&mut mount)?;
        let root = self.mountpoint();
        // The kernel does not know whose the root is until it has asked; it would refuse its owner.
        fs::metadata(&root)
            .and_then(|_| fs::set_permissions(&root, fs::Permissions::from_mode(0o755)))
            .map_err(|e| Failure::io(&root, &e))
    }

    fn key(&self, verb: &str) -> Result<(), Failure> {
        let mut key = self.kmsfs();
        key.arg("key");
        let name = match &self.master {
            Master::Embedded => "alias/kmsfs",
            Master::Remote { kms, key: name, .. } => {
                key.args(["--kms", kms]);
                name
            }
        };
        self.place(&mut key);
        self.run(key.args([verb, name]))
    }

    /// Disables the master key.
    ///
    /// # Errors
    /// As the verb.
    pub fn disable(&mut self) -> Result<(), Failure> {
        // First: it may be done although the answer is lost.
        self.key_is_off = matches!(self.master, Master::Remote { .. });
        self.key("disable")
    }

    /// Enables it.
    ///
    /// # Errors
    /// As the verb.
    pub fn enable(&mut self) -> Result<(), Failure> {
        self.key("enable")?;
        self.key_is_off = false;
        Ok(())
    }

    /// What the daemon tells; `None` where it does not answer.
    pub fn sighting(&self) -> Option<Sighting> {
        let mount = control::at(&self.mountpoint()).ok()?.into_iter().next()?;
        let report = mount.report().ok()??;
        let last_good = Moment::now().before(Duration::from_millis(report.last_good_ms));
        let (beats, failed) = (report.beats, report.beats_failed);
        Some(Sighting { state: report.state, beats, failed, last_good })
    }

    fn is_mounted(&self) -> bool {
        let at = self.mountpoint();
        control::mounts().is_ok_and(|all| all.iter().any(|m| m.mountpoint == at))
    }

    fn unmount(&self) {
        let unmount = |more: &[&str]| {
            let mut command = self.kmsfs();
            command.arg("unmount").arg(self.mountpoint()).args(more).stderr(Stdio::null()).output()
        };
        if self.is_mounted() {
            let _ = unmount(&[]);
        }
        if self.is_mounted() {
            let _ = unmount(&["--lazy"]);
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.key_is_off && self.key("enable").is_err() {
            tell!("kmsfs: your key is still disabled; enable it with the line above");
        }
        self.unmount();
        match self.afterwards {
            _ if self.is_mounted() => {
                tell!("kmsfs: {} is still mounted", self.mountpoint().display());
            }
            Afterwards::Remove => {
                if let Err(e) = fs::remove_dir_all(&self.root) {
                    tell!("kmsfs: {}: {e}", self.root.display());
                }
            }
            Afterwards::Keep => say(&format!("kept: {}", self.store().display())),
        }
    }
}
