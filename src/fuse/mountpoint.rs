//! The mount itself: made, served and taken away by us, as fuser 0.18 would unmount twice.

use std::ffi::CString;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use fuser::{Config, Notifier, Session, SessionACL};
use rustix::mount::MountFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::Adapter;
use super::connection::{Connection, detach};
use super::handshake::Offer;
use super::uring::{self, Rings};
use crate::disk::DeviceNumber;

/// Who may use the mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// Every user, as their permissions allow (`allow_other`).
    Everyone,
    /// Whoever mounted it.
    Owner,
}

/// How to mount.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who may use it.
    pub exposure: Exposure,
    /// Worker threads.
    pub threads: usize,
    /// How requests come from the kernel.
    pub transport: Transport,
    /// Words such as `noexec`, `ro`, `suid`; of two that contradict each other the last counts.
    pub flags: Vec<String>,
}

/// How requests come from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Over io_uring where that can be had, else over /dev/fuse.
    Best,
    /// Over io_uring, or not at all.
    Uring,
    /// Over /dev/fuse.
    Device,
}

/// Why there is no mount.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A flag that is not known.
    #[error("-o {0}: no such mount option")]
    Flag(String),
    /// A flag that an ordinary user may not have.
    #[error("-o {0}: only a mount of root's can have it")]
    OnlyRoot(String),
    /// fusermount3 said no, and has told why.
    #[error("fusermount3 did not mount it; is the package fuse3 installed?")]
    Helper,
    /// The kernel said no.
    #[error("{0}: {1}")]
    Kernel(&'static str, #[source] io::Error),
    /// io_uring was demanded.
    #[error("FUSE over io_uring is not to be had: {0}")]
    NoRings(#[source] io::Error),
}

/// Two requests of the largest size ahead of a program that reads one after the other. A random
/// fault in a map reads as much around it, until the kernel has seen a hundred of them.
const READ_AHEAD: u32 = 2 << 20;

/// A mount that answers.
pub struct Mounted {
    session: Session<Adapter>,
    rings: Vec<JoinHandle<()>>,
    /// /dev/fuse, for those who ask whether the mount is there still.
    device: Arc<OwnedFd>,
    number: DeviceNumber,
}

impl Mounted {
    /// For invalidations; never called from a request's own thread.
    pub fn notifier(&self) -> Notifier {
        self.session.notifier()
    }

    /// What it is known by, to those who may ask when it has ended.
    pub fn connection(&self) -> Connection {
        Connection::new(&self.device, self.number)
    }

    /// Serves requests until it is unmounted.
    ///
    /// # Errors
    /// Of the FUSE device.
    pub fn serve(self) -> io::Result<()> {
        let served = self.session.run();
        for ring in self.rings {
            if ring.join().is_err() {
                log::error!("a ring's thread panicked");
            }
        }
        served
    }

    /// Whether requests come over io_uring.
    pub fn is_over_rings(&self) -> bool {
        !self.rings.is_empty()
    }
}

/// Mounts.
///
/// # Errors
/// [`MountError`].
pub fn mount(
    mut adapter: Adapter,
    source: &Path,
    at: &Path,
    options: &Options,
) -> Result<Mounted, MountError> {
    let rings = rings(options.transport)?;
    adapter.offer(if rings.is_some() { Offer::Rings } else { Offer::Nothing });
    let requests = adapter.requests();
    let device = if rustix::process::geteuid().is_root() {
        mount_as_root(source, at, options)?
    } else {
        mount_as_user(source, at, options)?
    };
    let known_by = device.try_clone().map(Arc::new).map_err(|e| {
        detach(at);
        MountError::Kernel("/dev/fuse cannot be opened twice", e)
    })?;
    let mut config = Config::default();
    config.n_threads = Some(options.threads);
    config.clone_fd = true;
    // The kernel enforces who may use it.
    let session = Session::from_fd(adapter, device, SessionACL::All, config).map_err(|e| {
        detach(at);
        MountError::Kernel("the kernel's FUSE did not answer", e)
    })?;
    // The kernel knows it, and nobody answers requests yet.
    let number = DeviceNumber::of(at)
        .map_err(|e| MountError::Kernel("the mount is not where it was made", e))
        .inspect_err(|_| detach(at))?;
    if let Err(e) = read_ahead(number) {
        log::info!("cannot raise the kernel's read-ahead: {e}");
    }
    let over_rings = requests.over_rings.load(Ordering::Relaxed);
    let rings = match rings {
        Some(rings) if over_rings => {
            let at = at.to_owned();
            let connection = Connection::new(&known_by, number);
            let abort = move || connection.abort(&at);
            rings.start(&session, &requests, options.threads, abort)
        }
        _ if options.transport == Transport::Uring => Err(io::ErrorKind::Unsupported.into()),
        _ => Ok(Vec::new()),
    };
    let rings = rings.map_err(|e| {
        detach(at);
        MountError::NoRings(e)
    })?;
    Ok(Mounted { session, rings, device: known_by, number })
}

/// The kernel reads 128 KiB ahead on FUSE, whatever it is asked for when it is mounted: root can
/// have more (`sysfs-class-bdi` in the kernel's ABI documentation).
fn read_ahead(number: DeviceNumber) -> io::Result<()> {
    let knob = format!("/sys/class/bdi/{number}/read_ahead_kb");
    std::fs::write(knob, (READ_AHEAD >> 10).to_string())
}

fn rings(transport: Transport) -> Result<Option<Rings>, MountError> {
    if transport == Transport::Device {
        return Ok(None);
    }
    match Rings::new().and_then(|rings| uring::allow().map(|()| rings)) {
        Ok(rings) => Ok(Some(rings)),
        Err(e) if transport == Transport::Uring => Err(MountError::NoRings(e)),
        Err(e) => {
            log::info!("io_uring is not available, using /dev/fuse: {e}");
            Ok(None)
        }
    }
}

fn mount_as_root(source: &Path, at: &Path, options: &Options) -> Result<OwnedFd, MountError> {
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .map_err(|e| MountError::Kernel("/dev/fuse cannot be opened", e))?;
    let mut data = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions",
        device.as_raw_fd()
    );
    if options.exposure == Exposure::Everyone {
        let _ = write!(data, ",allow_other");
    }
    let data = CString::new(data).expect("digits and letters hold no NUL");
    let flags = changed_flags(UNPRIVILEGED, &options.flags)?;
    rustix::mount::mount(source, at, "fuse.kmsfs", flags, data.as_c_str())
        .map_err(|e| MountError::Kernel("mount(2)", e.into()))?;
    Ok(device.into())
}

