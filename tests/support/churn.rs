//! A load that creates, replaces and removes, whose files tell by themselves whether they are whole;
//! and looking at a copy of what it worked on.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// How many files are there for good, and how many each thread of the load has.
const STABLE: u64 = 400;
const OWN: u64 = 40;

/// Content of this length, which its first bytes tell.
fn content(seed: u64) -> Vec<u8> {
    let len = 16 + usize::try_from(seed % 13).expect("small") * 1500;
    let mut bytes = format!("{seed:016}").into_bytes();
    bytes.extend((16..len).map(|n| (n as u64 * 31 + seed) as u8));
    bytes
}

/// Whether it is what a file has at any moment: content, or the beginning of it, and zeros where a
/// write was under way that nobody had synced.
fn is_whole(bytes: &[u8]) -> bool {
    let written = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    let bytes = &bytes[..written];
    let seed = bytes.get(..16).and_then(|b| std::str::from_utf8(b).ok()?.parse().ok());
    bytes.is_empty() || seed.is_some_and(|seed| content(seed).starts_with(bytes))
}

/// Programs at work in a folder; they end when this is dropped.
pub struct Churn {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Churn {
    /// Makes what stays, and starts the load beside it.
    pub fn start(root: &Path) -> Self {
        fs::create_dir(root.join("stable")).expect("made");
        for n in 0..STABLE {
            fs::write(root.join(format!("stable/{n}")), content(n)).expect("written");
        }
        fs::write(root.join("stable").join("l".repeat(200)), content(7)).expect("written");
        symlink("t".repeat(3500), root.join("stable/link")).expect("made");
        let (stop, rounds) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let work = |thread: u64| {
            let (root, stop, rounds) = (root.to_owned(), stop.clone(), rounds.clone());
            std::thread::spawn(move || {
                let folder = root.join(format!("load{thread}"));
                fs::create_dir(&folder).expect("made");
                let mut seed = thread << 32;
                while !stop.load(Ordering::Relaxed) {
                    for n in 0..OWN {
                        seed += 1;
                        step(&folder, n, seed);
                    }
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let threads = (1..=3).map(work).collect();
        Self { stop, rounds, threads }
    }

    /// How often every file of a thread was gone through, of all threads.
    pub fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Ends it.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("the load itself does not fail");
        }
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// One file: made, replaced, removed, or moved to another folder and back.
fn step(folder: &Path, n: u64, seed: u64) {
    let at = |name: String| -> PathBuf { folder.join(name) };
    let write = |path: &Path| fs::write(path, content(seed)).expect("written");
    match (n + seed / OWN) % 5 {
        0 => {
            let _ = fs::remove_file(at(format!("file{n}")));
            write(&at(format!("file{n}")));
        }
        1 | 2 => {
            write(&at(format!("file{n}.new")));
            fs::rename(at(format!("file{n}.new")), at(format!("file{n}"))).expect("replaced");
        }
        3 => {
            let moved = at(format!("moved{n}"));
            let _ = fs::create_dir(&moved);
            write(&moved.join("inner"));
            let _ = fs::remove_file(at(format!("link{n}")));
            symlink(format!("{seed:03500}"), at(format!("link{n}"))).expect("made");
        }
        _ => {
            write(&at(format!("file{n}")));
            let _ = fs::remove_dir_all(at(format!("moved{n}")));
        }
    }
}

/// What a copy may have of a record that was written while it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MidWrite {
    /// It was read until it held still.
    Whole,
    /// It was read once: it may fail authentication.
    Torn,
}

/// Looks at a copy, through a mount of it: what stayed is there, and each file that there is can be
/// read and is whole. Answers how many files of the load it has.
pub fn check(root: &Path, mid_write: MidWrite) -> usize {
    for n in 0..STABLE {
        let read = fs::read(root.join(format!("stable/{n}"))).expect("readable");
        assert!(read == content(n), "stable/{n} is another");
    }
    let long = fs::read(root.join("stable").join("l".repeat(200))).expect("readable");
    assert!(long == content(7));
    let link = fs::read_link(root.join("stable/link")).expect("its body is there");
    assert_eq!(link.as_os_str().len(), 3500);
    let mut found = 0;
    for thread in 1..=3 {
        found += checked(&root.join(format!("load{thread}")), mid_write);
    }
    found
}

fn checked(folder: &Path, mid_write: MidWrite) -> usize {
    let mut found = 0;
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) => {
            // Removed after it was listed, and before its id was read.
            let is_removed = e.raw_os_error() == Some(libc::EBADMSG)
                && folder.to_string_lossy().contains("/moved");
            assert!(is_removed && mid_write == MidWrite::Torn, "{}: {e}", folder.display());
            return 0;
        }
    };
    for entry in entries {
        let path = entry.expect("an entry").path();
        let stat =
            fs::symlink_metadata(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        if stat.is_dir() {
            found += checked(&path, mid_write);
            continue;
        }
        if stat.is_symlink() {
            fs::read_link(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        } else {
            match fs::read(&path) {
                Ok(bytes) => assert!(is_whole(&bytes), "{} is torn", path.display()),
                Err(e) => {
                    let is_torn = e.raw_os_error() == Some(libc::EBADMSG);
                    assert!(is_torn && mid_write == MidWrite::Torn, "{}: {e}", path.display());
                }
            }
        }
        found += 1;
    }
    found
}
