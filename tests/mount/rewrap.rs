//! Rewrapping, with the store mounted and not, interrupted at any point.
//!
//! `KMSFS_TEST_FULL=1` kills fifty rewraps.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use kmsfs::secret::random_bytes;

use crate::support::role::{self, Role, Stamps};
use crate::support::{
    EKEYREJECTED, EKEYREVOKED, Mount, PATIENCE, Store, errno, fails, files, full_size, kmsfs, run,
    skipped, two_keys, wait_for,
};

const ROLES: &str = "rewrap::a_role";
const DONE: usize = 0;

fn rewrap(store: &Store, to: &str) -> Command {
    let mut command = kmsfs();
    command.arg("rewrap").arg(store.path()).args(["--to", to]);
    command
}

/// Whatever of the store's metadata names this key.
fn under(store: &Store, id: &str) -> usize {
    let meta = files(&store.path());
    // A temporary file may be gone by now.
    let text = meta.iter().filter_map(|f| fs::read_to_string(f).ok());
    text.flat_map(|t| t.lines().map(str::to_owned).collect::<Vec<_>>())
        .filter(|l| l.contains(id))
        .count()
}

fn text_of(n: u64) -> Vec<u8> {
    format!("file {n}\n").repeat(100).into_bytes()
}

fn fill(mount: &Mount<'_>, files: std::ops::Range<u64>) {
    files.for_each(|n| fs::write(mount.at(&format!("f-{n}")), text_of(n)).expect("written"));
}

fn check(mount: &Mount<'_>, files: std::ops::Range<u64>) {
    for n in files {
        assert_eq!(fs::read(mount.at(&format!("f-{n}"))).expect("readable"), text_of(n), "f-{n}");
    }
}

#[test]
fn a_store_that_is_not_mounted_is_rewrapped_whole() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let [old, new] = two_keys(&store);
    let mount = store.mount(&[]);
    fill(&mount, 0..200);
    mount.unmount();
    let planned = run(rewrap(&store, &new).arg("--dry-run"));
    assert!(planned.contains("202 keys: 202 calls"), "{planned}");
    let untouched = under(&store, &new);
    assert_eq!(untouched, 0, "a dry run writes nothing");
    let said = run(&mut rewrap(&store, &new));
    assert!(said.contains("rewrapped 202 keys"), "{said}");
    assert_eq!(under(&store, &old), 0);
    assert!(run(&mut rewrap(&store, &new)).contains("rewrapped 0 keys"), "it is idempotent");
    store.key(&["disable", &old]);
    let mount = store.mount(&[]);
    check(&mount, 0..200);
    fs::write(mount.at("more"), b"under the new key").expect("written");
    mount.unmount();
    assert_eq!(under(&store, &old), 0);
}

/// With branch keys a rewrap is a matter of a few calls: it leaves the lines alone.
#[test]
fn branch_keys_are_rewrapped_and_their_lines_stay() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&["--data-keys", "branch"]);
    let [old, new] = two_keys(&store);
    let mount = store.mount(&["--heartbeat", "1s"]);
    fill(&mount, 0..200);
    let lines = mount.lines();
    assert!(lines.contains(&old) && !lines.contains(&new), "{lines}");
    let said = run(&mut rewrap(&store, &new));
    assert!(said.contains("rewrapped 3 keys"), "{said}");
    fill(&mount, 200..300);
    store.key(&["disable", &old]);
    check(&mount, 0..300);
    mount.unmount();
    assert_eq!(under(&store, &old), 0);
    let mount = store.mount(&[]);
    check(&mount, 0..300);
}

/// The mount takes the new master key over within the rewrap: the old one can be disabled the
/// moment that it ends, with files open, and new files come under the new one.
#[test]
fn a_mounted_store_is_rewrapped_beside_its_users() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let [old, new] = two_keys(&store);
    let mount = store.mount(&["--heartbeat", "1s"]);
    fill(&mount, 0..100);
    let mut open = File::open(mount.at("f-7")).expect("opened");
    let said = run(&mut rewrap(&store, &new));
    assert!(said.contains("rewrapped"), "{said}");
    fill(&mount, 100..200);
    store.key(&["disable", &old]);
    let (beats, report) = ("beats", mount.report());
    assert!(report["master_key"].as_str().expect("an ARN").ends_with(&new), "{report}");
    let seen = report[beats].as_u64().expect("a count");
    wait_for("two more beats", PATIENCE, || mount.report()[beats].as_u64() > Some(seen + 2));
    assert_eq!(mount.state(), "open");
    let mut text = Vec::new();
    open.read_to_end(&mut text).expect("still readable");
    check(&mount, 0..200);
    assert_eq!(under(&store, &old), 0);
    store.key(&["disable", &new]);
    mount.wait_state("revoked", PATIENCE);
    assert_eq!(errno(File::open(mount.at("f-7"))), Some(EKEYREVOKED));
    store.key(&["enable", &new]);
    mount.wait_state("open", PATIENCE);
    drop(open);
    mount.unmount();
    check(&store.mount(&[]), 0..200);
}

