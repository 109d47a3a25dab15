//! The file that the log is appended to, whatever becomes of its name.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, openat, statat};

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", .path.display())]
pub struct LogError {
    /// The file that was named.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: LogProblem,
}

/// What is wrong with a log's file.
#[derive(Debug, thiserror::Error)]
pub enum LogProblem {
    /// It would be encrypted, or fill what it watches.
    #[error("the audit log must not lie inside {0}")]
    Inside(&'static str),
    /// A folder, a link, a pipe or a device.
    #[error("the audit log must be a regular file")]
    NotAFile,
    /// The system.
    #[error("the audit log cannot be opened: {0}")]
    Io(#[from] io::Error),
}

/// What became of lines.
#[derive(Debug, Default)]
pub(super) struct Appended {
    /// How many did not reach the file.
    pub(super) lost: u64,
    /// Why.
    pub(super) error: Option<io::Error>,
}

/// An open log. Its folder is kept by a descriptor, so that no change of the path above it leads
/// it elsewhere, and least of all into the mount, which would wait for itself.
#[derive(Debug)]
pub(super) struct LogFile {
    folder: OwnedFd,
    name: OsString,
    file: File,
    /// Device and inode number of `file`.
    is: (u64, u64),
    /// The end of a line whose beginning is in the file: the disk was full between the two.
    rest: Vec<u8>,
}

impl LogFile {
    /// Opens it, made where it is absent (0600). It must not lie in one of the folders `apart`.
    pub(super) fn open(path: &Path, apart: &[(&'static str, &Path)]) -> Result<Self, LogError> {
        Self::try_open(path, apart).map_err(|why| LogError { path: path.to_owned(), why })
    }

    fn try_open(path: &Path, apart: &[(&'static str, &Path)]) -> Result<Self, LogProblem> {
        let name = path.file_name().ok_or(LogProblem::NotAFile)?.to_owned();
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
        let parent = fs::canonicalize(parent.unwrap_or(Path::new(".")))?;
        for (what, folder) in apart {
            let folder = id_of(folder)?;
            // By number, and so through links and bind mounts too.
            for above in parent.ancestors() {
                if id_of(above)? == folder {
                    return Err(LogProblem::Inside(what));
                }
            }
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(&parent, flags, Mode::empty()).map_err(io::Error::from)?;
        let (file, is) = open_in(&folder, &name)?;
        Ok(Self { folder, name, file, is, rest: Vec::new() })
    }

    /// Appends whole lines. Where the name leads to another file by now, or to none (the log was
    /// rotated), to that.
    pub(super) fn append(&mut self, lines: &[u8]) -> Appended {
        let mut done = Appended::default();
        if let Err(e) = self.follow(&mut done.lost) {
            done.lost += newlines(lines);
            done.error = Some(e);
            return done;
        }
        let mut rest = std::mem::take(&mut self.rest);
        let completed = !rest.is_empty();
        rest.extend_from_slice(lines);
        let (written, error) = write(&mut &self.file, &rest);
        let unwritten = &rest[written..];
        // In the middle of a line, whose end then comes first the next time.
        let torn = error.is_some()
            && match written.checked_sub(1) {
                Some(last) => rest[last] != b'\n',
                None => completed,
            };
        done.lost += newlines(unwritten).saturating_sub(u64::from(torn));
        done.error = error;
        if torn {
            let end = unwritten.iter().position(|b| *b == b'\n').map_or(0, |at| at + 1);
            self.rest = unwritten[..end].to_vec();
        }
        crate::secret::wipe(&mut rest);
        done
    }

    /// Makes what was appended survive a power cut.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn follow(&mut self, lost: &mut u64) -> io::Result<()> {
        let now = statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        if now.is_ok_and(|stat| (stat.st_dev, stat.st_ino) == self.is) {
            return Ok(());
        }
        let (file, is) = open_in(&self.folder, &self.name).map_err(|e| match e {
            LogProblem::Io(e) => e,
            other => io::Error::other(other),
        })?;
        let _ = self.file.sync_data();
        (self.file, self.is) = (file, is);
        // Its beginning is in the other file.
        *lost += u64::from(!std::mem::take(&mut self.rest).is_empty());
        Ok(())
    }
}

fn id_of(path: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

fn open_in(folder: &OwnedFd, name: &OsString) -> Result<(File, (u64, u64)), LogProblem> {
    // A pipe must not be waited for, nor a link followed to where others want it to lead.
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::CLOEXEC
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::NOCTTY;
    let opened = openat(folder, name, flags, Mode::RUSR | Mode::WUSR);
    let file = opened.map_err(|e| match e {
        rustix::io::Errno::LOOP | rustix::io::Errno::ISDIR | rustix::io::Errno::NXIO => {
            LogProblem::NotAFile
        }
        other => LogProblem::Io(other.into()),
    })?;
    let stat = rustix::fs::fstat(&file).map_err(io::Error::from)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(LogProblem::NotAFile);
    }
    Ok((file.into(), (stat.st_dev, stat.st_ino)))
}

/// Writes until it is done or fails; answers how many bytes were taken.
fn write(to: &mut impl Write, bytes: &[u8]) -> (usize, Option<io::Error>) {
    let mut at = 0;
    while at < bytes.len() {
        match to.write(&bytes[at..]) {
            Ok(0) => return (at, Some(io::ErrorKind::WriteZero.into())),
            Ok(n) => at += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return (at, Some(e)),
        }
    }
    (at, None)
}

fn newlines(text: &[u8]) -> u64 {
    text.iter().filter(|b| **b == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a folder")
    }

    #[test]
    fn it_is_made_for_its_owner_alone_and_appended_to() {
        let folder = folder();
        let path = folder.path().join("log");
        for line in ["one\n", "two\n"] {
            let mut log = LogFile::open(&path, &[]).expect("opened");
            let done = log.append(line.as_bytes());
            assert!(done.lost == 0 && done.error.is_none(), "{done:?}");
            log.sync().expect("synced");
        }
        assert_eq!(fs::read_to_string(&path).expect("readable"), "one\ntwo\n");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn after_a_rename_or_a_removal_it_goes_on_in_a_new_file() {
        let folder = folder();
        let path = folder.path().join("log");
        let mut log = LogFile::open(&path, &[]).expect("opened");
        log.append(b"one\n");
        fs::rename(&path, folder.path().join("log.1")).expect("renamed");
        log.append(b"two\n");
        assert_eq!(fs::read_to_string(&path).expect("readable"), "two\n");
        fs::remove_file(&path).expect("removed");
        log.append(b"three\n");
        assert_eq!(fs::read_to_string(&path).expect("readable"), "three\n");
        let old = fs::read_to_string(folder.path().join("log.1")).expect("readable");
        assert_eq!(old, "one\n");
        // Replaced by what is no file: told, and nothing written there.
        fs::remove_file(&path).expect("removed");
        fs::create_dir(&path).expect("made");
        let done = log.append(b"four\nfive\n");
        assert!(done.lost == 2 && done.error.is_some(), "{done:?}");
    }

    #[test]
    fn what_is_no_file_or_lies_inside_is_refused() {
        let folder = folder();
        let at = |name: &str| folder.path().join(name);
        let store = at("store");
        fs::create_dir_all(store.join("a/b")).expect("made");
        fs::write(at("file"), "").expect("written");
        std::os::unix::fs::symlink(at("file"), at("link")).expect("made");
        std::os::unix::fs::symlink(&store, at("way")).expect("made");
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), FileType::Fifo, Mode::RUSR, 0)
            .expect("made");
        let why = |name: &str| {
            let opened = LogFile::open(&at(name), &[("the store", &store)]);
            opened.expect_err("no log").why
        };
        for name in ["store", "link", "pipe", ".."] {
            assert!(matches!(why(name), LogProblem::NotAFile), "{name}");
        }
        for name in ["store/log", "store/a/b/log", "way/a/log", "store/a/../log"] {
            assert!(matches!(why(name), LogProblem::Inside("the store")), "{name}");
        }
        assert!(!store.join("log").exists());
        assert!(matches!(why("absent/log"), LogProblem::Io(_)));
    }

    /// Takes so many bytes, and then none until it has room again.
    struct Full(Vec<u8>, usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let n = bytes.len().min(self.1);
            if n == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.1 -= n;
            self.0.extend_from_slice(&bytes[..n]);
            Ok(n)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_write_says_how_far_it_came() {
        let mut full = Full(Vec::new(), 5);
        let (written, error) = write(&mut full, b"one\ntwo\n");
        assert_eq!((written, full.0.as_slice()), (5, &b"one\nt"[..]));
        assert_eq!(error.map(|e| e.kind()), Some(io::ErrorKind::StorageFull));
    }

    /// A real file that may not grow: RLIMIT_FSIZE would end the process, so a tmpfs is left to
    /// the end-to-end tests, and here the state after a torn line is put in by hand.
    #[test]
    fn a_torn_line_is_completed_first() {
        let folder = folder();
        let path = folder.path().join("log");
        let mut log = LogFile::open(&path, &[]).expect("opened");
        log.append(b"one\ntw");
        assert_eq!(log.rest, b"", "a line without an end has none to come");
        log.rest = b"o\n".to_vec();
        let done = log.append(b"three\n");
        assert!(done.lost == 0 && done.error.is_none(), "{done:?}");
        assert_eq!(fs::read_to_string(&path).expect("readable"), "one\ntwo\nthree\n");
        log.rest = b"and four\n".to_vec();
        assert_eq!(log.append(b"").lost, 0);
        assert!(fs::read_to_string(&path).expect("readable").ends_with("three\nand four\n"));
        log.rest = b"x\n".to_vec();
        fs::rename(&path, folder.path().join("old")).expect("renamed");
        assert_eq!(log.append(b"four\n").lost, 1, "its beginning is in the other file");
        assert_eq!(fs::read_to_string(&path).expect("readable"), "four\n");
    }
}
