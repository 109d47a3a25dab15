//! Disabling the master key, from another process.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::{
    EKEYREVOKED, ENOKEY, PATIENCE, Store, errno, fails, kmsfs, run, skipped, wait_for,
};

/// A second process that has a file mapped, and reads a byte of the map for each line it gets.
struct Mapper {
    child: std::process::Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Mapper {
    fn start(path: &Path) -> Self {
        const PROGRAM: &str = "import mmap,os,sys,signal
f=os.open(sys.argv[1],os.O_RDONLY); m=mmap.mmap(f,0,prot=mmap.PROT_READ)
for line in sys.stdin: print(m[5000],flush=True)";
        let mut child = Command::new("python3")
            .args([OsStr::new("-c"), OsStr::new(PROGRAM), path.as_os_str()])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("python3 can be started");
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, answers }
    }

    /// The byte, or `None` when the process has died of SIGBUS.
    fn byte(&mut self) -> Option<String> {
        let stdin = self.child.stdin.as_mut().expect("piped");
        stdin.write_all(b"go\n").expect("it waits for lines");
        let mut answer = String::new();
        if self.answers.read_line(&mut answer).expect("a pipe") == 0 {
            use std::os::unix::process::ExitStatusExt;
            let status = self.child.wait().expect("it ended");
            assert_eq!(status.signal(), Some(libc::SIGBUS));
            return None;
        }
        Some(answer.trim().to_owned())
    }
}

impl Drop for Mapper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The foundation's first slice: one file, read through a descriptor, a map and the page cache;
/// its key is disabled by another process, and nothing more comes; it is enabled, and the same
/// descriptor reads again.
#[test]
fn a_disabled_key_makes_everything_unreadable_and_an_enabled_one_readable_again() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&["--heartbeat", "2s"]);
    let content: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
    fs::write(mount.at("file"), &content).expect("written");
    fs::create_dir(mount.at("dir")).expect("made");
    std::os::unix::fs::symlink("file", mount.at("link")).expect("made");
    let mut open = File::open(mount.at("file")).expect("opened");
    let mut back = Vec::new();
    open.read_to_end(&mut back).expect("readable");
    assert_eq!(back, content);
    let mut map = Mapper::start(&mount.at("file"));
    assert_eq!(map.byte().as_deref(), Some((5000 % 251).to_string().as_str()));

    store.key(&["disable", "alias/kmsfs"]);
    let took = mount.wait_state("revoked", PATIENCE);
    assert!(took < Duration::from_secs(3), "locked after {took:?}");
    open.rewind().expect("no request");
    assert_eq!(errno(open.read(&mut back)), Some(EKEYREVOKED));
    assert_eq!(map.byte(), None, "a map gives SIGBUS");
    assert_eq!(errno(File::open(mount.at("file"))), Some(EKEYREVOKED));
    assert_eq!(errno(fs::read_dir(mount.root())), Some(EKEYREVOKED));
    assert_eq!(errno(fs::read_link(mount.at("link"))), Some(EKEYREVOKED));
    assert_eq!(errno(fs::metadata(mount.at("never-looked-up"))), Some(EKEYREVOKED));
    assert_eq!(errno(fs::metadata(mount.at("dir"))), Some(EKEYREVOKED));
    assert_eq!(errno(open.metadata()), Some(EKEYREVOKED), "sizes are not had either");
    assert_eq!(errno(fs::write(mount.at("new"), b"x")), Some(EKEYREVOKED));
    fails(kmsfs().arg("status").arg(mount.root()), 5);

    store.key(&["enable", "alias/kmsfs"]);
    mount.wait_state("open", PATIENCE);
    open.rewind().expect("no request");
    let mut again = Vec::new();
    open.read_to_end(&mut again).expect("the same descriptor reads again");
    assert_eq!(again, content);
}

#[test]
fn an_operator_locks_and_unlocks() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&["--heartbeat", "2s"]);
    fs::write(mount.at("file"), b"content").expect("written");
    run(kmsfs().arg("lock").arg(mount.root()));
    assert_eq!(errno(fs::read(mount.at("file"))), Some(ENOKEY));
    fails(kmsfs().arg("status").arg(mount.root()), 10);
    run(kmsfs().arg("unlock").arg(mount.root()));
    assert_eq!(fs::read(mount.at("file")).expect("readable"), b"content");
}

#[test]
fn a_key_scheduled_for_deletion_locks_and_a_cancelled_deletion_opens() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&["--heartbeat", "1s"]);
    fs::write(mount.at("file"), b"content").expect("written");
    store.key(&["schedule-deletion", "alias/kmsfs", "--pending-window-days", "7", "--yes"]);
    mount.wait_state("revoked", PATIENCE);
    assert_eq!(errno(fs::read(mount.at("file"))), Some(EKEYREVOKED));
    store.key(&["cancel-deletion", "alias/kmsfs"]);
    // A cancelled deletion leaves the key disabled.
    store.key(&["enable", "alias/kmsfs"]);
    mount.wait_state("open", PATIENCE);
    assert_eq!(fs::read(mount.at("file")).expect("readable"), b"content");
}

