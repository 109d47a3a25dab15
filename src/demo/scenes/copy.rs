//! The store is copied while it is locked: the copy opens no sooner than the store itself.

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::process::Command;

use super::{Played, Scene};
use crate::clock::Moment;
use crate::console::failure::{Exit, Failure};
use crate::demo::means::Means;
use crate::demo::observed::{Observed, Watched, patience, watch};
use crate::demo::role::{self, LEDGER, name_of};
use crate::demo::stage::{MAIN, Stage, Under, Volume};
use crate::demo::verdict::Check;

/// The copy, and where it is mounted.
const COPY: Volume = Volume { store: "copy", mount: "mnt-copy" };

/// What was found of the store and its copy.
struct Found {
    /// Whether the store was locked when it was copied.
    locked: bool,
    /// What opening a file in the locked mount got.
    in_mount: String,
    /// The exit code of `mount` on the copy.
    mount: Option<i32>,
    /// What opening the file where the copy would be mounted got.
    at_copy: String,
    /// The exit code of `cat` on the copy.
    cat: Option<i32>,
    /// Whether the copy holds any of the file's content as it was written.
    clear: Clear,
    /// Files in the store's mount and in that of the copy with the same content, once the key is
    /// enabled; `None` where one differs.
    same: Option<usize>,
}

/// Whether plaintext was found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Clear {
    Found,
    None,
}

/// Plays it.
///
/// # Errors
/// When something fails that is no promise of the mount, or at a signal.
pub(super) fn play(scene: &mut Scene<'_>) -> Result<Played, Failure> {
    let Scene { stage, interrupts, times, .. } = scene;
    let patience = patience(times.heartbeat);
    let mut all = [Observed::new(stage.mountpoint(MAIN), Vec::new())];
    // Its state is known before the order.
    watch(&mut all, interrupts, times.part, |_| false)?;
    all[0].timeline.disabled = Some(Moment::now());
    stage.take(Means::Disable)?;
    let locked = watch(&mut all, interrupts, patience, |all| all[0].is_refused())?;
    let in_mount = opening(&stage.mountpoint(MAIN));
    let (from, to) = (stage.store(MAIN), stage.store(COPY));
    stage.run(Command::new("cp").arg("-a").arg(&from).arg(&to))?;
    let words = stage.master().for_mount();
    let mount = stage.attempt(&mut stage.mounting(COPY, &words)?)?.status.code();
    let at_copy = opening(&stage.mountpoint(COPY));
    let mut cat = stage.kmsfs();
    let cat = stage.attempt(cat.arg("cat").arg(&to).arg(LEDGER).args(words))?.status.code();
    let clear = search(&to).map_err(|e| Failure::io(&to, &e))?;
    all[0].timeline.enabled = Some(Moment::now());
    stage.give_back(Means::Disable)?;
    let opened = watch(&mut all, interrupts, patience, |all| all[0].is_reopened())?;
    let same = match opened {
        Watched::Seen => compare(stage)?,
        Watched::TimedOut => None,
    };
    let locked = locked == Watched::Seen;
    let found = Found { locked, in_mount, mount, at_copy, cat, clear, same };
    Ok(Played { checks: judge(&found), picture: None })
}

/// What opening the file gets.
fn opening(mountpoint: &Path) -> String {
    match fs::File::open(mountpoint.join(LEDGER)) {
        Ok(_) => "ok".to_owned(),
        Err(e) => name_of(&e),
    }
}

/// Mounts the copy, and compares its files with those of the store. What is of other things than
/// files (a database's sockets) is passed over.
fn compare(stage: &Stage) -> Result<Option<usize>, Failure> {
    stage.mount(COPY, Under::Master)?;
    let (here, there) = (stage.mountpoint(MAIN), stage.mountpoint(COPY));
    let same = same_files(&here, &there).map_err(|e| Failure::io(&there, &e));
    stage.unmount(COPY)?;
    same
}

