//! Programs in a mount namespace of their own, without the FUSE mounts of other tests: those would
//! not end while they are seen there too, and a program that looks at all mounts would wait for
//! them, or stumble over one whose daemon was killed.

use std::path::Path;
use std::process::{Command, Stdio};

use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::thread::{UnshareFlags, unshare_unsafe};

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

/// Takes this thread there, and what it starts from now on; the FUSE mounts below a folder stay.
/// Threads that it starts keep the namespace alive, and so those mounts.
pub fn this_thread(but_for: &Path) {
    // SAFETY: the thread's own namespace and working folder, on which no other thread relies.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.expect("root");
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC).expect("/");
    let mounts = std::fs::read_to_string("/proc/thread-self/mounts").expect("readable");
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        if fields[2].starts_with("fuse") && !Path::new(fields[1]).starts_with(but_for) {
            let _ = unmount(fields[1], UnmountFlags::DETACH);
        }
    }
}
