//! Wiring: from an opened volume to a mount that answers, and its ordered end.

mod audit;
mod figures;
mod hook;
mod kernel;
mod manager;
mod report;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use fuser::{INodeNo, Notifier};
use parking_lot::Mutex;

pub use self::hook::Hook;
use self::kernel::Kernel;
use crate::clock::Moment;
use crate::control::{Host, Peer, Report};
use crate::disk::AccessTimes;
use crate::disk::device::{self, Device};
use crate::fs::{Access, Errno, Fail, Fs, FsSettings, ROOT};
use crate::fuse::{self, Adapter, MountError, PageCache, Shared};
use crate::ids::VolumeId;
use crate::keys::audit::{By, Log, LogError, Operation};
use crate::keys::{
    self, Accepted, Identity, Keyring, Limits, Monitor, OpenError, Services, SharedBeats, StoreUse,
    Timing, Trust, Word,
};
use crate::kms::{Counters, KeyArn};
use crate::secret::scrub_stack;
use crate::store::{CopyState, Store, StoreError};
use crate::threads::{Role, spawn};
use crate::upkeep::Counting;
use crate::web::{self, Source};

/// Everything that a mount is told.
pub struct Settings {
    /// The store.
    pub store: PathBuf,
    /// Where to mount it.
    pub mountpoint: PathBuf,
    /// How.
    pub mount: fuse::Options,
    /// How content passes through the kernel.
    pub cache: PageCache,
    /// The filesystem's.
    pub fs: FsSettings,
    /// The keyring's.
    pub limits: Limits,
    /// The kill switch's.
    pub timing: Timing,
    /// With whom its heartbeats are shared, if with anybody.
    pub shared_beats: Option<SharedBeats>,
    /// Which master keys' files are served; as the volume's settings say, if not said here.
    pub accepted: Option<Accepted>,
    /// The one volume that it may be; any, if not said here.
    pub volume: Option<VolumeId>,
    /// The one master key that `volume.json` may be under; any, if not said here.
    pub master: Option<KeyArn>,
    /// The region whose replica of the master key is asked, where that is not the key's own.
    pub replica_region: Option<String>,
    /// Compares a volume with what this machine remembers of it, and remembers it: before it is
    /// mounted, and when where its data keys come from has changed.
    pub known: fn(&Identity) -> Result<(), Unknown>,
    /// Run at every change of state, with `KMSFS_STATE` and `KMSFS_MOUNTPOINT`.
    pub on_lock: Option<Arc<Hook>>,
    /// Where every use of a key is told, if anywhere.
    pub audit_log: Option<PathBuf>,
    /// Where metrics and the status page are served, if anywhere.
    pub web: Option<web::Listener>,
}

/// Why a volume is not to be trusted: what happened, and the next command to type.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct Unknown {
    /// What happened.
    pub why: String,
    /// What to type.
    pub hint: String,
}

