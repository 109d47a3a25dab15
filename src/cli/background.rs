//! A daemon in the background: a child that is started with the same words, and tells when its
//! mount answers.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::log_file::LogFile;
use super::logging;
use crate::console::failure::{Exit, Failure};
use crate::secret::Passphrase;

/// Set in the background child: it reads a passphrase from stdin, and answers on stdout.
const CHILD: &str = "KMSFS_BACKGROUND_CHILD";
const READY: &str = "ready\n";

/// Whether this process is the child.
pub(super) fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Starts the child with the words of `line`, hands it the passphrase, and waits until its mount
/// answers.
///
/// # Errors
/// [`Failure`]; of the child's, which has told it.
pub(super) fn start(
    line: &[OsString],
    passphrase: Option<&Passphrase>,
    mountpoint: &Path,
) -> Result<(), Failure> {
    let program =
        std::env::current_exe().map_err(|e| Failure::io(Path::new("/proc/self/exe"), &e))?;
    let mut child = Command::new(&program)
        .arg0("kmsfs")
        .args(line.iter().skip(1))
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| Failure::io(&program, &e))?;
    if let Some(mut stdin) = child.stdin.take()
        && let Some(passphrase) = passphrase
    {
        stdin.write_all(passphrase.expose()).map_err(|e| Failure::io(&program, &e))?;
    }
    let mut ready = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        let _ = stdout.read_to_string(&mut ready);
    }
    if ready == READY {
        // Until it has asked, the kernel takes the root for root's, and refuses its owner to
        // change it.
        let _ = std::fs::metadata(mountpoint);
        return Ok(());
    }
    // The child has told on stderr what is wrong.
    let code = child.wait().ok().and_then(|s| s.code()).unwrap_or(1);
    Err(Failure::already_reported(Exit::from_code(code)))
}

/// Of the child: what it was handed.
pub(super) fn read_passphrase() -> Result<Option<Passphrase>, Failure> {
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).map_err(|e| Failure::io(Path::new("stdin"), &e))?;
    Ok((!bytes.is_empty()).then(|| Passphrase::new(bytes)))
}

/// The background child: tells its parent that the mount answers, and lets the terminal go.
pub(super) fn leave_terminal(log: LogFile) -> Result<(), Failure> {
    let io = |e: std::io::Error| Failure::io(Path::new("/dev/null"), &e);
    let mut stdout = std::io::stdout();
    stdout.write_all(READY.as_bytes()).and_then(|()| stdout.flush()).map_err(io)?;
    let null = std::fs::File::options().read(true).write(true).open("/dev/null").map_err(io)?;
    let std_io = |e: rustix::io::Errno| io(e.into());
    rustix::stdio::dup2_stdin(&null).map_err(std_io)?;
    rustix::stdio::dup2_stdout(&null).map_err(std_io)?;
    rustix::stdio::dup2_stderr(log.file()).map_err(std_io)?;
    logging::leads_to(log);
    std::env::set_current_dir("/").map_err(io)
}
