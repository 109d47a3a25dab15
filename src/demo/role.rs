//! The programs of the demonstration: ordinary reads and writes, in processes of their own. Each
//! tells every access on stdout. They know nothing of kmsfs.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::{Args, ValueEnum};
use rustix::process::{Resource, Rlimit, Signal};

use super::map::Map;
use super::row::Row;
use super::timeline::{Event, Got, WRONG};
use crate::clock::Moment;
use crate::console::failure::{Exit, Failure};

/// The file that is read, beside the one that is written.
pub const LEDGER: &str = "ledger";
/// The file that lines are appended to.
pub const LINES: &str = "lines";
/// The file that nobody reads for a while: the mount has no key of it.
pub const COLD: &str = "cold";
/// Bytes of [`LEDGER`].
const LENGTH: usize = 64 << 10;
/// Who starts a program tells it its own process id in this variable.
const PARENT: &str = "KMSFS_DEMO_PARENT";
/// The pause between two accesses: a pace that can be counted and leaves the machine alone.
const PACE: Duration = Duration::from_millis(20);

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Appends lines.
    Writer,
    /// Holds a descriptor.
    Descriptor,
    /// Holds a descriptor and starts [`Kind::Touch`] on it, again whenever that dies.
    Map,
    /// Maps its stdin and reads the map.
    Touch,
    /// Opens, lists and looks up.
    Prober,
    /// Opens [`COLD`].
    Cold,
}

impl Kind {
    /// Those that are at work from the beginning.
    pub const ALL: [Self; 4] = [Self::Writer, Self::Descriptor, Self::Map, Self::Prober];
}

/// Arguments of a program.
#[derive(Args)]
pub struct Role {
    #[arg(value_enum)]
    kind: Kind,
    folder: PathBuf,
}

/// The name of the hidden verb.
pub const VERB: &str = "demo-program";

/// The command that runs a program of the demonstration, from this very binary.
pub fn command(kind: Kind, folder: &Path) -> Command {
    let mut command = Command::new("/proc/self/exe");
    let name = kind.to_possible_value().expect("no kind is skipped").get_name().to_owned();
    command.arg0("kmsfs").arg(VERB).arg(name).arg(folder).env("KMSFS_CONFIG", "");
    command.env(PARENT, std::process::id().to_string());
    command
}

/// The bytes of [`LEDGER`].
pub fn ledger() -> Vec<u8> {
    (0..LENGTH).map(pattern).collect()
}

fn pattern(i: usize) -> u8 {
    u8::try_from(i % 251).expect("below 251")
}

/// The text of a line.
pub fn line(number: u64) -> String {
    format!("line {number:08}\n")
}

/// Plays a role until it is killed, or nobody listens any more.
///
/// # Errors
/// When it cannot begin, or its listener is gone.
pub fn run(args: &Role) -> Result<(), Failure> {
    // Whoever started it may be killed; it does not stay behind.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    // It may have been killed before that.
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().to_string());
    if std::env::var(PARENT).ok() != parent {
        return Err(Failure::already_reported(Exit::Failed));
    }
    let done = match args.kind {
        Kind::Writer => write(&args.folder),
        Kind::Descriptor => read_descriptor(&args.folder),
        Kind::Map => hold_map(&args.folder),
        Kind::Touch => touch(),
        Kind::Prober => probe(&args.folder),
        Kind::Cold => open_cold(&args.folder),
    };
    done.map_err(|e| match e.kind() {
        io::ErrorKind::BrokenPipe => Failure::already_reported(Exit::Failed),
        _ => Failure::io(&args.folder, &e),
    })
}

fn tell(row: Row, got: Got, number: u64) -> io::Result<()> {
    let event = Event { row, at: Moment::now(), got, number };
    let mut out = io::stdout().lock();
    writeln!(out, "{}", event.encode())?;
    out.flush()
}

fn got(result: &io::Result<()>) -> Got {
    match result {
        Ok(()) => Got::Success,
        Err(e) => Got::Failure(name_of(e)),
    }
}

