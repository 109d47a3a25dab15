//! Exit codes, and errors as a user sees them: what happened to what, why, and what to type.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use super::printing::tell;
use crate::daemon::DaemonError;
use crate::fuse::MountError;
use crate::keys::OpenError;
use crate::kms::local::KeystoreError;
use crate::kms::{KmsError, Verdict};
use crate::store::StoreError;

/// The documented exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It worked.
    Ok = 0,
    /// It failed.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// No such or no valid volume.
    BadVolume = 3,
    /// Configuration or credentials, a keystore or its passphrase among them.
    Config = 4,
    /// The KMS refuses.
    Refused = 5,
    /// The KMS cannot be reached.
    Unreachable = 6,
    /// The mountpoint.
    Mountpoint = 7,
    /// Nothing is mounted there.
    NotMounted = 8,
    /// Somebody else has it.
    Busy = 9,
    /// Locked by an operator.
    Locked = 10,
    /// `fsck` found damage.
    Damaged = 20,
    /// The mount helper failed.
    Helper = 32,
}

const ALL: [Exit; 13] = [
    Exit::Ok,
    Exit::Failed,
    Exit::Usage,
    Exit::BadVolume,
    Exit::Config,
    Exit::Refused,
    Exit::Unreachable,
    Exit::Mountpoint,
    Exit::NotMounted,
    Exit::Busy,
    Exit::Locked,
    Exit::Damaged,
    Exit::Helper,
];

impl Exit {
    /// The exit of a child process.
    pub fn from_code(code: i32) -> Self {
        ALL.into_iter().find(|e| i32::from(*e as u8) == code).unwrap_or(Self::Failed)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error on its way to the user.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    message: Option<String>,
    /// Further lines: what a parser shows of a file of the user's own.
    details: Vec<String>,
    hint: Option<String>,
}

impl Failure {
    /// What happened to what, and why.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: Some(message.into()), details: Vec::new(), hint: None }
    }

    /// With the next command to type.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// With lines that follow the message. A message itself is one line, whatever it quotes.
    #[must_use]
    pub fn details<'a>(self, lines: impl Iterator<Item = &'a str>) -> Self {
        Self { details: lines.map(str::to_owned).collect(), ..self }
    }

    /// One that the user has read already.
    pub fn already_reported(exit: Exit) -> Self {
        Self { exit, message: None, details: Vec::new(), hint: None }
    }

    /// Of the system, about a path.
    pub fn io(path: &Path, e: &io::Error) -> Self {
        Self::new(Exit::Failed, format!("{}: {e}", path.display()))
    }

    /// Of a store.
    pub fn store(store: &Path, e: &StoreError) -> Self {
        let message = format!("{}: {e}", store.display());
        match e {
            StoreError::NotAStore => Self::new(Exit::BadVolume, message)
                .hint(format!("make one: kmsfs init {}", store.display())),
            StoreError::FormatOne => Self::new(Exit::BadVolume, message)
                .hint("mount it with the kmsfs that made it, and copy its files into a new store"),
            StoreError::NotPrivate { mode, .. } if mode & 0o077 != 0 => {
                Self::new(Exit::Config, message)
                    .hint(format!("close it: chmod 700 {}", store.display()))
            }
            StoreError::NotPrivate { .. } => Self::new(Exit::Config, message).hint(
                "mount it as the user whom it belongs to; or give all of it to this one: chown -R",
            ),
            StoreError::BadVolumeFile(_) => Self::new(Exit::BadVolume, message)
                .hint("restore volume.json from a backup; the files are still there"),
            StoreError::Busy => Self::new(Exit::Busy, message).hint("see where: kmsfs status"),
            StoreError::NotEmpty => Self::new(Exit::Failed, message),
            StoreError::Io(_, e) if e.kind() == io::ErrorKind::NotFound => {
                Self::new(Exit::BadVolume, message)
                    .hint(format!("make one: kmsfs init {}", store.display()))
            }
            StoreError::Io(..) => Self::new(Exit::Failed, message),
        }
    }

    /// Of opening a volume.
    pub fn open(store: &Path, e: &OpenError) -> Self {
        match e {
            OpenError::Store(e) => Self::store(store, e),
            OpenError::Kms(e) if matches!(e.verdict, Verdict::ThisKey | Verdict::Invalid) => {
                Self::new(
                    Exit::BadVolume,
                    format!(
                        "{}: the wrapped volume key is damaged or not of this volume ({e})",
                        store.display()
                    ),
                )
                .hint(second_copy(store))
            }
            OpenError::Kms(e) => e.clone().into(),
            OpenError::OtherMaster { .. } => {
                Self::new(Exit::Refused, format!("{}: {e}", store.display()))
                    .hint("see what it says: kmsfs info STORE")
            }
            OpenError::Unproven { under, .. } => {
                Self::new(Exit::BadVolume, format!("{}: {e}", store.display())).hint(format!(
                    "if it was rewrapped to that key, say so: kmsfs mount {} MOUNTPOINT \
                     --master-key {under}",
                    store.display()
                ))
            }
            OpenError::Elsewhere { .. } => Self::new(
                Exit::Refused,
                format!("{}: {e}", store.display()),
            )
            .hint(format!("point the alias back, or: kmsfs rewrap {} --to KEY", store.display())),
            OpenError::Changed | OpenError::Another | OpenError::Older { .. } => {
                Self::new(Exit::BadVolume, format!("{}: {e}", store.display()))
                    .hint(second_copy(store))
            }
        }
    }

    /// Of starting a daemon.
    pub fn daemon(store: &Path, at: &Path, e: &DaemonError) -> Self {
        match e {
            DaemonError::Open(e) => Self::open(store, e),
            DaemonError::Store(e) => Self::store(store, e),
            DaemonError::Unknown(e) => {
                Self::new(Exit::BadVolume, e.to_string()).hint(e.hint.clone())
            }
            DaemonError::Mount(MountError::Helper) => {
                Self::new(Exit::Helper, format!("{}: {}", at.display(), MountError::Helper))
            }
            DaemonError::Mount(e @ (MountError::Flag(_) | MountError::OnlyRoot(_))) => {
                Self::new(Exit::Usage, e.to_string())
            }
            DaemonError::Mount(e) => Self::new(Exit::Mountpoint, format!("{}: {e}", at.display())),
            DaemonError::Log(e) => Self::new(Exit::Config, e.to_string())
                .hint("name a file in a folder that is there: --audit-log /var/log/kmsfs.jsonl"),
            DaemonError::Io(..) => Self::new(Exit::Failed, format!("{}: {e}", store.display())),
        }
    }

    /// Tells it on stderr.
    pub fn print(&self) {
        if let Some(message) = &self.message {
            tell!("kmsfs: {message}");
        }
        self.details.iter().for_each(|line| tell!("{line}"));
        if let Some(hint) = &self.hint {
            tell!("  {hint}");
        }
    }
}

