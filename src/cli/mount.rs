//! `kmsfs mount`.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::log_file::LogFile;
use super::logging::{self, LogFormat};
use super::{background, descriptors, known, place, process, provider, unmount};
use crate::console::failure::{Exit, Failure};
use crate::console::options::{VolumeKmsArgs, address, duration, heartbeat};
use crate::console::passphrase::PassphraseSource;
use crate::console::printing::tell;
use crate::control::{self, Server, Target};
use crate::daemon::{Daemon, Hook, Settings};
use crate::disk::identity::Owners;
use crate::fs::{Access, FsSettings};
use crate::fuse::{Exposure, Options, PageCache, Transport};
use crate::ids::VolumeId;
use crate::keys::{Accepted, Limits, StoreUse, Timing};
use crate::kms::KeyArn;
use crate::kms::local::LocalKms;
use crate::secret::Passphrase;
use crate::store::Store;
use crate::walls;
use crate::web;

/// Whether requests come over io_uring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum IoUring {
    /// Where that can be had.
    Auto,
    /// Or not at all.
    On,
    /// Never.
    Off,
}

/// Arguments of `mount`.
#[derive(Args)]
pub struct Mount {
    /// The store
    store: PathBuf,
    /// Where to mount it: an empty folder
    mountpoint: PathBuf,
    /// Stay in the foreground
    #[arg(short, long)]
    foreground: bool,
    #[command(flatten)]
    kms: VolumeKmsArgs,
    /// Mount only if the store holds the volume with this id
    #[arg(long, value_name = "ID", value_parser = VolumeId::parse)]
    volume: Option<VolumeId>,
    /// Mount only if the volume is under this master key, and use it for all new data keys
    #[arg(long, value_name = "KEY")]
    master_key: Option<String>,
    /// Refuse files under any other master key than the one that new data keys come under
    #[arg(long)]
    only_current_key: bool,
    /// Allow access to every user (the default for root)
    #[arg(long, overrides_with = "no_allow_other")]
    allow_other: bool,
    /// Allow access only to the user who mounts it (the default for other users)
    #[arg(long, overrides_with = "allow_other")]
    no_allow_other: bool,
    /// Time between heartbeats: once the KMS refuses the key, the mount is unreadable within this
    /// time and one second
    #[arg(long, env = "KMSFS_HEARTBEAT", value_parser = heartbeat, default_value = "10s")]
    heartbeat: Duration,
    /// Let heartbeats of other mounts count for this one, and its own for them, where they ask AWS
    /// KMS for the same keys in the same caller's name
    #[arg(long, env = "KMSFS_SHARE_HEARTBEAT")]
    share_heartbeat: bool,
    /// How long the KMS must go on refusing the key before the mount locks
    #[arg(long, env = "KMSFS_REVOKE_AFTER", value_parser = duration, default_value = "0s")]
    revoke_after: Duration,
    /// How long the mount works on while the KMS cannot be reached
    #[arg(long, env = "KMSFS_OUTAGE_GRACE", value_parser = duration, default_value = "15m")]
    outage_grace: Duration,
    /// How long the mount works on while the KMS says that it does not know the credentials: they
    /// were deleted or revoked, or their account is suspended
    #[arg(long, env = "KMSFS_CREDENTIALS_GRACE", value_parser = duration, default_value = "5m")]
    credentials_grace: Duration,
    /// How long a data key is cached before it is fetched again
    #[arg(long, env = "KMSFS_KEY_TTL", value_parser = duration, default_value = "15m")]
    key_ttl: Duration,
    /// How long the key of a removed or replaced file stays in the store, in time that it is
    /// mounted: a backup that copies the files first and the keys then needs it
    #[arg(long, env = "KMSFS_REMOVED_KEY_GRACE", value_parser = duration, default_value = "24h")]
    removed_key_grace: Duration,
    /// How many data keys the cache holds
    #[arg(long, env = "KMSFS_KEY_CACHE", default_value = "4096")]
    key_cache: NonZeroUsize,
    /// How many calls of the KMS a second, heartbeats aside (default: as many as it bears, which is half as many after it throttled and then grows)
    #[arg(long, env = "KMSFS_KMS_RATE", value_name = "N")]
    kms_rate: Option<NonZeroU32>,
    /// Mount read-only: nothing is written to the store, and the KMS is asked to Decrypt alone
    #[arg(long)]
    read_only: bool,
    /// Use the kernel's write-back cache: faster writes, saved a little later
    #[arg(long, overrides_with = "direct_io")]
    writeback: bool,
    /// Do not keep file content in the kernel's page cache
    #[arg(long, overrides_with = "writeback")]
    direct_io: bool,
    /// Run this command at every change of state, with KMSFS_STATE and KMSFS_MOUNTPOINT set
    #[arg(long, value_name = "CMD")]
    on_lock: Option<String>,
    /// Append a line of JSON to this file for every use of a key
    #[arg(long, env = "KMSFS_AUDIT_LOG", value_name = "FILE")]
    audit_log: Option<PathBuf>,
    /// Serve metrics and a status page over HTTP: at this port of 127.0.0.1, or at ADDRESS:PORT
    #[arg(long, env = "KMSFS_METRICS", value_name = "ADDR", value_parser = address)]
    metrics: Option<SocketAddr>,
    /// How the daemon's log is written, at the level that KMSFS_LOG names (warn unless told)
    #[arg(long, env = "KMSFS_LOG_FORMAT", value_enum, default_value_t = LogFormat::Auto)]
    log_format: LogFormat,
    /// How requests come from the kernel: over io_uring (Linux 6.14; root switches it on in the
    /// module fuse) or over /dev/fuse; auto: over io_uring where that can be had
    #[arg(long, env = "KMSFS_IO_URING", value_enum, default_value_t = IoUring::Auto)]
    io_uring: IoUring,
    /// Worker threads
    #[arg(long, env = "KMSFS_THREADS", default_value = "4", value_parser = clap::value_parser!(u16).range(2..=64))]
    threads: u16,
    /// Mount options: noexec, ro, noatime, strictatime, nodiratime; and for root suid, dev, which are
    /// off otherwise
    #[arg(short, value_name = "OPTS", value_delimiter = ',')]
    o: Vec<String>,
}

