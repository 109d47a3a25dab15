//! `kmsfs demo`, as a user runs it: what it tells, what it writes, what it leaves behind.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::support::{kmsfs, run, skipped, wait_for};

/// A demo whose temporary folder is its own, so that all it leaves behind is found.
struct Demo(tempfile::TempDir);

impl Demo {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("kmsfs-test-").tempdir().expect("a folder");
        run(Command::new("chmod").arg("755").arg(folder.path()));
        fs::create_dir(folder.path().join("tmp")).expect("made");
        Self(folder)
    }

    fn temporary(&self) -> std::path::PathBuf {
        self.0.path().join("tmp")
    }

    fn report(&self) -> std::path::PathBuf {
        self.0.path().join("report.html")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = kmsfs();
        command.arg("demo").arg("--report").arg(self.report()).args(args);
        // A setting of the user's own is not the demo's.
        command.env("TMPDIR", self.temporary()).env("KMSFS_REVOKE_AFTER", "1h");
        command
    }

    /// That nothing is mounted, running or lying there any more.
    fn assert_gone(&self) {
        let here = self.temporary().canonicalize().expect("there").display().to_string();
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("readable");
        assert!(!mounts.contains(&here), "a mount is left");
        let left: Vec<_> = fs::read_dir(&here).expect("listed").flatten().collect();
        assert!(left.is_empty(), "{left:?}");
        // The daemon may still be ending, and a killed program be waited for by init.
        wait_for("the end of every process", Duration::from_secs(20), || !anybody(&here));
    }
}

/// Whether a process has this path in its command line.
fn anybody(path: &str) -> bool {
    let processes = fs::read_dir("/proc").expect("listed").flatten();
    processes
        .filter_map(|p| fs::read(p.path().join("cmdline")).ok())
        .any(|words| memchr::memmem::find(&words, path.as_bytes()).is_some())
}

impl Drop for Demo {
    fn drop(&mut self) {
        // A demo that failed its test may have left a mount.
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let here = self.temporary().display().to_string();
        for at in mounts.lines().filter_map(|l| l.split(' ').nth(4)).filter(|m| m.contains(&here)) {
            let _ = kmsfs().args(["unmount", "--lazy", at]).output();
        }
    }
}

/// The number after these words.
fn number_after(text: &str, words: &str) -> u64 {
    let rest = text.split(words).nth(1).unwrap_or_else(|| panic!("no {words:?} in {text}"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a number")
}

const ROWS: [&str; 6] = ["writer", "descriptor", "map", "open", "readdir", "stat"];

fn assert_kept(output: &Output, report: &Path) {
    let told = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}{errors}");
    assert!(told.contains("every promise held") && !told.contains("NO  "), "{told}");
    assert!(!told.contains('\x1b'), "plain lines where there is no terminal");
    assert!(told.contains("EKEYREVOKED") && told.contains("SIGBUS"), "{told}");
    let page = fs::read_to_string(report).expect("written");
    assert!(page.contains("Every promise held.") && page.contains("</svg>"));
    for row in ROWS {
        assert!(page.contains(&format!("<b>{row}</b>")), "{row}");
        assert!(page.contains(&format!("{row}: last success ")), "{row}");
        assert!(page.contains(&format!("{row}: works again ")), "{row}");
    }
    let acknowledged = number_after(&page, "lines acknowledged ");
    assert!(acknowledged > 0, "{page}");
    assert_eq!(
        number_after(&page, &format!("lines acknowledged {acknowledged}, found ")),
        acknowledged
    );
    assert!(!page.contains("<script") && !page.contains("src=") && !page.contains("href="));
}

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

/// An ordinary user's mount needs /dev/fuse open to every user, which it may not be here: a mount
/// namespace of the demo's own gets such a device, and the machine's stays as it is.
#[test]
fn an_ordinary_user_can_run_the_demo() {
    const NAMESPACE: &str = "mkdir \"$1/dev\" && mount -t tmpfs tmpfs \"$1/dev\" &&
        mknod -m 666 \"$1/dev/fuse\" c 10 229 && mount --bind \"$1/dev/fuse\" /dev/fuse &&
        shift && exec setpriv --reuid nobody --regid nogroup --clear-groups \"$@\"";
    if skipped("fuse") {
        return;
    }
    let demo = Demo::new();
    // The binary's own folder may be closed to others.
    let (home, binary) = (demo.0.path(), demo.0.path().join("kmsfs"));
    fs::copy(env!("CARGO_BIN_EXE_kmsfs"), &binary).expect("copied");
    run(Command::new("chown").arg("-R").arg("nobody:nogroup").arg(home));
    let mut user = Command::new("unshare");
    user.args(["--mount", "sh", "-c", NAMESPACE, "sh"]).arg(home).arg(&binary);
    user.args(["demo", "--heartbeat", "1s", "--seconds", "1", "--report"]).arg(demo.report());
    user.env("TMPDIR", demo.temporary()).env("XDG_RUNTIME_DIR", home.join("run")).env("HOME", home);
    let output = user.output().expect("unshare can be started");
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
    wait_for("a written line", Duration::from_secs(60), || lines(demo.temporary()) > Some(0));
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
        .args(["demo", "--report", "/nonexistent/report.html"])
        .env("TMPDIR", demo.temporary())
        .output()
        .expect("started");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--report FILE.html"));
    demo.assert_gone();
    let usage = demo.command(&["--kms", "aws"]).output().expect("started");
    assert_eq!(usage.status.code(), Some(2), "AWS needs a --key");
}
