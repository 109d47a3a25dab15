//! What a service manager is told (sd_notify(3)).

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::Child;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{PATIENCE, Store, kmsfs, run, skipped, wait_for};

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

#[test]
fn a_service_manager_is_told_when_it_is_ready_locked_and_ending() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let path = store.outside("notify");
    let socket = UnixDatagram::bind(&path).expect("bound");
    socket.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
    let hear = |wanted: &str| {
        let mut heard = String::new();
        while !heard.contains(wanted) {
            let mut buf = [0; 4096];
            let n = socket.recv(&mut buf).unwrap_or_else(|e| panic!("{wanted}: {e}; {heard:?}"));
            heard.push_str(&String::from_utf8_lossy(&buf[..n]));
        }
        heard
    };
    let mut mount = store.kmsfs();
    mount.args(["mount", "--foreground", "--heartbeat", "1s"]).env("NOTIFY_SOCKET", &path);
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
