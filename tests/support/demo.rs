//! A run of `kmsfs demo`, and what it must not leave behind.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::{PATIENCE, kmsfs, run, wait_for};

/// A demo whose temporary folder is its own, so that all it leaves behind is found.
pub struct Demo(pub tempfile::TempDir);

impl Demo {
    /// With its folders.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("kmsfs-test-").tempdir().expect("a folder");
        run(Command::new("chmod").arg("755").arg(folder.path()));
        fs::create_dir(folder.path().join("tmp")).expect("made");
        Self(folder)
    }

    /// Where it makes its stage.
    pub fn temporary(&self) -> PathBuf {
        self.0.path().join("tmp")
    }

    /// Where it writes its report.
    pub fn report(&self) -> PathBuf {
        self.0.path().join("report.html")
    }

    /// The demo with these further arguments.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = kmsfs();
        command.arg("demo").arg("--report").arg(self.report()).args(args);
        // A setting of the user's own is not the demo's.
        command.env("TMPDIR", self.temporary()).env("KMSFS_REVOKE_AFTER", "1h");
        command
    }

    /// That nothing is mounted, running or lying there any more.
    pub fn assert_gone(&self) {
        let here = self.temporary().canonicalize().expect("there").display().to_string();
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("readable");
        assert!(!mounts.contains(&here), "a mount is left");
        let left: Vec<_> = fs::read_dir(&here).expect("listed").flatten().collect();
        assert!(left.is_empty(), "{left:?}");
        // The daemon may still be ending, and a killed program be waited for by init.
        wait_for("the end of every process", PATIENCE, || !anybody(&here));
    }
}

/// Ends a demo at the first line with these words, after what is done `meanwhile`: its exit code, and
/// what it tells from there on.
pub fn interrupted_at(
    mut command: Command,
    words: &str,
    meanwhile: impl FnOnce(),
) -> (Option<i32>, Vec<String>) {
    let mut child = command.stdout(Stdio::piped()).spawn().expect("started");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut lines = lines.map_while(Result::ok);
    assert!(lines.any(|line| line.contains(words)), "it comes to {words}");
    meanwhile();
    let pid = rustix::process::Pid::from_raw(child.id() as i32).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    let told = lines.collect();
    (child.wait().expect("it ends").code(), told)
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
pub fn number_after(text: &str, words: &str) -> u64 {
    let rest = text.split(words).nth(1).unwrap_or_else(|| panic!("no {words:?} in {text}"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a number")
}

const ROWS: [&str; 6] = ["writer", "descriptor", "map", "open", "readdir", "stat"];

/// That it ended well, told so, and wrote a report in which all is there.
pub fn assert_kept(output: &Output, report: &Path) {
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
    for elsewhere in ["Azure SQL Database", "MongoDB Atlas", "Amazon RDS", "Amazon EBS"] {
        assert!(page.contains(&format!("<b>{elsewhere}</b>")), "{elsewhere}");
    }
    assert!(!page.contains("<script") && !page.contains("src=") && !page.contains("href="));
}

/// That each of these parts was played and kept these promises, on the screen and in the report.
pub fn assert_played(output: &Output, report: &Path, parts: &[(&str, &[&str])]) {
    let told = String::from_utf8_lossy(&output.stdout);
    let page = fs::read_to_string(report).expect("written");
    for (part, promises) in parts {
        let heading = format!("<h2>{part}: ");
        let section = page.split(&heading).nth(1).unwrap_or_else(|| panic!("no {part}: {told}"));
        let section = section.split("<h2>").next().unwrap_or_default();
        for promise in *promises {
            let line = format!("<td class=\"yes\">yes</td><td>{promise}");
            assert!(section.contains(&line), "{part}: {promise}: {section}");
            assert!(told.contains(&format!(" yes  {}", promise.replace("&#39;", "'"))), "{told}");
        }
    }
}