/// What a new mount has unless it is taken back: owners, modes and device numbers are what whoever
/// can write the store makes them.
pub const UNPRIVILEGED: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

/// These flags, as the words of `-o` change them.
///
/// # Errors
/// A word that is not known.
pub fn changed_flags(mut flags: MountFlags, words: &[String]) -> Result<MountFlags, MountError> {
    for word in words {
        match meaning(word)? {
            Meaning::Sets(flag) => flags |= flag,
            Meaning::Clears(flag) => flags -= flag,
            Meaning::Counts(flag) => {
                flags = (flags - (NOATIME | STRICTATIME | RELATIME)) | flag;
            }
            Meaning::Nothing => {}
        }
    }
    Ok(flags)
}

/// What a word of `-o` does.
#[derive(Clone, Copy)]
enum Meaning {
    Sets(MountFlags),
    Clears(MountFlags),
    /// When a read counts, which is one of three.
    Counts(MountFlags),
    Nothing,
}

const NOATIME: MountFlags = MountFlags::NOATIME;
const STRICTATIME: MountFlags = MountFlags::STRICTATIME;
const RELATIME: MountFlags = MountFlags::RELATIME;

fn meaning(word: &str) -> Result<Meaning, MountError> {
    Ok(match word {
        "nosuid" => Meaning::Sets(MountFlags::NOSUID),
        "nodev" => Meaning::Sets(MountFlags::NODEV),
        "noexec" => Meaning::Sets(MountFlags::NOEXEC),
        "ro" => Meaning::Sets(MountFlags::RDONLY),
        "noatime" => Meaning::Counts(NOATIME),
        "strictatime" => Meaning::Counts(STRICTATIME),
        // What the kernel does where nothing is said.
        "relatime" | "atime" | "nostrictatime" => Meaning::Counts(RELATIME),
        "nodiratime" => Meaning::Sets(MountFlags::NODIRATIME),
        "diratime" => Meaning::Clears(MountFlags::NODIRATIME),
        "norelatime" => Meaning::Nothing,
        "suid" => Meaning::Clears(MountFlags::NOSUID),
        "dev" => Meaning::Clears(MountFlags::NODEV),
        "exec" => Meaning::Clears(MountFlags::NOEXEC),
        "rw" => Meaning::Clears(MountFlags::RDONLY),
        other => return Err(MountError::Flag(other.to_owned())),
    })
}

/// fusermount3 mounts for ordinary users and passes the device over a socket (`_FUSE_COMMFD`).
fn mount_as_user(source: &Path, at: &Path, options: &Options) -> Result<OwnedFd, MountError> {
    let kernel = |what| move |e: io::Error| MountError::Kernel(what, e);
    let (ours, theirs) = UnixStream::pair().map_err(kernel("socketpair(2)"))?;
    rustix::io::fcntl_setfd(theirs.as_fd(), rustix::io::FdFlags::empty())
        .map_err(|e| MountError::Kernel("fcntl(2)", e.into()))?;
    let escaped = source.display().to_string().replace('\\', "\\\\").replace(',', "\\,");
    let mut with = format!("fsname={escaped},subtype=kmsfs,default_permissions");
    if options.exposure == Exposure::Everyone {
        with.push_str(",allow_other");
    }
    for word in &options.flags {
        meaning(word)?;
        if word == "suid" || word == "dev" {
            return Err(MountError::OnlyRoot(word.clone()));
        }
        with.push(',');
        with.push_str(word);
    }
    let status = Command::new("fusermount3")
        .arg("-o")
        .arg(with)
        .arg("--")
        .arg(at)
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .status()
        .map_err(kernel("fusermount3 cannot be run"))?;
    drop(theirs);
    if !status.success() {
        return Err(MountError::Helper);
    }
    receive_fd(&ours).map_err(kernel("fusermount3 passed no device"))
}

fn receive_fd(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message
            && let Some(fd) = fds.next()
        {
            return Ok(fd);
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_counts_and_set_id_bits_and_devices_are_off() {
        let flags = |words: &str| {
            let words: Vec<_> = words.split_whitespace().map(str::to_owned).collect();
            changed_flags(UNPRIVILEGED, &words).map_err(|e| e.to_string())
        };
        let off = MountFlags::NOSUID | MountFlags::NODEV;
        assert_eq!(flags(""), Ok(off));
        assert_eq!(flags("suid"), Ok(MountFlags::NODEV));
        assert_eq!(flags("suid dev ro"), Ok(MountFlags::RDONLY));
        assert_eq!(flags("suid dev nosuid"), Ok(MountFlags::NOSUID));
        assert_eq!(flags("noexec exec ro rw"), Ok(off));
        assert!(flags("setuid").is_err_and(|e| e.contains("setuid")));
    }
}