/// The name of an errno.
pub fn name_of(e: &io::Error) -> String {
    let known = match e.raw_os_error() {
        Some(libc::EKEYREVOKED) => "EKEYREVOKED",
        Some(libc::EKEYEXPIRED) => "EKEYEXPIRED",
        Some(libc::EKEYREJECTED) => "EKEYREJECTED",
        Some(libc::ENOKEY) => "ENOKEY",
        Some(libc::EBADMSG) => "EBADMSG",
        Some(libc::EIO) => "EIO",
        Some(libc::ENOENT) => "ENOENT",
        Some(libc::ENOTCONN) => "ENOTCONN",
        Some(libc::ENOSPC) => "ENOSPC",
        Some(libc::EACCES) => "EACCES",
        Some(code) => return format!("errno-{code}"),
        None => WRONG,
    };
    known.to_owned()
}

/// The error of bytes that are not those that were written.
fn wrong() -> io::Error {
    io::Error::from(io::ErrorKind::InvalidData)
}

fn write(folder: &Path) -> io::Result<()> {
    let mut file = File::options().append(true).create(true).open(folder.join(LINES))?;
    for number in 1.. {
        // A line that failed is not tried again: whether it is there is not known.
        let done = file.write_all(line(number).as_bytes()).and_then(|()| file.sync_data());
        tell(Row::Writer, got(&done), number)?;
        std::thread::sleep(PACE);
    }
    Ok(())
}

fn read_descriptor(folder: &Path) -> io::Result<()> {
    let file = File::open(folder.join(LEDGER))?;
    for n in 0.. {
        let at = n * 4099 % (LENGTH - 100);
        let mut bytes = [0; 100];
        let done = file.read_exact_at(&mut bytes, at as u64).and_then(|()| {
            let right = bytes.iter().enumerate().all(|(i, b)| *b == pattern(at + i));
            if right { Ok(()) } else { Err(wrong()) }
        });
        tell(Row::Descriptor, got(&done), 1)?;
        std::thread::sleep(PACE);
    }
    Ok(())
}

fn hold_map(folder: &Path) -> io::Result<()> {
    let file = File::open(folder.join(LEDGER))?;
    loop {
        let mut touch = command(Kind::Touch, folder);
        let status = touch.stdin(Stdio::from(file.try_clone()?)).status()?;
        if status.signal() != Some(libc::SIGBUS) {
            return Err(io::Error::other(format!("the reader of the map ended: {status}")));
        }
        tell(Row::Map, Got::Failure("SIGBUS".to_owned()), 1)?;
        std::thread::sleep(PACE);
    }
}

fn touch() -> io::Result<()> {
    // A SIGBUS leaves no core, which would hold what was read.
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Core, none)?;
    let map = Map::new(io::stdin(), LENGTH)?;
    for n in 0.. {
        let at = n * 4099 % LENGTH;
        let done = if map.byte(at) == pattern(at) { Ok(()) } else { Err(wrong()) };
        tell(Row::Map, got(&done), 1)?;
        std::thread::sleep(PACE);
    }
    Ok(())
}

fn probe(folder: &Path) -> io::Result<()> {
    for n in 0.. {
        tell(Row::Open, got(&open(&folder.join(LEDGER))), 1)?;
        let listed = fs::read_dir(folder).and_then(|mut entries| {
            let first = entries.next().ok_or_else(wrong)?;
            first.map(drop)
        });
        tell(Row::ReadDir, got(&listed), 1)?;
        // Told to be absent is an answer: it needs the key of its folder.
        let looked_up = match fs::metadata(folder.join(format!("absent-{n}"))) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.and_then(|_| Err(wrong())),
        };
        tell(Row::Stat, got(&looked_up), 1)?;
        std::thread::sleep(PACE);
    }
    Ok(())
}

/// Opens a file that begins as [`LEDGER`] does, and reads there.
fn open(path: &Path) -> io::Result<()> {
    let mut bytes = [0; 16];
    File::open(path)?.read_exact(&mut bytes)?;
    if bytes[..] == ledger()[..16] { Ok(()) } else { Err(wrong()) }
}

fn open_cold(folder: &Path) -> io::Result<()> {
    loop {
        tell(Row::Cold, got(&open(&folder.join(COLD))), 1)?;
        std::thread::sleep(PACE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errnos_have_their_names() {
        assert_eq!(name_of(&io::Error::from_raw_os_error(libc::EKEYREVOKED)), "EKEYREVOKED");
        assert_eq!(name_of(&io::Error::from_raw_os_error(libc::EXDEV)), "errno-18");
        assert_eq!(name_of(&wrong()), WRONG);
    }
}