/// Why there is no mount.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The volume cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Not the volume that was mounted before.
    #[error(transparent)]
    Unknown(#[from] Unknown),
    /// The mount.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The audit log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Anything else of the system.
    #[error("{0}: {1}")]
    Io(&'static str, #[source] std::io::Error),
}

/// A daemon whose mount answers.
pub struct Daemon {
    mounted: fuse::Mounted,
    shared: Arc<Shared>,
    control: Arc<Control>,
    store: Arc<Store>,
    _lock: crate::disk::File,
    log: Option<Log>,
}

impl Daemon {
    /// Opens the volume and mounts it.
    ///
    /// # Errors
    /// [`DaemonError`].
    pub fn start(mut settings: Settings, services: Services) -> Result<Self, DaemonError> {
        let io = |what| move |e| DaemonError::Io(what, e);
        let flags = fuse::changed_flags(fuse::UNPRIVILEGED, &settings.mount.flags)?;
        // What refuses every change changes no time either.
        let times = match settings.fs.access {
            Access::ReadWrite => AccessTimes::of(flags),
            Access::ReadOnly => AccessTimes::NEVER,
        };
        let store = Arc::new(Store::open_path_for_mount(&settings.store, times)?);
        store.check_private(rustix::process::geteuid().as_raw())?;
        let lock = store.lock()?;
        if settings.limits.store_use != StoreUse::Reads {
            // What a killed daemon left may be in the page cache only.
            store.sync().map_err(io("syncfs of the store"))?;
        }
        if store.copy_state().is_some_and(|(_, state)| state == CopyState::Incomplete) {
            log::warn!(
                "{}: it is a copy that is not whole, for `kmsfs backup` was cut short",
                settings.store.display()
            );
        }
        let log = audit::open(&settings, &store)?;
        let audit_queue = log.as_ref().map(|log| log.audit_queue().clone());
        let (started, calls) = (Moment::now(), Arc::new(Counters::default()));
        let services = audit::observed(services, &calls, audit_queue.as_ref());
        let trust = settings.master.clone().map_or(Trust::Authenticated, Trust::Named);
        let opened = keys::open(&store, &*services.work, &trust);
        scrub_stack();
        let (mut volume, names) = opened?;
        if let Some(accepted) = settings.accepted {
            volume.accept(accepted);
        }
        volume.preflight(&*services.work, settings.limits.store_use)?;
        if let Some(wanted) = settings.volume.filter(|wanted| *wanted != volume.id()) {
            let why = format!("it is volume {}, not {wanted}, which --volume names", volume.id());
            let hint = "see what it says: kmsfs info STORE".to_owned();
            return Err(Unknown { why, hint }.into());
        }
        (settings.known)(&volume.identity())?;
        if settings.limits.store_use != StoreUse::Reads {
            volume.take_named(&store, &names)?;
            // It goes its own way now: no backup is to overwrite it.
            store.end_copy().map_err(io("the store"))?;
        }
        let beneath = store.tree().statfs().map_err(io("statfs of the store"))?;
        let device = device::probe(store.device(), &beneath);
        if let Some(why) = &device.tearing {
            log::warn!("{}: {why}", settings.store.display());
        }
        let keyring =
            Arc::new(Keyring::new(volume, names, store.clone(), services, settings.limits));
        let known = settings.known;
        keyring.on_new_generation(move |identity| {
            if let Err(e) = known(identity) {
                log::warn!("{e}");
            }
        });
        audit_queue.iter().for_each(|audit_queue| keyring.audit(audit_queue));
        let fs = Fs::new(store.clone(), keyring.clone(), &device, settings.fs.clone())
            .map_err(io("the store's root"))?;
        let shared = Shared::new(fs, audit_queue.clone());
        shared.start(settings.mount.threads).map_err(io("threads for requests"))?;
        let adapter = Adapter::new(shared.clone(), settings.cache, times.files);
        let mounted = fuse::mount(adapter, &settings.store, &settings.mountpoint, &settings.mount)?;
        let notifier = mounted.notifier();
        shared.fs.tell_unexpected_changes(Box::new(move |ino| {
            kernel::invalidate_attributes(&notifier, ino);
        }));
        let effects = Arc::new(Kernel {
            shared: shared.clone(),
            notifier: mounted.notifier(),
            mountpoint: settings.mountpoint.clone(),
            on_lock: settings.on_lock.clone(),
            audit_queue: audit_queue.clone(),
            watchdog: manager::Watchdog::of_environment(),
        });
        let monitor =
            Monitor::start(&keyring, effects, settings.timing, settings.shared_beats.clone())
                .map_err(io("the keyring's threads"))?;
        if settings.fs.access == Access::ReadWrite {
            sweep_leftovers(&store).map_err(io("a thread"))?;
        }
        let listener = settings.web.take();
        let control = Arc::new(Control {
            started,
            store: store.clone(),
            counting: Arc::default(),
            calls,
            shared: shared.clone(),
            monitor: Mutex::new(Some(monitor)),
            web: listener.as_ref().map(web::Listener::address),
            settings,
            device,
            transport: if mounted.is_over_rings() { "io_uring" } else { "/dev/fuse" },
            notifier: mounted.notifier(),
            connection: mounted.connection(),
        });
        if let Some(listener) = listener {
            listener.serve(control.clone()).map_err(io("a thread for metrics"))?;
        }
        if let Some(audit_queue) = &audit_queue {
            audit_queue.note(By::Daemon, Operation::Mount);
        }
        Ok(Self { mounted, shared, control, store, _lock: lock, log })
    }

    /// Tells the service manager that the mount answers, and can be asked.
    pub fn tell_ready(&self) {
        manager::ready();
    }

    /// What the mount is known by, to those who may ask when it has ended.
    pub fn connection(&self) -> fuse::Connection {
        self.mounted.connection()
    }

    /// What the control socket speaks to.
    pub fn host(&self) -> Arc<dyn Host> {
        self.control.clone()
    }

    /// Serves until it is unmounted, then ends in order: `unmounted`, threads, unused lines, the
    /// lock.
    ///
    /// # Errors
    /// Of the FUSE device.
    pub fn serve(self, unmounted: impl FnOnce()) -> std::io::Result<()> {
        let served = self.mounted.serve();
        manager::stopping();
        self.shared.stop();
        unmounted();
        self.shared.fs.forget_all();
        let monitor = self.control.monitor.lock().take();
        if let Some(monitor) = monitor {
            monitor.stop();
        }
        if let Some(log) = &self.log {
            log.audit_queue().note(By::Daemon, Operation::Unmount);
        }
        match self.control.settings.limits.store_use {
            StoreUse::Reads => {}
            StoreUse::Writes { .. } => self.store.sync()?,
        }
        served
    }
}

/// Beside the mount, for it lists all sidecar folders. It ends with the process: what it has not
/// come to then is swept at the next mount.
fn sweep_leftovers(store: &Arc<Store>) -> std::io::Result<()> {
    let store = store.clone();
    let sweep = move || {
        if let Err(e) = store.sweep_leftovers() {
            log::warn!("cannot remove temporary files from the store: {e}");
        }
    };
    spawn(Role::Leftovers, sweep).map(drop)
}

struct Control {
    started: Moment,
    store: Arc<Store>,
    counting: Arc<Counting>,
    calls: Arc<Counters>,
    shared: Arc<Shared>,
    monitor: Mutex<Option<Monitor>>,
    settings: Settings,
    device: Device,
    transport: &'static str,
    web: Option<SocketAddr>,
    notifier: Notifier,
    connection: fuse::Connection,
}

impl Host for Control {
    fn is_mounted(&self) -> bool {
        self.connection.number().is_some()
    }

    fn report(&self) -> Option<Report> {
        self.tell()
    }

    fn metrics(&self) -> Option<String> {
        Some(web::exposition(self.figures()?))
    }

    fn lock(&self, by: Peer) {
        if let Some(monitor) = &*self.monitor.lock() {
            audit::order(self.shared.audit_queue.as_ref(), by, Operation::Lock);
            monitor.lock();
        }
    }

    fn unlock(&self, by: Peer) {
        if let Some(monitor) = &*self.monitor.lock() {
            audit::order(self.shared.audit_queue.as_ref(), by, Operation::Unlock);
            monitor.unlock();
        }
    }

    fn follow(&self, word: &Word, by: Peer) -> Result<(), String> {
        audit::order(self.shared.audit_queue.as_ref(), by, Operation::Rewrap);
        self.shared.fs.keyring().adopt_rewrapped_volume(word).map_err(|e| e.to_string())
    }

    fn shred(&self, ino: u64, by: Peer) -> Result<(), String> {
        if ino == ROOT {
            return Err("it is the root of the mount".to_owned());
        }
        let fs = &self.shared.fs;
        let done = fs.shred(ino).map_err(|fail| match fail {
            Fail::Errno(e) => e,
            Fail::Park(_) | Fail::Unfinished => Errno(libc::EAGAIN),
        });
        audit::shredded(self.shared.audit_queue.as_ref(), by, (fs, ino), done);
        done.map_err(|e| match e.0 {
            libc::EAGAIN => "its key is being fetched; try again".to_owned(),
            code => std::io::Error::from_raw_os_error(code).to_string(),
        })?;
        let _ = self.notifier.inval_inode(INodeNo(ino), 0, 0);
        Ok(())
    }
}