/// Creates, removes and shreds files until it is killed. Files `f-N` below `DONE` are there
/// whole, but for every third, which is removed, and every fiftieth, which is shredded.
fn churn(folder: &Path, stamps: &Stamps) {
    for n in 0.. {
        let path = folder.join(format!("f-{n}"));
        fs::write(&path, text_of(n)).expect("the mount is open");
        match n {
            _ if n % 50 == 0 => drop(run(kmsfs().arg("shred").arg("--yes").arg(&path))),
            _ if n % 3 == 0 => fs::remove_file(&path).expect("it was there"),
            _ => {}
        }
        stamps.set(DONE, n + 1);
    }
}

/// Not a test: the process that the test starts.
#[test]
#[ignore = "a process that another test starts"]
fn a_role() {
    let Some((_, folder, stamps)) = role::asked() else { return };
    churn(&folder, &Stamps::open(&stamps));
}

/// Rewraps are killed at random points, to one key and to the other, while another process
/// creates, removes and shreds files. At the end one is let finish: no file is lost, no shredded
/// line is back, nothing is left under the old key.
#[test]
fn a_rewrap_killed_anywhere_loses_nothing_and_can_be_finished() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let [first, second] = two_keys(&store);
    let mount = store.mount(&["--heartbeat", "1s"]);
    let stamps = store.outside("stamps");
    let mut role = Role::start(ROLES, "churn", &mount.root(), &stamps);
    let done = || Stamps::open(&stamps).get(DONE);
    wait_for("the first files", PATIENCE, || done() > 200);
    let (mut to, mut cut) = (&second, 0);
    for _ in 0..if full_size() { 50 } else { 6 } {
        let began = done();
        let mut child = rewrap(&store, to).stdout(Stdio::null()).spawn().expect("it starts");
        let micros = u64::from(u16::from_le_bytes(random_bytes())) * 4;
        std::thread::sleep(Duration::from_micros(micros));
        let finished = child.try_wait().expect("it is ours");
        child.kill().expect("it is ours");
        child.wait().expect("it is ours");
        cut += u32::from(finished.is_none());
        if let Some(status) = finished {
            assert!(status.success(), "{status}");
            to = if *to == first { &second } else { &first };
        }
        assert!(!role.ended(), "the mount went on");
        wait_for("more files", PATIENCE, || done() > began + 20);
    }
    eprintln!("{cut} rewraps were cut short, {} files", done());
    let (old, new) = if *to == first { (&second, &first) } else { (&first, &second) };
    run(&mut rewrap(&store, new));
    drop(role);
    let last = done();
    store.key(&["disable", old]);
    // A shred that the killed process had started may not have ended.
    let unmounted = || {
        let tried = kmsfs().arg("unmount").arg(mount.root()).output().expect("started");
        tried.status.success()
    };
    wait_for("the end of its last user", PATIENCE, unmounted);
    drop(mount);
    assert_eq!(under(&store, old), 0);
    let temporary = |f: &Path| f.to_string_lossy().contains(".tmp-");
    let mount = store.mount(&[]);
    let mut shredded = 0;
    for n in 0..last {
        let found = fs::read(mount.at(&format!("f-{n}")));
        match n {
            _ if n % 50 == 0 => {
                assert_eq!(errno(found), Some(EKEYREJECTED), "f-{n} is shredded");
                shredded += 1;
            }
            _ if n % 3 == 0 => assert_eq!(errno(found), Some(libc::ENOENT), "f-{n} is removed"),
            _ => assert_eq!(found.expect("readable"), text_of(n), "f-{n}"),
        }
    }
    assert!(shredded > 3, "{shredded}");
    wait_for("the sweep of what the killed ones left", PATIENCE, || {
        !files(&store.path()).iter().any(|f| temporary(f))
    });
}