impl Mount {
    /// The store, where it is to be mounted, and with which words of `-o`.
    pub(super) fn wanted(&self) -> (&Path, &Path, Vec<String>) {
        let mut words = self.o.clone();
        words.extend(self.read_only.then(|| "ro".to_owned()));
        (&self.store, &self.mountpoint, words)
    }
}

/// Runs `mount`; `line` is what it was called with, for the background child to be called alike.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Mount, line: &[OsString]) -> Result<(), Failure> {
    let child = background::is_child();
    let args = &absolute(args)?;
    if args.foreground || child {
        let stdin = if child { background::read_passphrase()? } else { None };
        return serve(args, stdin);
    }
    check(args)?;
    background(args, line)
}

/// What a mount looks at first, without making one.
///
/// # Errors
/// [`Failure`].
pub(super) fn rehearse(args: &Mount) -> Result<(), Failure> {
    let args = absolute(args)?;
    let store = Store::open_path(&args.store).map_err(|e| Failure::store(&args.store, &e))?;
    store.read_volume().map(drop).map_err(|e| Failure::store(&args.store, &e))
}

fn absolute(args: &Mount) -> Result<Mount, Failure> {
    Ok(Mount {
        store: place::absolute(&args.store)?,
        mountpoint: place::as_mounted(&args.mountpoint)?,
        kms: args.kms.clone(),
        master_key: args.master_key.clone(),
        on_lock: args.on_lock.clone(),
        audit_log: args.audit_log.as_deref().map(place::absolute).transpose()?,
        o: args.o.clone(),
        ..*args
    })
}

