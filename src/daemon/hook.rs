//! The operator's hook: what `--on-lock` names.
//!
//! A shell that is started before the daemon has anything to hide or to give up runs it, at a
//! word of the daemon's. So the hook has a user's umask, the machine's ordinary fate when memory
//! is short, and whatever privileges who mounted had; and the daemon starts no program of its own.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use parking_lot::Mutex;

/// Runs the hook for each line, which names a state, and waits for none.
const SHELL: &str = "umask 022
{ echo 0 > /proc/self/oom_score_adj; } 2>/dev/null
while read -r KMSFS_STATE; do
  export KMSFS_STATE
  /bin/sh -c \"$1\" </dev/null &
done";

/// The shell that waits for a word.
pub struct Hook {
    states: Mutex<ChildStdin>,
    /// It ends by itself, when nothing can tell it anything any more.
    _shell: Child,
}

impl Hook {
    /// Starts the shell. What a hook says on stderr goes to `log`, or to the daemon's own.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &str, mountpoint: &Path, log: Option<File>) -> io::Result<Self> {
        let mut shell = Command::new("/bin/sh")
            .args(["-c", SHELL, "kmsfs-hook", command])
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("KMSFS_MOUNTPOINT", mountpoint)
            .current_dir("/")
            // A terminal's interrupt is for the daemon, which unmounts.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log.map_or_else(Stdio::inherit, Stdio::from))
            .spawn()?;
        let states = shell.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self { states: Mutex::new(states), _shell: shell })
    }

    /// Has the hook run, and waits for it nowhere.
    pub(super) fn run(&self, state: &str) {
        // One write is one line: it is shorter than what a pipe takes at once.
        if let Err(e) = self.states.lock().write_all(format!("{state}\n").as_bytes()) {
            log::error!("--on-lock: its shell is gone: {e}");
        }
    }
}
