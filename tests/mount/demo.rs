//! `kmsfs demo`, as a user runs it: what it tells, what it writes, what it leaves behind.

use std::fs;
use std::process::{Command, Stdio};

use crate::support::demo::{Demo, assert_kept, number_after};
use crate::support::device::OpenDevice;
use crate::support::{PATIENCE, kmsfs, nobody, run, skipped, wait_for};

#[test]
fn the_demo_keeps_its_promises_and_leaves_nothing() {
    if skipped("fuse") {
        return;
    }
    let demo = Demo::new();
    let output = demo.command(&["--heartbeat", "1s", "--seconds", "1"]).output().expect("started");
    assert_kept(&output, &demo.report());
    demo.assert_gone();
}

#[test]
fn the_demo_runs_postgresql_too() {
    if skipped("fuse") || skipped("postgres") {
        return;
    }
    let demo = Demo::new();
    let args = ["--heartbeat", "1s", "--seconds", "2", "--postgres"];
    let output = demo.command(&args).output().expect("started");
    assert_kept(&output, &demo.report());
    let page = fs::read_to_string(demo.report()).expect("written");
    let committed = number_after(&page, "transactions committed ");
    assert!(committed > 0);
    assert!(number_after(&page, &format!("committed {committed}, found ")) >= committed);
    assert!(page.contains("<b>pgbench</b>") && page.contains("balances agree"));
    demo.assert_gone();
}

#[test]
fn an_ordinary_user_can_run_the_demo() {
    if skipped("fuse") {
        return;
    }
    let _device = OpenDevice::new();
    let demo = Demo::new();
    // The binary's own folder may be closed to others.
    let (home, binary) = (demo.0.path(), demo.0.path().join("kmsfs"));
    fs::copy(env!("CARGO_BIN_EXE_kmsfs"), &binary).expect("copied");
    run(Command::new("chown").arg("-R").arg("nobody:nogroup").arg(home));
    let mut user = nobody();
    user.arg(&binary)
        .args(["demo", "--heartbeat", "1s", "--seconds", "1", "--report"])
        .arg(demo.report());
    user.env("TMPDIR", demo.temporary()).env("XDG_RUNTIME_DIR", home.join("run")).env("HOME", home);
    let output = user.output().expect("setpriv can be started");
    assert_kept(&output, &demo.report());
    demo.assert_gone();
}

/// Ctrl-C while programs are at work: everything is taken down, and the exit code says that
/// nothing was shown.
#[test]
fn an_interrupted_demo_takes_everything_down() {
    if skipped("fuse") {
        return;
    }
    let demo = Demo::new();
    let mut child = demo
        .command(&["--heartbeat", "1s", "--seconds", "600"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let lines = |root: std::path::PathBuf| {
        let stage = fs::read_dir(root).ok()?.flatten().next()?;
        fs::metadata(stage.path().join("mnt/lines")).ok().map(|m| m.len())
    };
    wait_for("a written line", PATIENCE, || lines(demo.temporary()) > Some(0));
    let pid = rustix::process::Pid::from_raw(child.id() as i32).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    assert_eq!(child.wait().expect("it ends").code(), Some(1));
    demo.assert_gone();
    assert!(!demo.report().exists());
}

#[test]
fn a_report_that_cannot_be_written_is_told_before_anything_is_made() {
    let demo = Demo::new();
    let output = kmsfs()
        .args(["demo", "--report"])
        .arg(demo.temporary().join("absent/report.html"))
        .env("TMPDIR", demo.temporary())
        .output()
        .expect("started");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--report FILE.html"));
    demo.assert_gone();
    let usage = demo.command(&["--kms", "aws"]).output().expect("started");
    assert_eq!(usage.status.code(), Some(2), "AWS needs a --key");
}