/// A daemon that was stopped over the time serves nothing on the strength of an old beat: what
/// waits for it when it goes on is answered with the state of now.
#[test]
fn a_stopped_daemon_asks_before_it_serves_again() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&["--heartbeat", "1s"]);
    fs::write(mount.at("file"), b"content").expect("written");
    let pid = rustix::process::Pid::from_raw(mount.pid() as i32).expect("a process");
    let signal = |s| rustix::process::kill_process(pid, s).expect("it runs");
    // A daemon left stopped by a test that failed holds up whoever looks at its mount.
    let _running = GoesOn(pid);
    let path = mount.at("file");
    for (state, wanted) in [("disable", Some(EKEYREVOKED)), ("enable", None)] {
        signal(rustix::process::Signal::STOP);
        // Each thread stops when it next gets a processor; one that has not may still answer.
        crate::support::wait_for("every thread to stop", PATIENCE, || {
            let threads =
                fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).expect("it is there");
            threads.flatten().all(|thread| {
                let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
                stat.rsplit(") ").next().is_some_and(|state| state.starts_with('T'))
            })
        });
        let waiting = std::thread::spawn({
            let path = path.clone();
            move || fs::read(path).map(drop)
        });
        // Longer than a heartbeat: time itself is what is tested.
        std::thread::sleep(Duration::from_millis(1500));
        store.key(&[state, "alias/kmsfs"]);
        signal(rustix::process::Signal::CONT);
        let answer = errno(waiting.join().expect("it ends"));
        if state == "disable" {
            assert_eq!(answer, wanted);
            mount.wait_state("revoked", PATIENCE);
        } else {
            mount.wait_state("open", PATIENCE);
            assert_eq!(fs::read(&path).expect("readable"), b"content");
        }
    }
}

/// Lets a process go on when dropped.
struct GoesOn(rustix::process::Pid);

impl Drop for GoesOn {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.0, rustix::process::Signal::CONT);
    }
}

/// Renames, a large write and an unmount meet a lock: each file is there once, under one of its
/// names, and the mount can be ended while it is locked.
#[test]
fn a_lock_in_the_middle_of_renames_writes_and_an_unmount_loses_nothing() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&["--heartbeat", "1s"]);
    for i in 0..20 {
        fs::write(mount.at(&format!("{i}-even")), format!("content of {i}")).expect("written");
    }
    let root = mount.root();
    let storm = |i: usize, root: std::path::PathBuf| {
        let names = [format!("{i}-even"), format!("{i}-odd")].map(|n| root.join(n));
        for n in 0.. {
            if fs::rename(&names[n % 2], &names[(n + 1) % 2]).is_err() {
                return;
            }
        }
    };
    let mut threads: Vec<_> = (0..20)
        .map(|i| {
            let root = root.clone();
            std::thread::spawn(move || storm(i, root))
        })
        .collect();
    let large = mount.at("large");
    threads.push(std::thread::spawn(move || {
        let mut file = File::create(large).expect("the mount is open");
        while file.write_all(&vec![7; 1 << 20]).is_ok() && file.sync_data().is_ok() {}
    }));
    store.key(&["disable", "alias/kmsfs"]);
    threads.into_iter().for_each(|t| t.join().expect("refused in the end"));
    mount.unmount();
    store.key(&["enable", "alias/kmsfs"]);
    let mount = store.mount(&[]);
    for i in 0..20 {
        let names = [format!("{i}-even"), format!("{i}-odd")].map(|n| mount.at(&n));
        let found: Vec<_> = names.iter().filter_map(|n| fs::read(n).ok()).collect();
        assert_eq!(found, [format!("content of {i}").into_bytes()]);
    }
    let large = fs::read(mount.at("large")).expect("readable");
    assert!(large.iter().all(|b| *b == 7 || *b == 0), "only what was written, or zeros");
}

/// A program that stands in a folder, until it is dropped: its input ends then.
fn standing_in(folder: &Path) -> Child {
    let mut program = Command::new("cat");
    program.current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::null());
    program.spawn().expect("started")
}

/// getcwd(2) was ENOENT after a lock until somebody looked the folder up, and git would not run.
#[test]
fn a_working_directory_has_its_name_again_when_the_mount_opens() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&["--heartbeat", "2s"]);
    // Of the second the name has a record of its own in the store.
    let folders = ["a", &format!("a/{}/c", "b".repeat(200))].map(|name| mount.at(name));
    fs::create_dir_all(&folders[1]).expect("made");
    let mut programs = folders.each_ref().map(|folder| standing_in(folder));
    // What getcwd(2) would say; to ask looks nothing up.
    let said =
        |program: &Child| fs::read_link(format!("/proc/{}/cwd", program.id())).expect("it lives");
    for open in ["enable", "unlock"] {
        match open {
            "enable" => drop(store.key(&["disable", "alias/kmsfs"])),
            _ => drop(run(kmsfs().arg("lock").arg(mount.root()))),
        }
        wait_for("a lock", PATIENCE, || mount.state() != "open");
        wait_for("names to go", PATIENCE, || {
            programs.iter().all(|program| said(program).to_string_lossy().ends_with(" (deleted)"))
        });
        match open {
            "enable" => drop(store.key(&["enable", "alias/kmsfs"])),
            _ => drop(run(kmsfs().arg("unlock").arg(mount.root()))),
        }
        wait_for("names", PATIENCE, || {
            programs.iter().zip(&folders).all(|(program, folder)| said(program) == *folder)
        });
    }
    for program in &mut programs {
        drop(program.stdin.take());
        program.wait().expect("it is ours");
    }
}
