//! The daemon's own walls, looked at from outside while it works.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Child, Command, Stdio};

use landlock::{ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use crate::support::{Ordinary, PATIENCE, Store, kmsfs, nobody, run, skipped, wait_for};

/// A knob of the kernel's, set back when dropped.
struct Knob(&'static str, String);

impl Knob {
    fn set(path: &'static str, value: &str) -> Self {
        let before = fs::read_to_string(path).expect("there");
        fs::write(path, value).expect("root may");
        Self(path, before)
    }
}

impl Drop for Knob {
    fn drop(&mut self) {
        let _ = fs::write(self.0, &self.1);
    }
}

/// A process that is killed when dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether root without CAP_SYS_PTRACE may look into a process: that takes one that is dumpable.
fn is_dumpable(pid: u64) -> bool {
    let look = move || {
        let mut sets = capabilities(None).expect("root has some");
        sets.effective -= CapabilitySet::SYS_PTRACE;
        set_capabilities(None, sets).expect("root may have fewer");
        fs::read_link(format!("/proc/{pid}/exe")).is_ok()
    };
    std::thread::spawn(look).join().expect("no panic")
}

/// Lets everybody into a mount and has nobody make something in it.
fn visited_by_nobody(mount: &crate::support::Mount<'_>) {
    for folder in [mount.root().parent().expect("a parent"), &mount.root()] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).expect("changed");
    }
    let script = "umask 0; for n in 1 2 3 4 5 6 7 8; do echo x > f$n; mkdir d$n; done";
    run(nobody().args(["sh", "-ec", script]).current_dir(mount.root()));
    assert_eq!(fs::metadata(mount.at("f1")).expect("there").mode() & 0o777, 0o666);
}

/// The first entry that a daemon of root's made for somebody else left it as dumpable as
/// fs.suid_dumpable says, which distributions set.
#[test]
fn a_daemon_stays_undumpable_after_it_acted_for_others() {
    if skipped("fuse") {
        return;
    }
    // A process with more privileges could not be looked into either.
    let mut sleep = Command::new("setpriv");
    sleep.args(["--bounding-set", "-sys_ptrace", "sleep", "600"]);
    let sleep = Killed(sleep.spawn().expect("started"));
    wait_for("exec", PATIENCE, || is_dumpable(sleep.0.id().into()));
    let _knob = Knob::set("/proc/sys/fs/suid_dumpable", "1");
    for transport in ["auto", "off"] {
        let store = Store::new(&[]);
        let mut mounts = Command::new("setpriv");
        mounts.args(["--bounding-set", "-sys_ptrace", env!("CARGO_BIN_EXE_kmsfs"), "mount"]);
        mounts.env("KMSFS_CONFIG", "").env("XDG_STATE_HOME", store.outside("state"));
        run(mounts.arg(store.path()).arg(store.mountpoint()).args(["--io-uring", transport]));
        let mount = store.mounted();
        assert!(!is_dumpable(mount.pid()));
        visited_by_nobody(&mount);
        assert!(!is_dumpable(mount.pid()), "over {}", mount.report()["transport"]);
    }
}

fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a field");
    let radix = if name.starts_with("Cap") { 16 } else { 10 };
    u64::from_str_radix(line.trim_start_matches(':').trim(), radix).expect("a number")
}

#[test]
fn every_thread_has_a_filter_and_few_capabilities() {
    if skipped("fuse") {
        return;
    }
    for transport in ["auto", "off"] {
        let store = Store::new(&[]);
        let mount = store.mount(&["--io-uring", transport]);
        visited_by_nobody(&mount);
        let mut threads = 0;
        for task in fs::read_dir(format!("/proc/{}/task", mount.pid())).expect("it runs") {
            // One may have ended meanwhile.
            let status = fs::read_to_string(task.expect("listed").path().join("status"));
            let Ok(status) = status else { continue };
            threads += 1;
            assert_eq!((field(&status, "Seccomp"), field(&status, "NoNewPrivs")), (2, 1));
            for set in ["CapEff", "CapPrm", "CapBnd"] {
                let given_up = CapabilitySet::SYS_RESOURCE
                    | CapabilitySet::SYS_PTRACE
                    | CapabilitySet::SYS_MODULE
                    | CapabilitySet::NET_ADMIN
                    | CapabilitySet::KILL;
                assert_eq!(field(&status, set) & given_up.bits(), 0, "{set} of {status}");
            }
        }
        assert!(threads > 5, "{threads}");
        // It unmounts at a signal, too.
        let pid = rustix::process::Pid::from_raw(i32::try_from(mount.pid()).expect("a pid"));
        let signal = rustix::process::Signal::TERM;
        rustix::process::kill_process(pid.expect("a pid"), signal).expect("it runs");
        wait_for("its end", PATIENCE, || !mount.at("f1").exists());
    }
}

