//! The stage: a fresh folder with a keystore, stores and their mounts, and what is done to them by
//! other processes of this binary. Taken down when dropped.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use super::master::{self, Master};
use super::means::Means;
use super::role::{self, LEDGER};
use super::screen::say;
use crate::clock;
use crate::console::failure::{Exit, Failure};
use crate::console::printing::tell;
use crate::control;
use crate::ids::VolumeId;

/// What becomes of the stores afterwards.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    /// They are removed.
    Remove,
    /// They stay, unmounted.
    Keep,
}

/// A store and its mountpoint, by their names on the stage.
#[derive(Clone, Copy)]
pub struct Volume {
    /// The store's folder.
    pub store: &'static str,
    /// The mountpoint.
    pub mount: &'static str,
}

/// The one that is there from the beginning.
pub const MAIN: Volume = Volume { store: "store", mount: "mnt" };

/// Under which key a store is made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Under {
    /// The one that is taken away.
    Master,
    /// Another one, which is not.
    Other,
}

/// Shell commands of the user's own.
#[derive(Clone)]
pub struct Permission {
    /// Takes the permission to use the key away from the mount.
    pub deny: String,
    /// Gives it back.
    pub allow: String,
}

/// The folder and what is in it.
pub struct Stage {
    root: PathBuf,
    master: Master,
    permission: Option<Permission>,
    afterwards: Afterwards,
    heartbeat: Duration,
    /// How the user's own key is taken away by us, while it is.
    taken: Option<Means>,
}

impl Stage {
    /// An empty one, in the system's temporary folder; its mounts will have this heartbeat.
    ///
    /// # Errors
    /// Of making the folder.
    pub fn new(
        master: Master,
        permission: Option<Permission>,
        afterwards: Afterwards,
        heartbeat: Duration,
    ) -> Result<Self, Failure> {
        let temporary = std::env::temp_dir();
        let temporary = temporary.canonicalize().map_err(|e| Failure::io(&temporary, &e))?;
        let name = VolumeId::random().to_string();
        let root = temporary.join(format!("kmsfs-demo-{}", &name[..8]));
        // A database server runs as its own user, and must be able to pass.
        folder(&root, 0o711)?;
        let stage = Self { root, master, permission, afterwards, heartbeat, taken: None };
        folder(&stage.private(), 0o700)?;
        Ok(stage)
    }

    fn private(&self) -> PathBuf {
        self.root.join("private")
    }

    /// The master key.
    pub fn master(&self) -> &Master {
        &self.master
    }

    /// The commands that take a permission away, and give it back.
    pub fn permission(&self) -> Option<&Permission> {
        self.permission.as_ref()
    }

    /// The embedded keystore.
    pub fn keystore(&self) -> PathBuf {
        self.private().join("keystore")
    }

    /// A volume's mountpoint.
    pub fn mountpoint(&self, volume: Volume) -> PathBuf {
        self.outside(volume.mount)
    }

    /// A volume's store.
    pub fn store(&self, volume: Volume) -> PathBuf {
        self.private().join(volume.store)
    }