/// The old key is disabled in the middle: what was done stays done, the mount locks, and when
/// the key is enabled the same command goes on.
#[test]
fn a_disable_in_the_middle_of_a_rewrap_locks_and_loses_nothing() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let [old, new] = two_keys(&store);
    let mount = store.mount(&["--heartbeat", "1s"]);
    fill(&mount, 0..600);
    let mut child = rewrap(&store, &new)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    wait_for("the first lines", PATIENCE, || under(&store, &new) > 8);
    store.key(&["disable", &new]);
    mount.wait_state("revoked", PATIENCE);
    let status = child.wait().expect("it is ours");
    // It may have been done before the key was disabled.
    assert!([Some(0), Some(5)].contains(&status.code()), "{status}");
    let said = fails(&mut rewrap(&store, &new), 5);
    assert!(said.contains("Disabled"), "{said}");
    store.key(&["enable", &new]);
    mount.wait_state("open", PATIENCE);
    check(&mount, 0..600);
    run(&mut rewrap(&store, &new));
    store.key(&["disable", &old]);
    mount.unmount();
    assert_eq!(under(&store, &old), 0);
    check(&store.mount(&[]), 0..600);
}

/// A store that somebody else replaced `volume.json` of is not followed: the mount goes on
/// under the key that it had.
#[test]
fn a_volume_file_of_another_volume_is_not_followed() {
    if skipped("fuse") {
        return;
    }
    let (store, other) = (Store::new(&[]), Store::new(&[]));
    let mount = store.mount(&["--heartbeat", "1s"]);
    fill(&mount, 0..3);
    let before = mount.report()["master_key"].clone();
    let own = store.path().join("volume.json");
    let saved = fs::read(&own).expect("readable");
    fs::copy(other.path().join("volume.json"), &own).expect("replaced");
    let seen = mount.report()["beats"].as_u64().expect("a count");
    wait_for("two more beats", PATIENCE, || mount.report()["beats"].as_u64() > Some(seen + 2));
    assert_eq!((mount.state().as_str(), &mount.report()["master_key"]), ("open", &before));
    fill(&mount, 3..6);
    check(&mount, 0..6);
    fs::write(&own, saved).expect("put back");
}

/// Root rewrapped a store of somebody else's: the pages that it replaced were root's from then on,
/// and the user's own daemon could not read them.
#[test]
fn what_root_rewraps_stays_its_owners() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let [_, new] = two_keys(&store);
    let mount = store.mount(&[]);
    fill(&mount, 0..3);
    mount.unmount();
    run(Command::new("chown").args(["-R", "nobody:nogroup"]).arg(store.path()));
    run(&mut rewrap(&store, &new));
    let meta = files(&store.path());
    let nobody = fs::metadata(store.path()).expect("there").uid();
    let strange = meta.iter().filter(|f| fs::metadata(f).expect("there").uid() != nobody);
    assert_eq!(strange.count(), 0);
}

#[test]
fn what_a_rewrap_cannot_do_it_says() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let [old, new] = two_keys(&store);
    let mount = store.mount(&[]);
    fill(&mount, 0..3);
    mount.unmount();
    let said = fails(&mut rewrap(&store, "alias/absent"), 5);
    assert!(said.contains("NotFoundException"), "{said}");
    let page = files(&store.path().join("keys")).remove(0);
    let text = fs::read_to_string(&page).expect("a page");
    let (first, rest) = text.split_once('\n').expect("lines");
    fs::write(&page, format!("{}\n{rest}", first.replacen("master", "mister", 1))).expect("ok");
    let said = run(rewrap(&store, &new).arg("--dry-run"));
    assert!(said.contains("damaged     1 lines"), "{said}");
    let mut damaged = text.clone().into_bytes();
    let within = text.find(r#""key":""#).expect("a wrapped key") + 100;
    damaged[within] = if damaged[within] == b'A' { b'B' } else { b'A' };
    fs::write(&page, damaged).expect("written");
    let said = fails(&mut rewrap(&store, &new), 1);
    assert!(said.contains("1 data keys are not rewrapped"), "{said}");
    assert_eq!(under(&store, &old), 1);
    assert!(store.path().join("volume.json.bak").exists());
}
