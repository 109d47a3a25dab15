//! The log: lines on stderr, which in the background is a file beside the control socket.

use std::sync::OnceLock;

use log::{LevelFilter, Log, Metadata, Record};
use parking_lot::Mutex;

use super::log_file::LogFile;
use super::repeats::Repeats;
use crate::clock::Moment;
use crate::console::failure::Failure;
use crate::console::printing::tell;
use crate::control::{log_path, make_folder};

#[derive(Default)]
struct Stderr {
    repeats: Mutex<Option<Repeats>>,
    /// Where stderr is a file of ours.
    file: OnceLock<LogFile>,
}

static STDERR: Stderr = Stderr { repeats: Mutex::new(None), file: OnceLock::new() };

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        // fuser tells of every ordinary end of a mount; ours alone are for the operator.
        if !self.enabled(record.metadata()) || !record.target().starts_with("kmsfs") {
            return;
        }
        let text = format!("{} {}", record.level().as_str().to_lowercase(), record.args());
        let mut repeats = self.repeats.lock();
        let Some(left_out) = repeats.get_or_insert_default().look(&text, Moment::now()) else {
            return;
        };
        drop(repeats);
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| d.as_secs());
        match left_out {
            0 => tell!("{now} {text}"),
            n => tell!("{now} {text} (and {n} times before)"),
        }
        if let Some(file) = self.file.get() {
            // Where that fails there is nobody to tell.
            let _ = file.keep_bounded();
        }
    }

    fn flush(&self) {}
}

/// Logs to stderr, at the level that `KMSFS_LOG` names (warn unless told).
pub(super) fn to_stderr() {
    let level = std::env::var("KMSFS_LOG").ok().and_then(|l| l.parse().ok());
    if log::set_logger(&STDERR).is_ok() {
        log::set_max_level(level.unwrap_or(LevelFilter::Warn));
    }
}

/// The log file of a volume's daemon.
pub(super) fn file_of(volume: &str) -> Result<LogFile, Failure> {
    let path = log_path(volume);
    make_folder().and_then(|()| LogFile::open(&path)).map_err(|e| Failure::io(&path, &e))
}

/// Says that stderr leads to this file from now on: it is kept from growing.
pub(super) fn leads_to(file: LogFile) {
    // There is one: a daemon goes to the background once.
    let _ = STDERR.file.set(file);
}
