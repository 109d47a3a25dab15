//! The log: lines on stderr, which in the background is a file beside the control socket, or
//! entries of the systemd journal.

use std::os::unix::net::UnixDatagram;
use std::sync::OnceLock;
use std::time::SystemTime;

use clap::ValueEnum;
use log::{Level, LevelFilter, Log, Metadata, Record};
use parking_lot::Mutex;
use serde_json::json;
use systemd_journal_logger::{JournalLog, connected_to_journal};

use super::log_file::LogFile;
use super::repeats::Repeats;
use crate::clock::{Moment, rfc3339};
use crate::console::failure::{Exit, Failure};
use crate::console::printing::tell;
use crate::control::{log_path, make_folder};

/// How a daemon's log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// To the journal where systemd has led stderr there, else as text
    Auto,
    /// Lines: the time (UTC), the level, and what happened
    Text,
    /// Lines: an object of JSON each
    Json,
    /// Entries of the systemd journal, with fields
    Journal,
}

/// The mount that a daemon logs about.
pub(super) struct Subject {
    pub(super) volume: String,
    pub(super) mountpoint: String,
}

/// Where entries go.
enum Sink {
    Text,
    Json(Subject),
    Journal(JournalLog),
}

#[derive(Default)]
struct Logger {
    repeats: Mutex<Option<Repeats>>,
    /// Text, until there is a mount.
    sink: OnceLock<Sink>,
    /// Where stderr is a file of ours.
    file: OnceLock<LogFile>,
}

static LOGGER: Logger =
    Logger { repeats: Mutex::new(None), sink: OnceLock::new(), file: OnceLock::new() };

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        // fuser tells of every ordinary end of a mount; ours alone are for the operator.
        if !self.enabled(record.metadata()) || !record.target().starts_with("kmsfs") {
            return;
        }
        let mut message = record.args().to_string();
        let mut repeats = self.repeats.lock();
        let known_as = format!("{} {message}", record.level());
        let Some(left_out) = repeats.get_or_insert_default().look(&known_as, Moment::now()) else {
            return;
        };
        drop(repeats);
        if left_out > 0 {
            message = format!("{message} (and {left_out} times before)");
        }
        self.write(record, &message);
        if let Some(file) = self.file.get() {
            // Where that fails there is nobody to tell.
            let _ = file.keep_bounded();
        }
    }

    fn flush(&self) {}
}

impl Logger {
    fn write(&self, record: &Record<'_>, message: &str) {
        let now = SystemTime::now();
        let level = name(record.level());
        match self.sink.get().unwrap_or(&Sink::Text) {
            Sink::Text => tell!("{} {level} {message}", rfc3339(now)),
            Sink::Json(subject) => {
                let entry = json!({
                    "time": rfc3339(now),
                    "level": level,
                    "message": message,
                    "volume": subject.volume,
                    "mountpoint": subject.mountpoint,
                });
                tell!("{entry}");
            }
            Sink::Journal(journal) => {
                let metadata = record.metadata().clone();
                let sent = journal.journal_send(
                    &Record::builder().metadata(metadata).args(format_args!("{message}")).build(),
                );
                if let Err(e) = sent {
                    tell!("{} {level} {message} (the journal takes nothing: {e})", rfc3339(now));
                }
            }
        }
    }
}

fn name(level: Level) -> String {
    level.as_str().to_lowercase()
}

/// Logs to stderr, at the level that `KMSFS_LOG` names (warn unless told).
pub(super) fn to_stderr() {
    if log::set_logger(&LOGGER).is_err() {
        return;
    }
    log::set_max_level(LevelFilter::Warn);
    match std::env::var("KMSFS_LOG").as_deref().map(str::parse) {
        Ok(Ok(level)) => log::set_max_level(level),
        Ok(Err(_)) => log::warn!("KMSFS_LOG is no level: error, warn, info, debug, trace or off"),
        Err(_) => {}
    }
}

/// Logs about a mount from now on.
///
/// # Errors
/// [`Failure`], where the journal is asked for and is not there.
pub(super) fn about(subject: Subject, format: LogFormat) -> Result<(), Failure> {
    let sink = match format {
        LogFormat::Auto if connected_to_journal() => Sink::Journal(journal(&subject)?),
        LogFormat::Auto | LogFormat::Text => Sink::Text,
        LogFormat::Json => Sink::Json(subject),
        LogFormat::Journal => Sink::Journal(journal(&subject)?),
    };
    // There is one: a daemon has one mount.
    let _ = LOGGER.sink.set(sink);
    Ok(())
}

/// Where journald listens (systemd-journald.service(8)).
const JOURNAL: &str = "/run/systemd/journal/socket";

fn journal(subject: &Subject) -> Result<JournalLog, Failure> {
    let fields = [("KMSFS_VOLUME", &subject.volume), ("KMSFS_MOUNTPOINT", &subject.mountpoint)];
    let listens = UnixDatagram::unbound().and_then(|socket| socket.connect(JOURNAL));
    let journal = listens.and_then(|()| JournalLog::empty()).map_err(|e| {
        Failure::new(Exit::Config, format!("the systemd journal cannot be reached: {e}"))
            .hint("log otherwise: kmsfs mount --log-format text …")
    })?;
    Ok(journal.with_extra_fields(fields).with_syslog_identifier("kmsfs".to_owned()))
}

/// The log file of a volume's daemon.
pub(super) fn file_of(volume: &str) -> Result<LogFile, Failure> {
    let path = log_path(volume);
    make_folder().and_then(|()| LogFile::open(&path)).map_err(|e| Failure::io(&path, &e))
}

/// Says that stderr leads to this file from now on: it is kept from growing.
pub(super) fn leads_to(file: LogFile) {
    // There is one: a daemon goes to the background once.
    let _ = LOGGER.file.set(file);
}
