//! A container whose image and root lie in a mount, as an overlay filesystem's layers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Store, run, skipped};

/// Unmounts what podman has mounted below a folder, when dropped.
struct Below(PathBuf);

impl Drop for Below {
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let at = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        for mount in
            at.filter(|at| Path::new(at).starts_with(&self.0)).collect::<Vec<_>>().into_iter().rev()
        {
            let _ = Command::new("umount").arg(mount).output();
        }
    }
}

#[test]
fn a_container_runs_with_its_root_in_a_mount() {
    if skipped("fuse") || skipped("podman") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&["-o", "suid,dev"]);
    let graph = mount.at("graph");
    let _below = Below(graph.clone());
    let image = store.outside("image");
    fs::create_dir_all(image.join("bin")).expect("made");
    fs::copy("/bin/busybox", image.join("bin/busybox")).expect("busybox-static is installed");
    std::os::unix::fs::symlink("busybox", image.join("bin/sh")).expect("made");
    fs::write(image.join("removed"), "in a lower layer").expect("written");
    run(Command::new("tar")
        .arg("-C")
        .arg(&image)
        .arg("-cf")
        .arg(store.outside("image.tar"))
        .arg("."));
    let podman = || {
        let mut podman = Command::new("podman");
        podman.arg("--root").arg(&graph).arg("--runroot").arg(store.outside("run"));
        podman.args(["--storage-driver", "overlay", "--events-backend", "file"]);
        podman.args(["--cgroup-manager", "cgroupfs", "--runtime", "runc"]);
        podman
    };
    run(podman().arg("import").arg(store.outside("image.tar")).arg("kmsfs-test:1"));
    // Limits that no machine refuses.
    let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];
    let script = "set -e; B=/bin/busybox; $B rm /removed; echo written > /new; $B mv /new /moved; \
        $B cat /moved; $B test ! -e /removed; $B mount | $B grep -c '^overlay on / '";
    let mut container = podman();
    container.args(["run", "--rm", "--network", "none"]).args(limits);
    let told = run(container.args(["kmsfs-test:1", "/bin/sh", "-c", script]));
    assert_eq!(told, "written\n1\n");
}