    /// A path beside the mounts.
    pub fn outside(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// This binary, as another process, with nothing of the user's own settings of kmsfs.
    pub fn kmsfs(&self) -> Command {
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

    /// Shows a command as it could be typed.
    fn show(&self, command: &Command) {
        let name = match command.get_program().to_string_lossy() {
            own if own == "/proc/self/exe" => "kmsfs".into(),
            other => other,
        };
        let root = format!("{}/", self.root.display());
        let words: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
        say(&format!("$ {name} {}", words.join(" ").replace(&root, "")));
    }

    /// Runs a program that has to succeed, and shows it first.
    ///
    /// # Errors
    /// When it does not succeed.
    pub fn run(&self, command: &mut Command) -> Result<(), Failure> {
        self.show(command);
        succeed(command)
    }

    /// Runs a program that may fail, and shows it first and then what it told.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn attempt(&self, command: &mut Command) -> Result<Output, Failure> {
        self.show(command);
        let output = command.output();
        let output = output.map_err(|e| Failure::io(Path::new(command.get_program()), &e))?;
        let root = format!("{}/", self.root.display());
        String::from_utf8_lossy(&output.stderr).lines().for_each(|l| say(&l.replace(&root, "")));
        Ok(output)
    }

    /// Makes a store.
    ///
    /// # Errors
    /// As the verbs.
    pub fn make(&self, volume: Volume, under: Under) -> Result<(), Failure> {
        let keystore = self.keystore();
        let words = match (under, &self.master) {
            (Under::Master, master) => master.for_init(&keystore),
            (Under::Other, Master::Embedded) => {
                let mut key = self.kmsfs();
                key.arg("key").args(self.master.for_key(&keystore));
                self.run(key.args(["create", "--alias", master::OTHER]))?;
                master::own(&keystore, Some(master::OTHER))
            }
            // No key is made in a KMS of the user's.
            (Under::Other, Master::Remote(_)) => master::own(&keystore, None),
        };
        self.run(self.kmsfs().arg("init").arg(self.store(volume)).args(words))
    }

    /// The command that mounts a store in the background, with these words for its KMS.
    ///
    /// # Errors
    /// Of making its mountpoint.
    pub fn mounting(&self, volume: Volume, words: &[OsString]) -> Result<Command, Failure> {
        let at = self.mountpoint(volume);
        if !at.exists() {
            folder(&at, 0o755)?;
        }
        let mut mount = self.kmsfs();
        mount.arg("mount").arg(self.store(volume)).arg(at);
        mount.arg("--heartbeat").arg(clock::typed(self.heartbeat)).args(words);
        Ok(mount)
    }

    /// Mounts a store by a command of [`Stage::mounting`], and puts a file there that is read.
    ///
    /// # Errors
    /// As `mount`.
    pub fn mount_by(&self, volume: Volume, command: &mut Command) -> Result<(), Failure> {
        self.run(command)?;
        let root = self.mountpoint(volume);
        // The kernel does not know whose the root is until it has asked; it would refuse its owner.
        fs::metadata(&root)
            .and_then(|_| fs::set_permissions(&root, fs::Permissions::from_mode(0o755)))
            .map_err(|e| Failure::io(&root, &e))?;
        let ledger = root.join(LEDGER);
        if ledger.exists() {
            return Ok(());
        }
        fs::write(&ledger, role::ledger()).map_err(|e| Failure::io(&ledger, &e))
    }

    /// Mounts a store as it was made.
    ///
    /// # Errors
    /// As `mount`.
    pub fn mount(&self, volume: Volume, under: Under) -> Result<(), Failure> {
        let words = match under {
            Under::Master => self.master.for_mount(),
            Under::Other => Vec::new(),
        };
        self.mount_by(volume, &mut self.mounting(volume, &words)?)
    }

    /// Unmounts it.
    ///
    /// # Errors
    /// As `unmount`.
    pub fn unmount(&self, volume: Volume) -> Result<(), Failure> {
        self.run(self.kmsfs().arg("unmount").arg(self.mountpoint(volume)))
    }

    fn key(&self, verb: &str, more: &[&str]) -> Result<(), Failure> {
        let mut key = self.kmsfs();
        key.arg("key").args(self.master.for_key(&self.keystore()));
        self.run(key.args([verb, self.master.key()]).args(more))
    }

    fn shell(&self, order: impl Fn(&Permission) -> &str) -> Result<(), Failure> {
        // Without commands there is nothing to take.
        let Some(permission) = &self.permission else { return Ok(()) };
        let order = order(permission);
        say(&format!("$ {order}"));
        succeed(Command::new("sh").args(["-c", order]).process_group(0).stdin(Stdio::null()))
    }

    /// Takes the key away.
    ///
    /// # Errors
    /// As the verb, or the user's command.
    pub fn take(&mut self, means: Means) -> Result<(), Failure> {
        // First: it may be done although the answer is lost.
        self.taken = matches!(self.master, Master::Remote(_)).then_some(means);
        match means {
            Means::Disable => self.key("disable", &[]),
            Means::Deletion => {
                self.key("schedule-deletion", &["--pending-window-days", "7", "--yes"])
            }
            Means::Permission => self.shell(|p| &p.deny),
        }
    }

    /// Gives it back.
    ///
    /// # Errors
    /// As the verb, or the user's command.
    pub fn give_back(&mut self, means: Means) -> Result<(), Failure> {
        match means {
            Means::Disable => self.key("enable", &[])?,
            Means::Deletion => {
                // It may be that nothing was scheduled. A key whose deletion was cancelled is
                // disabled; one whose deletion is still scheduled cannot be enabled.
                let _ = self.key("cancel-deletion", &[]);
                self.key("enable", &[])?;
            }
            Means::Permission => self.shell(|p| &p.allow)?,
        }
        self.taken = None;
        Ok(())
    }

    /// What is mounted here.
    fn mounts(&self) -> Vec<PathBuf> {
        let all = control::mounts().unwrap_or_default().into_iter().map(|m| m.mountpoint);
        all.filter(|at| at.starts_with(&self.root)).collect()
    }

    fn clear(&self) {
        for more in [&[][..], &["--lazy"]] {
            for at in self.mounts() {
                let mut command = self.kmsfs();
                let _ = command.arg("unmount").arg(at).args(more).stderr(Stdio::null()).output();
            }
        }
    }
}

fn succeed(command: &mut Command) -> Result<(), Failure> {
    let status = command.stdout(Stdio::null()).status();
    let status = status.map_err(|e| Failure::io(Path::new(command.get_program()), &e))?;
    if status.success() {
        return Ok(());
    }
    // It has told why on stderr.
    Err(Failure::already_reported(Exit::from_code(status.code().unwrap_or(1))))
}

fn folder(path: &Path, mode: u32) -> Result<(), Failure> {
    fs::DirBuilder::new().mode(mode).create(path).map_err(|e| Failure::io(path, &e))
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(means) = self.taken
            && self.give_back(means).is_err()
        {
            tell!("kmsfs: your key is still taken away; give it back as the line above does");
        }
        self.clear();
        match self.afterwards {
            _ if !self.mounts().is_empty() => {
                for at in self.mounts() {
                    tell!("kmsfs: {} is still mounted", at.display());
                }
            }
            Afterwards::Remove => {
                if let Err(e) = fs::remove_dir_all(&self.root) {
                    tell!("kmsfs: {}: {e}", self.root.display());
                }
            }
            Afterwards::Keep => say(&format!("kept: {}", self.store(MAIN).display())),
        }
    }
}
