//! `kmsfs demo`, as a user runs it: what it tells, what it writes, what it leaves behind.

use std::fs;
use std::process::{Command, Stdio};

use crate::support::demo::{Demo, assert_kept, assert_played, interrupted_at, number_after};
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

/// Each further part, with every promise that it is held to.
#[test]
fn the_demo_plays_its_further_parts() {
    if skipped("fuse") {
        return;
    }
    let demo = Demo::new();
    let args = ["--heartbeat", "1s", "--seconds", "1", "--also", "all"];
    let output = demo.command(&args).output().expect("started");
    assert_kept(&output, &demo.report());
    let parts: [(&str, &[&str]); 4] = [
        (
            "deletion",
            &[
                "locked ",
                "no program&#39;s last success later than ",
                "open again ",
                "every program works again ",
                "reads that gave wrong bytes: 0",
                "lines acknowledged ",
            ],
        ),
        (
            "network",
            &[
                "work on cached keys: ",
                "a file whose key is not cached: EKEYEXPIRED after ",
                "no lock: open all the time",
                "once the KMS is back: that file opens after ",
                "lines acknowledged ",
            ],
        ),
        (
            "copy",
            &[
                "locked: a file is EKEYREVOKED in the mount",
                "the copy does not mount: exit code 5, and ENOENT where it would be",
                "the copy is not read without a mount: exit code 5",
                "the copy holds nothing of a file&#39;s content in clear",
                "with the key enabled: the copy mounts, ",
            ],
        ),
        (
            "neighbours",
            &[
                "first store: locked ",
                "first store: no program&#39;s last success later than ",
                "second store: locked ",
                "second store: no program&#39;s last success later than ",
                "second store: every program works again ",
                "store under another key: open all the time",
                "store under another key: lines acknowledged ",
            ],
        ),
    ];
    assert_played(&output, &demo.report(), &parts);
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("left out: the embedded keystore asks nobody for a permission"));
    demo.assert_gone();
}

/// While the keystore is moved away: it is moved back, for a store that is kept needs it.
#[test]
fn an_interrupted_outage_is_ended() {
    if skipped("fuse") {
        return;
    }
    let demo = Demo::new();
    let args = ["--heartbeat", "1s", "--seconds", "1", "--also", "network", "--keep"];
    let mut command = demo.command(&args);
    command.stderr(Stdio::null());
    let (code, told) = interrupted_at(command, "folder is moved away", || ());
    let kept =
        told.iter().find_map(|line| line.strip_prefix("kept: ").map(std::path::PathBuf::from));
    let kept = kept.expect("the store is kept");
    assert_eq!(code, Some(1));
    let ledger = kmsfs().arg("cat").arg(&kept).arg("ledger").output().expect("started");
    assert_eq!((ledger.status.code(), ledger.stdout.len()), (Some(0), 64 << 10));
    let stage = kept.parent().and_then(std::path::Path::parent).expect("its folders");
    fs::remove_dir_all(stage).expect("removed");
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
