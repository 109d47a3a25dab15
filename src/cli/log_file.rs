//! The log file of a daemon in the background: bounded, with the file before it.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use parking_lot::Mutex;

/// A log file does not grow much longer than this: it lies in memory, under /run.
const MOST: u64 = 1 << 20;

/// The file, and the one before it (`.1`). Both stay open: what is logged by a thread that acts for
/// a program could open neither.
pub(super) struct LogFile {
    file: File,
    before: Mutex<File>,
}

impl LogFile {
    /// Opens both, for nobody else to read.
    ///
    /// # Errors
    /// Of their folder.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut options = File::options();
        options.read(true).create(true).mode(0o600);
        let mut before = path.to_owned().into_os_string();
        before.push(".1");
        let before = Mutex::new(options.clone().write(true).open(before)?);
        Ok(Self { file: options.append(true).open(path)?, before })
    }

    /// The file, for who writes to it.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Begins the file anew where it has become too long, and keeps what it held as the one before.
    ///
    /// # Errors
    /// Of the folder's filesystem; the file may then go on growing.
    pub(super) fn keep_bounded(&self) -> io::Result<()> {
        if self.file.metadata()?.len() <= MOST {
            return Ok(());
        }
        let before = self.before.lock();
        let len = self.file.metadata()?.len();
        if len <= MOST {
            return Ok(()); // Another thread has done it.
        }
        // A hook may have written much more at once: its end is what counts.
        let mut bytes = vec![0; usize::try_from(MOST).expect("a file's bound fits in memory")];
        self.file.read_exact_at(&mut bytes, len - MOST)?;
        before.set_len(0)?;
        before.write_all_at(&bytes, 0)?;
        self.file.set_len(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_file_and_the_one_before_it_are_bounded_and_end_with_what_was_said_last() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let log = LogFile::open(&path).expect("opened");
        let line = "n".repeat(1000) + "\n";
        for n in 0..5000 {
            let text = format!("{n} {line}");
            log.file().write_all(text.as_bytes()).expect("written");
            log.keep_bounded().expect("kept");
        }
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect("read");
        let (now, before) = (read("log"), read("log.1"));
        assert!(now.len() as u64 <= MOST + 2000 && before.len() as u64 == MOST);
        assert!(now.lines().last().is_some_and(|line| line.starts_with("4999 ")));
        let first: u32 = now.split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
        let last = format!("\n{} ", first - 1);
        assert!(before.contains(&last), "no line between the two is lost");
    }
}
