//! Real programs, living in a mount, and what each checks of itself.

mod attackers;
#[path = "../support/mod.rs"]
mod support;

mod backup;
mod etcd;
mod mariadb;
mod nfs;
mod nginx;
mod packages;
mod podman;
mod postgres;
mod redis;
mod servers;
mod sqlite;

use std::fs;
use std::path::Path;
use std::process::Command;

use support::{Store, run, skipped};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn git(at: &Path) -> Command {
    let mut command = Command::new("git");
    command.args(["-c", "safe.directory=*"]).current_dir(at);
    command
}

/// A local clone hard-links its objects, which encrypting filesystems are known to fail at.
#[test]
fn git_clones_with_hard_links_and_finds_nothing_wrong() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    run(git(&mount.root()).args(["clone", "-q", "--no-hardlinks"]).arg(root()).arg("one"));
    run(git(&mount.root()).args(["clone", "-q", "--local", "one", "two"]));
    for clone in ["one", "two"] {
        run(git(&mount.at(clone)).args(["fsck", "--full", "--strict"]));
        assert_eq!(run(git(&mount.at(clone)).args(["status", "--porcelain"])), "");
    }
    let pack = fs::read_dir(mount.at("two/.git/objects/pack")).expect("listed").flatten().next();
    if let Some(pack) = pack {
        use std::os::unix::fs::MetadataExt;
        assert_eq!(pack.metadata().expect("there").nlink(), 2, "the clone is hard-linked");
    }
    run(git(&mount.at("two")).args(["gc", "-q"]));
    run(git(&mount.at("two")).args(["fsck", "--full"]));
}

#[test]
fn cargo_builds_a_crate_with_a_dependency() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    let write = |path: &str, text: &str| {
        let path = mount.at(path);
        fs::create_dir_all(path.parent().expect("in a folder")).expect("made");
        fs::write(path, text).expect("written");
    };
    let manifest = |name: &str, more: &str| {
        format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n{more}")
    };
    write("dep/Cargo.toml", &manifest("dep", ""));
    write("dep/src/lib.rs", "pub fn answer() -> u32 { 42 }");
    write("app/Cargo.toml", &manifest("app", "[dependencies]\ndep = { path = \"../dep\" }\n"));
    write("app/src/main.rs", "fn main() { println!(\"{}\", dep::answer()); }");
    let cargo = |verb: &str| {
        let mut command = Command::new(env!("CARGO"));
        command.args([verb, "-q", "--offline"]).current_dir(mount.at("app"));
        command.env("CARGO_TARGET_DIR", mount.at("app/target"));
        command
    };
    assert_eq!(run(&mut cargo("run")), "42\n");
    // The second build finds the first one's times unchanged.
    assert_eq!(run(&mut cargo("run")), "42\n");
}
