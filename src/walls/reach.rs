//! What threads that run requests reach of this machine's files (landlock(7)).
//!
//! Every request goes to the store by checked descriptors (`disk::real`). This is for the path that
//! was not checked: whatever it leads to outside of the store cannot be opened, made, changed or
//! removed. It is no wall against code of others within the process, which has threads without it:
//! those that unmount, write the audit log or speak to the KMS.

use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};

/// Of this version of the kernel's interface everything is asked for, and of an older one what it
/// knows. Before the second (Linux 5.19) no file could be renamed into another folder.
const KNOWN: ABI = ABI::V7;

/// Set once, before there is a thread that it is for: a daemon serves one mount.
static REACH: OnceLock<RulesetCreated> = OnceLock::new();

/// What may be done beneath a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beneath {
    /// Everything but starting programs.
    Changes,
    /// Reading files and listing folders.
    Reads,
}

impl Beneath {
    fn access(self) -> BitFlags<AccessFs> {
        match self {
            // A device that lies in the store is never opened, so no ioctl is for one.
            Self::Changes => AccessFs::from_all(KNOWN) & !(AccessFs::Execute | AccessFs::IoctlDev),
            Self::Reads => AccessFs::ReadFile | AccessFs::ReadDir,
        }
    }
}

/// Decides what threads that run requests will reach: these folders, and what /proc tells of their
/// programs. They reach no network, and give up gaining privileges.
pub fn limit_request_threads(folders: &[(PathBuf, Beneath)]) {
    match rules(folders) {
        // It is decided once.
        Ok(rules) => drop(REACH.set(rules)),
        Err(e) => log::info!("the kernel does not hold request threads to the store: {e}"),
    }
}

fn rules(folders: &[(PathBuf, Beneath)]) -> Result<RulesetCreated, RulesetError> {
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V2))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::AbstractUnixSocket)?
        .create()?;
    let of_programs = (PathBuf::from("/proc"), Beneath::Reads);
    folders.iter().chain([&of_programs]).try_fold(rules, |rules, (folder, beneath)| {
        let Ok(folder) = PathFd::new(folder).inspect_err(|e| log::info!("landlock: {e}")) else {
            return Ok(rules); // What is not there cannot be reached.
        };
        rules.add_rule(PathBeneath::new(folder, beneath.access()))
    })
}

/// Holds the calling thread to what was decided, for good. Where nothing was, it does nothing.
pub fn confine_thread() {
    if let Some(Err(e)) = REACH.get().map(confine) {
        log::warn!("cannot hold a request thread to the store (landlock): {e}");
    }
}

fn confine(rules: &RulesetCreated) -> io::Result<()> {
    rules.try_clone()?.restrict_self().map(drop).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use rustix::fs::{CWD, FileType, Mode};

    use super::*;

    type Tried<'a> = (&'a str, Box<dyn Fn(&Path) -> io::Result<()> + Send>);

    /// What requests do with a folder of the store, each by a path that nobody checks.
    fn requests() -> Vec<Tried<'static>> {
        fn tried(
            name: &'static str,
            request: impl Fn(&Path) -> io::Result<()> + Send + 'static,
        ) -> Tried<'static> {
            (name, Box::new(request))
        }
        vec![
            tried("list", |at| fs::read_dir(at).map(drop)),
            tried("read", |at| fs::read(at.join("file")).map(drop)),
            tried("write", |at| File::options().append(true).open(at.join("file")).map(drop)),
            tried("truncate", |at| fs::write(at.join("file"), "")),
            tried("create", |at| File::create(at.join("new")).map(drop)),
            tried("rename", |at| fs::rename(at.join("file"), at.join("folder/moved"))),
            tried("link", |at| fs::hard_link(at.join("folder/file"), at.join("linked"))),
            tried("unlink", |at| fs::remove_file(at.join("folder/file"))),
            tried("mkdir", |at| fs::create_dir(at.join("made"))),
            tried("rmdir", |at| fs::remove_dir(at.join("empty"))),
            tried("symlink", |at| symlink("/", at.join("symlink"))),
            tried("mkfifo", |at| {
                rustix::fs::mknodat(CWD, at.join("fifo"), FileType::Fifo, Mode::RUSR, 0)
                    .map_err(Into::into)
            }),
        ]
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["folder", "empty"] {
            fs::create_dir(folder.path().join(name)).expect("made");
        }
        for name in ["file", "folder/file"] {
            fs::write(folder.path().join(name), "text").expect("written");
        }
        folder
    }

    #[test]
    fn a_confined_thread_works_in_the_store_and_reaches_nothing_else() {
        let (store, keystore, outside) = (folder(), folder(), folder());
        let rules = rules(&[
            (store.path().to_owned(), Beneath::Changes),
            (keystore.path().to_owned(), Beneath::Reads),
            ("/absent/folder".into(), Beneath::Reads),
        ]);
        let rules = match rules {
            Ok(rules) => rules,
            Err(e) => return eprintln!("SKIPPED: landlock ({e})"),
        };
        let (held, unheld) = (outside.path().join("file"), outside.path().to_owned());
        let in_a_thread = move || {
            let open = File::options().append(true).open(held).expect("not confined yet");
            confine(&rules).expect("it can be confined");
            for (name, request) in requests() {
                let denied = |folder: &Path| match request(folder) {
                    Ok(()) => false,
                    Err(e) if e.kind() == io::ErrorKind::PermissionDenied => true,
                    Err(e) => panic!("{name}: {e}"),
                };
                assert!(!denied(store.path()), "{name} in the store");
                let reads = matches!(name, "list" | "read");
                assert_eq!(denied(keystore.path()), !reads, "{name} in the keystore");
                assert!(denied(outside.path()), "{name} outside");
            }
            assert!(fs::read_to_string("/proc/self/status").is_ok());
            // What was opened before goes on: the audit log, the device.
            (&open).write_all(b"more").expect("written");
            let elsewhere = std::net::TcpStream::connect("127.0.0.1:1").map_err(|e| e.kind());
            assert_eq!(elsewhere.map(drop), Err(io::ErrorKind::PermissionDenied));
            let inherits = std::thread::spawn(move || fs::read_dir(unheld).is_err());
            assert!(inherits.join().expect("no panic"), "a thread that it starts is confined too");
        };
        std::thread::spawn(in_a_thread).join().expect("no panic");
        // Others of the process are not.
        assert_eq!(fs::read_dir("/").map(drop).map_err(|e| e.kind()), Ok(()));
    }
}
