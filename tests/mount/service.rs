//! What a service manager is told (sd_notify(3)).

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{PATIENCE, Store, fails, kmsfs, run, skipped, wait_for};

/// The daemon in the foreground, killed when dropped.
struct Foreground(Child);

impl Foreground {
    fn terminate(&mut self) -> Option<i32> {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).expect("a process");
        kill_process(pid, Signal::TERM).expect("it is ours");
        wait_for("its end", PATIENCE, || self.0.try_wait().expect("a child").is_some());
        self.0.wait().expect("ended").code()
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A service manager's socket.
struct Socket {
    path: PathBuf,
    socket: UnixDatagram,
}

impl Socket {
    fn new(store: &Store) -> Self {
        let path = store.outside("notify");
        let socket = UnixDatagram::bind(&path).expect("bound");
        socket.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
        Self { path, socket }
    }

    /// Waits for a word, and returns all that came until then.
    fn hear(&self, wanted: &str) -> String {
        let mut heard = String::new();
        while !heard.contains(wanted) {
            let mut buf = [0; 4096];
            let n = self.socket.recv(&mut buf);
            let n = n.unwrap_or_else(|e| panic!("{wanted}: {e}; {heard:?}"));
            heard.push_str(&String::from_utf8_lossy(&buf[..n]));
        }
        heard
    }
}

#[test]
fn a_service_manager_is_told_when_it_is_ready_locked_and_ending() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let socket = Socket::new(&store);
    let hear = |wanted: &str| socket.hear(wanted);
    let mut mount = store.kmsfs();
    mount.args(["mount", "--foreground", "--heartbeat", "1s"]).env("NOTIFY_SOCKET", &socket.path);
    let spawned = mount.arg(store.path()).arg(store.mountpoint()).spawn();
    let mut daemon = Foreground(spawned.expect("started"));
    let first = hear("READY=1");
    assert!(first.contains("STATUS=open"), "{first:?}");
    // Ready is ready: it can be asked and used without waiting.
    run(kmsfs().arg("status").arg(store.mountpoint()));
    fs::write(store.mountpoint().join("file"), b"content").expect("written");
    store.key(&["disable", "alias/kmsfs"]);
    let locked = hear("STATUS=revoked");
    assert!(locked.contains("DisabledException"), "{locked:?}");
    store.key(&["enable", "alias/kmsfs"]);
    hear("STATUS=open");
    assert_eq!(daemon.terminate(), Some(0));
    hear("STOPPING=1");
}

/// The monitor itself feeds the watchdog, open and locked: where it hangs, systemd ends the daemon.
#[test]
fn a_watchdog_is_fed() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let socket = Socket::new(&store);
    let mut mount = store.kmsfs();
    mount.args(["mount", "--foreground", "--heartbeat", "1s"]).env("NOTIFY_SOCKET", &socket.path);
    mount.env("WATCHDOG_USEC", "500000");
    let spawned = mount.arg(store.path()).arg(store.mountpoint()).spawn();
    let mut daemon = Foreground(spawned.expect("started"));
    socket.hear("READY=1");
    for _ in 0..3 {
        socket.hear("WATCHDOG=1");
    }
    store.key(&["disable", "alias/kmsfs"]);
    socket.hear("STATUS=revoked");
    for _ in 0..3 {
        socket.hear("WATCHDOG=1");
    }
    assert_eq!(daemon.terminate(), Some(0));
}

/// What the log of a mount holds once the mount has been locked.
fn logged(args: &[&str]) -> (String, String) {
    let store = Store::new(&[]);
    let mount = store.mount(&[&["--heartbeat", "1s"], args].concat());
    let volume = mount.report()["volume"].as_str().expect("an id").to_owned();
    store.key(&["disable", "alias/kmsfs"]);
    mount.wait_state("revoked", PATIENCE);
    let file = format!("/run/kmsfs/{volume}.log");
    let mut log = String::new();
    wait_for("a line about it", PATIENCE, || {
        log = fs::read_to_string(&file).expect("a log");
        log.contains("revoked")
    });
    (log, mount.root().display().to_string())
}

/// A line's time was a number of seconds.
#[test]
fn a_log_has_times_that_people_read_and_fields_for_programs() {
    if skipped("fuse") {
        return;
    }
    let is_utc = |time: &str| time.starts_with("20") && time.contains('T') && time.ends_with('Z');
    let (text, at) = logged(&[]);
    let line = text.lines().find(|line| line.contains("revoked")).expect("it was waited for");
    let mut words = line.split(' ');
    assert!(words.next().is_some_and(is_utc), "{line}");
    assert_eq!((words.next(), words.next()), (Some("warn"), Some(&*format!("{at}:"))));

    let (json, at) = logged(&["--log-format", "json"]);
    for line in json.lines() {
        let entry: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let text = |field: &str| entry[field].as_str().expect("a text");
        assert!(is_utc(text("time")) && text("level") == "warn" && text("volume").len() == 32);
        assert!(text("mountpoint") == at && text("message").contains(&at), "{line}");
    }

    if !Path::new("/run/systemd/journal/socket").exists() {
        let store = Store::new(&[]);
        let mut mount = store.kmsfs();
        mount.args(["mount", "--log-format", "journal"]);
        let said = fails(mount.arg(store.path()).arg(store.mountpoint()), 4);
        assert!(said.contains("journal"), "{said}");
    }
}