/// What landlock refuses is in the tests of `walls/reach.rs`. It takes no_new_privs, and in an
/// ordinary user's daemon nothing else does: a thread that had it could not start fusermount3.
#[test]
fn threads_of_requests_are_held_to_the_store_and_others_can_unmount() {
    if skipped("fuse") {
        return;
    }
    let required = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    if let Err(e) = required.handle_access(AccessFs::from_all(ABI::V2)) {
        return eprintln!("SKIPPED: landlock ({e})");
    }
    let user = Ordinary::new();
    run(&mut user.shell("./kmsfs init st --no-passphrase; mkdir mnt"));
    for transport in ["auto", "off"] {
        let mounts = format!("./kmsfs mount st mnt --io-uring {transport}; echo x > mnt/file");
        run(&mut user.shell(&format!("{mounts}; ./kmsfs status mnt --output json > status")));
        let status = fs::read_to_string(user.at("status")).expect("written");
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        let mut held = 0;
        for task in fs::read_dir(format!("/proc/{}/task", status["pid"])).expect("it runs") {
            // One may have ended meanwhile.
            let status = fs::read_to_string(task.expect("listed").path().join("status"));
            let Ok(status) = status else { continue };
            let name = status.lines().next().expect("a name");
            let runs_requests =
                ["-ring", "-bulk", "-runner", "fuser"].iter().any(|role| name.contains(role));
            if field(&status, "NoNewPrivs") == 1 {
                assert!(runs_requests, "{name} could not unmount");
                held += 1;
            } else {
                // fuser's take it with their first request.
                assert!(!runs_requests || name.contains("fuser"), "{name} is held to nothing");
            }
        }
        assert!(held > 0, "over {}", status["transport"]);
        run(&mut user.shell("./kmsfs unmount mnt"));
    }
}

/// It ran with the daemon's umask, which was 0, and as hard to kill as the daemon.
#[test]
fn a_hook_is_an_ordinary_program() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let out = store.outside("hook.out");
    let script = format!(
        "{{ umask; cat /proc/self/oom_score_adj; grep -E '^(CapEff|Seccomp):' /proc/self/status; \
         echo $KMSFS_STATE $KMSFS_MOUNTPOINT; }} >> {}; echo told >&2; mv {0} {0}.$KMSFS_STATE",
        out.display()
    );
    let mount = store.mount(&["--heartbeat", "1s", "--on-lock", &script]);
    let told = |state: &str| {
        let file = store.outside(&format!("hook.out.{state}"));
        wait_for("the hook", PATIENCE, || file.exists());
        fs::read_to_string(file).expect("readable")
    };
    run(kmsfs().arg("lock").arg(mount.root()));
    let locked = told("locked");
    run(kmsfs().arg("unlock").arg(mount.root()));
    let open = told("open");
    let own = fs::read_to_string("/proc/self/status").expect("readable");
    let root = mount.root();
    for (said, state) in [(locked, "locked"), (open, "open")] {
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(lines[..2], ["0022", "0"], "{said}");
        assert_eq!((field(&said, "CapEff"), field(&said, "Seccomp")), (field(&own, "CapEff"), 0));
        assert_eq!(*lines.last().expect("a line"), format!("{state} {}", root.display()));
    }
}

/// A passphrase, keys and plaintext are in the memory of other verbs too.
#[test]
fn no_verb_is_dumpable() {
    if skipped("fuse") {
        return;
    }
    let user = Ordinary::new();
    let made = "echo secret > p; ./kmsfs init st --keystore ks --passphrase-file p; mkfifo fifo";
    run(&mut user.shell(&format!("{made}; mkdir mnt")));
    // Each waits for a passphrase at a FIFO that nobody writes.
    for verb in [
        "init other --keystore another",
        "mount st mnt",
        "key create",
        "keystore passphrase",
        "cat st f",
        "export st out",
        "fsck st",
        "rewrap st --to alias/kmsfs",
    ] {
        let verb = format!("{verb} --passphrase-file fifo");
        let mut shell = user.shell(&format!("exec ./kmsfs {verb}"));
        let running = Killed(shell.stdin(Stdio::null()).spawn().expect("started"));
        let pid = running.0.id();
        let waits = || {
            fs::read_to_string(format!("/proc/{pid}/wchan"))
                .is_ok_and(|at| at.contains("fifo") || at.contains("wait_for_partner"))
        };
        wait_for("the question", PATIENCE, waits);
        // proc(5): the files of what is not dumpable are root's.
        let owner = fs::metadata(format!("/proc/{pid}/status")).expect("it runs").uid();
        assert_eq!(owner, 0, "{verb}");
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
        let core = limits.lines().find(|line| line.starts_with("Max core")).expect("a line");
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    }
}