/// Everything that can be known before a daemon is started.
fn check(args: &Mount) -> Result<(), Failure> {
    let store = Store::open_path(&args.store).map_err(|e| Failure::store(&args.store, &e))?;
    store.read_volume().map_err(|e| Failure::store(&args.store, &e))?;
    let at = &args.mountpoint;
    let wrong = |why: &str| {
        Failure::new(Exit::Mountpoint, format!("{}: {why}", at.display()))
            .hint("choose an empty folder: mkdir DIR && kmsfs mount STORE DIR")
    };
    let known = control::mounts().unwrap_or_default();
    if let Some(mount) = known.into_iter().find(|m| m.mountpoint == *at) {
        if place::is_dead(&Target::Here(mount)) {
            tell!("kmsfs: {}: detaching a dead mount, whose daemon is gone", at.display());
            unmount::detach(at)?;
        } else {
            return Err(wrong("a kmsfs store is mounted here already"));
        }
    }
    let is_dir = fs::metadata(at).map_err(|e| wrong(&e.to_string()))?.is_dir();
    if !is_dir {
        return Err(wrong("it is not a folder"));
    }
    let (real_at, real_store) = (fs::canonicalize(at), fs::canonicalize(&args.store));
    if let (Ok(at), Ok(store)) = (real_at, real_store)
        && at.starts_with(&store)
    {
        return Err(wrong("it lies inside the store"));
    }
    match fs::read_dir(at).map(Iterator::count) {
        Ok(0) => place::wait_for(&args.store, &store),
        Ok(_) => Err(wrong("the folder is not empty, and the mount would hide what it holds")),
        Err(e) => Err(wrong(&e.to_string())),
    }
}

/// Opens a keystore, asking for its passphrase where it is sealed.
pub(super) fn open_keystore(path: &Path, source: &PassphraseSource) -> Result<LocalKms, Failure> {
    let passphrase = if LocalKms::is_sealed(path)? {
        Some(source.passphrase("keystore passphrase")?)
    } else {
        None
    };
    Ok(LocalKms::open(path, passphrase.as_ref())?)
}

fn background(args: &Mount, line: &[OsString]) -> Result<(), Failure> {
    let provider = provider::provider_of(&args.store, &args.kms)?;
    let passphrase = provider::passphrase_for(&provider, &args.kms.options.keystore.passphrase())?;
    // A wrong passphrase, or a build without this provider, is told here, at the terminal.
    drop(provider::open(&provider, passphrase.as_ref(), &args.kms)?);
    background::start(line, passphrase.as_ref(), &args.mountpoint)
}

fn serve(args: &Mount, passphrase: Option<Passphrase>) -> Result<(), Failure> {
    let background = background::is_child();
    if !background {
        check(args)?;
    }
    if background {
        let _ = rustix::process::setsid();
    }
    let volume = volume_of(args)?;
    let log = background.then(|| logging::file_of(&volume)).transpose()?;
    let mountpoint = args.mountpoint.display().to_string();
    logging::about(logging::Subject { volume, mountpoint }, args.log_format)?;
    // Before the daemon is another than who mounts.
    let hook = args.on_lock.as_deref().map(|command| hook(args, command, log.as_ref()));
    let hook = hook.transpose()?;
    process::harden();
    let provider = provider::provider_of(&args.store, &args.kms)?;
    let passphrase = match passphrase {
        None => provider::passphrase_for(&provider, &args.kms.options.keystore.passphrase())?,
        given => given,
    };
    let kms = provider::open(&provider, passphrase.as_ref(), &args.kms)?;
    drop(passphrase);
    process::limit_request_threads(&args.store, &provider);
    let wanted = args.master_key.as_deref();
    let master = wanted.map(|key| provider::master_key(key, &kms)).transpose()?;
    let access = access(args)?;
    let web = args.metrics.map(listener).transpose()?;
    let mut settings = settings(args, access, (master, hook, web));
    settings.shared_beats =
        args.share_heartbeat.then(|| provider::shared_beats(&provider, &args.kms)).flatten();
    let daemon = Daemon::start(settings, kms.services)
        .map_err(|e| Failure::daemon(&args.store, &args.mountpoint, &e))?;
    let host = daemon.host();
    let control = Server::start(&args.mountpoint, host).map_err(|e| {
        // Without its socket it could not be asked, locked or found: it does not stay.
        let _ = unmount::detach(&args.mountpoint);
        Failure::new(Exit::Failed, format!("the control socket: {e}"))
    })?;
    unmount::on_signals(&args.mountpoint, daemon.connection())?;
    walls::refuse_calls();
    match log {
        Some(log) => background::leave_terminal(log)?,
        None => tell!("kmsfs: {} is mounted", args.mountpoint.display()),
    }
    daemon.tell_ready();
    // What tidies up serves no mount any more: nobody is to find one here.
    let served = daemon.serve(|| drop(control));
    served.map_err(|e| Failure::new(Exit::Failed, format!("the mount ended: {e}")))
}

