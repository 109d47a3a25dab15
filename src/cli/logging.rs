//! The log: lines on stderr, which in the background is a file beside the control socket.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use log::{LevelFilter, Log, Metadata, Record};

use crate::console::failure::Failure;
use crate::console::printing::tell;
use crate::control::{log_path, make_folder};

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        // fuser tells of every ordinary end of a mount; ours alone are for the operator.
        if self.enabled(record.metadata()) && record.target().starts_with("kmsfs") {
            let now = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |d| d.as_secs());
            tell!("{now} {} {}", record.level().as_str().to_lowercase(), record.args());
        }
    }

    fn flush(&self) {}
}

/// Logs to stderr, at the level that `KMSFS_LOG` names (warn unless told).
pub(super) fn to_stderr() {
    let level = std::env::var("KMSFS_LOG").ok().and_then(|l| l.parse().ok());
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(level.unwrap_or(LevelFilter::Warn));
    }
}

/// The log file of a volume's daemon.
pub(super) fn to_file(volume: &str) -> Result<File, Failure> {
    let path = log_path(volume);
    make_folder().and_then(|()| open(&path)).map_err(|e| Failure::io(&path, &e))
}

fn open(path: &Path) -> std::io::Result<File> {
    File::options().append(true).create(true).mode(0o600).open(path)
}
