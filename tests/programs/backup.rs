//! Copies by tools that people have: rsync, restic, borg. Of a store in use: each is given the tree
//! first and then the rest, as OPERATIONS says. And of what a mount shows, while its key is disabled.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::servers::logs;
use crate::support::churn::{self, Churn, MidWrite};
use crate::support::{MountedAt, PATIENCE, Store, files, full_size, kmsfs, run, skipped, wait_for};

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
        let output = fsck.output().expect("started");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(matches!(output.status.code(), Some(0 | 20)), "{said}");
        let of =
            |kind| move |line: &'_ str| line.strip_prefix(kind).map(|rest| rest.trim().to_owned());
        // A file that was renamed and written to meanwhile differs under either name.
        let repaired: Vec<_> = said.lines().filter_map(of("repaired ")).collect();
        let damage = said.lines().filter_map(of("damage "));
        for damage in damage.filter(|damage| !repaired.contains(damage)) {
            // Read in the middle of a write; or a folder whose file was read, and that was removed
            // before its id was.
            let is_torn = damage.contains(" /load") && damage.contains("fail authentication");
            let is_removed = damage.contains("/moved") && damage.contains("id is missing");
            assert!(is_torn || is_removed, "{damage}");
        }
        let at = store.outside(&format!("at{n}"));
        fs::create_dir(&at).expect("made");
        let _mounted = MountedAt::new(&at);
        run(kmsfs().arg("mount").arg(&restored).arg(&at));
        let looked = std::panic::catch_unwind(|| churn::check(&at, MidWrite::Torn));
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

/// What a tool says that cannot read a file, in its own output, and its exit code then.
struct Told {
    code: i32,
    line: &'static str,
}

/// Copies a mount whose key is disabled midway, and once more when it is enabled.
fn through_a_disabled_key(
    backup: impl Fn(&Store, &str) -> Command,
    restore: impl Fn(&Store, &Path),
    told: &Told,
) {
    let store = Store::new(&[]);
    let mount = store.mount(&["--heartbeat", "2s"]);
    for n in 0..128 {
        let mut content = vec![0; 1 << 19];
        let random = fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut content));
        random
            .and_then(|()| fs::write(mount.at(&format!("file-{n:03}")), content))
            .expect("written");
    }
    let output = store.outside("output");
    let mut first = backup(&store, "first");
    first.current_dir(mount.root()).stdout(Stdio::null());
    first.stderr(fs::File::create(&output).expect("made"));
    let mut first = first.spawn().expect("it is installed");
    let pid = Pid::from_child(&first);
    // It waits where it is, so that the key is gone before it has read everything.
    let repository = store.outside("repository");
    wait_for("a part of the copy", PATIENCE, || {
        files(&repository).iter().filter_map(|f| f.metadata().ok()).map(|m| m.len()).sum::<u64>()
            > 2 << 20
    });
    kill_process(pid, Signal::STOP).expect("it is ours");
    store.key(&["disable", "alias/kmsfs"]);
    mount.wait_state("revoked", PATIENCE);
    kill_process(pid, Signal::CONT).expect("it is ours");
    let status = first.wait().expect("it is ours");
    let said = fs::read_to_string(&output).expect("readable");
    assert_eq!(status.code(), Some(told.code), "{said}");
    logs(&said, &[told.line]);
    store.key(&["enable", "alias/kmsfs"]);
    mount.wait_state("open", PATIENCE);
    run(backup(&store, "second").current_dir(mount.root()));
    let restored = store.outside("restored");
    fs::create_dir(&restored).expect("made");
    restore(&store, &restored);
    run(Command::new("diff").arg("-r").arg(mount.root()).arg(&restored));
}

#[test]
fn restic_on_a_mount_says_that_the_key_was_disabled() {
    if skipped("fuse") || skipped("restic") {
        return;
    }
    let restic = |store: &Store| {
        let mut restic = Command::new("restic");
        restic.env("RESTIC_PASSWORD", "x").env("RESTIC_REPOSITORY", store.outside("repository"));
        restic.args(["--no-cache", "--quiet"]);
        restic
    };
    let backup = |store: &Store, name: &str| {
        let mut command = restic(store);
        if name == "first" {
            run(restic(store).arg("init"));
        }
        command.args(["backup", "--tag", name, "."]);
        command
    };
    let restore = |store: &Store, to: &Path| {
        run(restic(store).args(["check", "--read-data"]));
        run(restic(store).args(["restore", "latest", "--tag", "second", "--target"]).arg(to));
    };
    through_a_disabled_key(backup, restore, &Told { code: 3, line: "key has been revoked" });
}

#[test]
fn borg_on_a_mount_says_that_the_key_was_disabled() {
    if skipped("fuse") || skipped("borg") {
        return;
    }
    let borg = |store: &Store| {
        let mut borg = Command::new("borg");
        borg.env("BORG_REPO", store.outside("repository"));
        borg.env("BORG_BASE_DIR", store.outside("borg-base"));
        borg.env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes");
        borg
    };
    let backup = |store: &Store, name: &str| {
        let mut command = borg(store);
        if name == "first" {
            run(borg(store).args(["init", "--encryption=none"]));
        }
        command.args(["create", &format!("::{name}"), "."]);
        command
    };
    let restore = |store: &Store, to: &Path| {
        run(borg(store).args(["check", "--verify-data"]));
        run(borg(store).args(["extract", "::second"]).current_dir(to));
    };
    let told = Told { code: 1, line: "[Errno 128] Key has been revoked" };
    through_a_disabled_key(backup, restore, &told);
}