/// Whoever can reach the address reads what it serves.
fn listener(address: SocketAddr) -> Result<web::Listener, Failure> {
    let listener = web::Listener::bind(address).map_err(|e| {
        Failure::new(Exit::Failed, format!("cannot serve metrics at {address}: {e}"))
            .hint("choose another port: kmsfs mount --metrics 127.0.0.1:PORT …")
    })?;
    let address = listener.address();
    log::info!("metrics and a status page are served at http://{address}/");
    if !address.ip().is_loopback() {
        log::warn!(
            "{address}: other machines can read the metrics, for nobody is asked who they are"
        );
    }
    Ok(listener)
}

/// The volume's id, by which its log is known.
fn volume_of(args: &Mount) -> Result<String, Failure> {
    let store = Store::open_path(&args.store).map_err(|e| Failure::store(&args.store, &e))?;
    let file = store.read_volume().map_err(|e| Failure::store(&args.store, &e))?;
    Ok(file.settings.volume().to_string())
}

/// The shell that waits to run `--on-lock`.
fn hook(args: &Mount, command: &str, log: Option<&LogFile>) -> Result<Hook, Failure> {
    let log = log.map(|log| log.file().try_clone()).transpose();
    log.and_then(|log| Hook::start(command, &args.mountpoint, log))
        .map_err(|e| Failure::io(Path::new("/bin/sh"), &e))
}

/// Whether the store is changed: not where it is not to be, nor where it cannot be.
fn access(args: &Mount) -> Result<Access, Failure> {
    let last = args.o.iter().rfind(|word| *word == "ro" || *word == "rw");
    if args.read_only || last.is_some_and(|word| word == "ro") {
        return Ok(Access::ReadOnly);
    }
    let store = Store::open_path(&args.store).map_err(|e| Failure::store(&args.store, &e))?;
    match store.is_read_only() {
        Ok(true) => {
            let shown = args.store.display();
            tell!("kmsfs: {shown} lies on a read-only filesystem: mounted read-only");
            Ok(Access::ReadOnly)
        }
        Ok(false) => Ok(Access::ReadWrite),
        Err(e) => Err(Failure::store(&args.store, &e)),
    }
}

fn settings(
    args: &Mount,
    access: Access,
    (master, on_lock, web): (Option<KeyArn>, Option<Hook>, Option<web::Listener>),
) -> Settings {
    let root = rustix::process::geteuid().is_root();
    let everyone = args.allow_other || (root && !args.no_allow_other);
    let cache = match (args.writeback, args.direct_io) {
        (true, _) => PageCache::WriteBack,
        (_, true) => PageCache::Direct,
        _ => PageCache::WriteThrough,
    };
    let mut flags = args.o.clone();
    if access == Access::ReadOnly {
        flags.push("ro".to_owned());
    }
    Settings {
        store: args.store.clone(),
        mountpoint: args.mountpoint.clone(),
        mount: Options {
            exposure: if everyone { Exposure::Everyone } else { Exposure::Owner },
            threads: usize::from(args.threads),
            transport: match args.io_uring {
                IoUring::Auto => Transport::Best,
                IoUring::On => Transport::Uring,
                IoUring::Off => Transport::Device,
            },
            flags,
        },
        cache,
        fs: FsSettings {
            access,
            owners: Owners::detect(),
            directories: descriptors::directories(),
            handles: descriptors::handles(),
        },
        limits: Limits {
            cache: args.key_cache,
            ttl: args.key_ttl,
            rate: args.kms_rate,
            store_use: match access {
                Access::ReadOnly => StoreUse::Reads,
                Access::ReadWrite => StoreUse::Writes { removed_keys: args.removed_key_grace },
            },
            patience: args.heartbeat,
        },
        timing: Timing {
            heartbeat: args.heartbeat,
            revoke_after: args.revoke_after,
            outage_grace: args.outage_grace,
            credentials_grace: args.credentials_grace,
        },
        shared_beats: None,
        accepted: args.only_current_key.then_some(Accepted::Target),
        master,
        replica_region: args.kms.replica_region.clone(),
        volume: args.volume,
        known: known::check,
        on_lock: on_lock.map(Arc::new),
        audit_log: args.audit_log.clone(),
        web,
    }
}
