//! Copies of a store in use by tools that people have: rsync, restic, borg. Each is given the tree
//! first and then the rest, as OPERATIONS says.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::churn::{self, Churn};
use crate::support::{MountedAt, PATIENCE, Store, full_size, kmsfs, run, skipped, wait_for};

/// All of a store but its tree.
const REST: [&str; 5] = ["keys", "links", "lock", "volume.json", "volume.json.bak"];

/// A tool may end so where a file went away while it was read.
fn runs(command: &mut Command, vanished: i32) {
    let output = command.output().expect("started");
    let code = output.status.code();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(code == Some(0) || code == Some(vanished), "{command:?}: {code:?}: {said}");
}

/// Copies a store in use again and again, each time restored and looked at.
fn tried(tool: impl Fn(&Store, &Path)) {
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    let churn = Churn::start(&mount.root());
    let mut found = 0;
    for n in 0..if full_size() { 20 } else { 3 } {
        let rounds = churn.rounds();
        wait_for("a load", PATIENCE, || churn.rounds() > rounds + 3);
        let restored = store.outside(&format!("restored{n}"));
        fs::create_dir(&restored).expect("made");
        tool(&store, &restored);
        run(Command::new("chmod").arg("700").arg(&restored));
        // A file that was renamed meanwhile may be there under both names.
        let mut fsck = kmsfs();
        fsck.arg("fsck").arg(&restored).args(["--repair", "--yes"]);
        let said = run(&mut fsck);
        assert!(!said.contains(" key ") && !said.contains("wrapped key is missing"), "{said}");
        let at = store.outside(&format!("at{n}"));
        fs::create_dir(&at).expect("made");
        let _mounted = MountedAt::new(&at);
        run(kmsfs().arg("mount").arg(&restored).arg(&at));
        let looked = std::panic::catch_unwind(|| churn::check(&at));
        run(kmsfs().arg("unmount").arg(&at));
        found += looked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }
    assert!(found > 50, "{found}");
    churn.stop();
}

fn copied_in(command: impl Fn() -> Command, paths: &[&str], vanished: i32) {
    let mut command = command();
    runs(command.args(paths), vanished);
}

#[test]
fn rsync_in_two_runs_loses_no_file() {
    if skipped("fuse") || skipped("rsync") {
        return;
    }
    tried(|store, to| {
        let rsync = || {
            let mut rsync = Command::new("rsync");
            rsync.args(["-aHAX", "--delete"]);
            rsync
        };
        let (from, to) = (store.path().display().to_string(), to.display().to_string());
        copied_in(rsync, &[&format!("{from}/files/"), &format!("{to}/files/")], 24);
        copied_in(rsync, &["--exclude=/files", &format!("{from}/"), &format!("{to}/")], 24);
    });
}

#[test]
fn restic_in_two_runs_loses_no_file() {
    if skipped("fuse") || skipped("restic") {
        return;
    }
    tried(|store, to| {
        let repository = to.with_extension("restic");
        let restic = || {
            let mut restic = Command::new("restic");
            restic.env("RESTIC_PASSWORD", "x").env("RESTIC_REPOSITORY", &repository);
            restic.args(["--no-cache", "--quiet"]).current_dir(store.path());
            restic
        };
        run(restic().arg("init"));
        copied_in(restic, &["backup", "--tag", "files", "files"], 3);
        copied_in(restic, &[&["backup", "--tag", "rest"][..], &REST].concat(), 3);
        run(restic().args(["check", "--read-data"]));
        for tag in ["files", "rest"] {
            run(restic().args(["restore", "latest", "--tag", tag, "--target"]).arg(to));
        }
    });
}

#[test]
fn borg_with_the_tree_named_first_loses_no_file() {
    if skipped("fuse") || skipped("borg") {
        return;
    }
    tried(|store, to| {
        let repository = to.with_extension("borg");
        let borg = || {
            let mut borg = Command::new("borg");
            borg.env("BORG_REPO", &repository).env("BORG_BASE_DIR", store.outside("borg-base"));
            borg.env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes");
            borg.current_dir(store.path());
            borg
        };
        run(borg().args(["init", "--encryption=none"]));
        copied_in(borg, &[&["create", "::copy", "files"][..], &REST].concat(), 1);
        run(borg().args(["check", "--verify-data"]));
        run(borg().args(["extract", "::copy"]).current_dir(to));
    });
}