impl From<KmsError> for Failure {
    fn from(e: KmsError) -> Self {
        let message = e.to_string();
        match e.verdict {
            Verdict::Refused => Self::new(Exit::Refused, message)
                .hint("look at the key: kmsfs key list; and if it should be: kmsfs key enable KEY"),
            Verdict::Unavailable => Self::new(Exit::Unreachable, message),
            // Files and logins of Vault's say for themselves what is wrong.
            Verdict::Credentials if e.code.starts_with("Vault") => Self::new(Exit::Config, message)
                .hint("see how a token is had: kmsfs mount --help, --vault-auth and below"),
            Verdict::Credentials if e.code == "Pkcs11Pin" => Self::new(Exit::Config, message)
                .hint("name the file of the PIN: --pkcs11-pin-file FILE"),
            Verdict::Credentials | Verdict::UnknownCaller => Self::new(Exit::Config, message).hint(
                "see who you are: aws sts get-caller-identity; name a profile: --profile NAME",
            ),
            Verdict::ThisKey => Self::new(Exit::Failed, message),
            Verdict::Invalid => Self::new(Exit::Usage, message),
        }
    }
}

impl From<KeystoreError> for Failure {
    fn from(e: KeystoreError) -> Self {
        let message = e.to_string();
        match e {
            KeystoreError::Missing { .. } => Self::new(Exit::Config, message)
                .hint("name it with --keystore DIR, or restore it from a backup"),
            KeystoreError::WrongPassphrase { .. } => {
                Self::new(Exit::Config, message).hint("try again, or name a --passphrase-file FILE")
            }
            KeystoreError::PassphraseNeeded { .. } => {
                Self::new(Exit::Config, message).hint("name a --passphrase-file FILE")
            }
            _ => Self::new(Exit::Config, message),
        }
    }
}

/// What to do about a `volume.json` that reads well and does not open the volume.
pub fn second_copy(store: &Path) -> String {
    format!(
        "mend it from its second copy: kmsfs fsck {} --repair; or restore volume.json from \
         a backup. The files are still there",
        store.display()
    )
}