/// How many files of `here` are the same in `there`; `None` where one is not.
fn same_files(here: &Path, there: &Path) -> io::Result<Option<usize>> {
    let mut count = 0;
    for entry in fs::read_dir(here)? {
        let entry = entry?;
        let other = there.join(entry.file_name());
        let same = match entry.file_type()? {
            kind if kind.is_dir() => same_files(&entry.path(), &other)?,
            kind if kind.is_file() => {
                let same = other.is_file() && fs::read(entry.path())? == fs::read(&other)?;
                same.then_some(1)
            }
            _ => Some(0),
        };
        let Some(same) = same else { return Ok(None) };
        count += same;
    }
    Ok(Some(count))
}

/// Looks for a piece of the file's content in every file of a folder.
fn search(folder: &Path) -> io::Result<Clear> {
    let ledger = role::ledger();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() && search(&entry.path())? == Clear::Found {
            return Ok(Clear::Found);
        }
        if kind.is_file() {
            let mut bytes = Vec::new();
            fs::File::open(entry.path())?.read_to_end(&mut bytes)?;
            if bytes.windows(64).any(|piece| piece == &ledger[..64]) {
                return Ok(Clear::Found);
            }
        }
    }
    Ok(Clear::None)
}

fn judge(found: &Found) -> Vec<Check> {
    let code = |code: Option<i32>| code.map_or_else(|| "a signal".to_owned(), |c| c.to_string());
    let refused = Some(i32::from(Exit::Refused as u8));
    let same = match found.same {
        Some(n) => format!("with the key enabled: the copy mounts, {n} files are the same in it"),
        None => "with the key enabled: a file of the copy is missing or differs".to_owned(),
    };
    vec![
        Check {
            what: format!("locked: a file is {} in the mount", found.in_mount),
            held: found.locked && found.in_mount == "EKEYREVOKED",
        },
        Check {
            what: format!(
                "the copy does not mount: exit code {}, and {} where it would be",
                code(found.mount),
                found.at_copy
            ),
            held: found.mount == refused && found.at_copy == "ENOENT",
        },
        Check {
            what: format!("the copy is not read without a mount: exit code {}", code(found.cat)),
            held: found.cat == refused,
        },
        Check {
            what: match found.clear {
                Clear::None => "the copy holds nothing of a file's content in clear".to_owned(),
                Clear::Found => "the copy holds a file's content in clear".to_owned(),
            },
            held: found.clear == Clear::None,
        },
        Check { what: same, held: found.same.is_some_and(|n| n > 0) },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Found {
        Found {
            locked: true,
            in_mount: "EKEYREVOKED".to_owned(),
            mount: Some(5),
            at_copy: "ENOENT".to_owned(),
            cat: Some(5),
            clear: Clear::None,
            same: Some(2),
        }
    }

    fn broken(found: &Found) -> usize {
        judge(found).iter().filter(|c| !c.held).count()
    }

    #[test]
    fn a_copy_that_opens_or_differs_breaks_a_promise() {
        assert_eq!(broken(&found()), 0);
        for bad in [
            Found { locked: false, ..found() },
            Found { in_mount: "ok".to_owned(), ..found() },
            Found { mount: Some(0), ..found() },
            Found { mount: None, ..found() },
            Found { at_copy: "ok".to_owned(), ..found() },
            Found { cat: Some(6), ..found() },
            Found { clear: Clear::Found, ..found() },
            Found { same: None, ..found() },
            Found { same: Some(0), ..found() },
        ] {
            assert_eq!(broken(&bad), 1, "{:?}", judge(&bad));
        }
    }

    #[test]
    fn files_are_compared_and_searched_in_every_folder() {
        let root = tempfile::tempdir().expect("a folder");
        let [one, two] = ["one", "two"].map(|name| root.path().join(name));
        for folder in [&one, &two] {
            fs::create_dir_all(folder.join("deep")).expect("made");
            fs::write(folder.join("a"), b"a").expect("written");
            fs::write(folder.join("deep/b"), b"b").expect("written");
        }
        assert_eq!(same_files(&one, &two).expect("read"), Some(2));
        assert!(search(&one).expect("read") == Clear::None);
        fs::write(two.join("deep/b"), role::ledger()).expect("written");
        assert_eq!(same_files(&one, &two).expect("read"), None);
        assert!(search(&two).expect("read") == Clear::Found);
        fs::remove_file(two.join("deep/b")).expect("removed");
        assert_eq!(same_files(&one, &two).expect("read"), None);
    }
}
