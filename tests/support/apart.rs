//! Programs in a mount namespace of their own, without the FUSE mounts of other tests: those would
//! not end while they are seen there too, and a program that looks at all mounts would wait for
//! them, or stumble over one whose daemon was killed.

use std::process::{Command, Stdio};

/// What a shell does first.
const LEAVE_OTHERS: &str = r#"
for m in $(awk '$3 ~ /^fuse/ { print $2 }' /proc/self/mounts); do umount --lazy "$m"; done
"#;

/// A shell that runs a script there, with arguments from `$1` on.
pub fn shell(script: &str) -> Command {
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "--propagation", "private", "sh", "-c"]);
    shell.arg(format!("{LEAVE_OTHERS}{script}")).arg("sh").stdin(Stdio::null());
    shell
}

/// A program there.
pub fn program(name: &str) -> Command {
    let mut program = shell("exec \"$@\"");
    program.arg(name);
    program
}
