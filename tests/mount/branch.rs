//! Volumes whose data keys are wrapped by branch keys.

use std::fs;
use std::path::PathBuf;

use crate::support::{
    EKEYREJECTED, EKEYREVOKED, Mount, PATIENCE, Store, errno, fails, files, kmsfs, run, skipped,
};

const FILES: usize = 400;
/// No heartbeat falls into a test, so that every call counted is one for keys.
const QUIET: [&str; 4] = ["--heartbeat", "1h", "--kms-rate", "10"];
/// Of the first beats, of the volume key, and of branch keys: what the project promises for 5,000
/// files.
const FEW: u64 = 20;

fn content(n: usize) -> Vec<u8> {
    vec![u8::try_from(n % 251).expect("small"); 100 + n]
}

fn write_all(mount: &Mount<'_>, names: std::ops::Range<usize>) {
    for n in names {
        fs::create_dir_all(mount.at(&format!("d{}", n / 100))).expect("made");
        fs::write(mount.at(&format!("d{}/{n}", n / 100)), content(n)).expect("written");
    }
}

fn read(mount: &Mount<'_>, n: usize) -> std::io::Result<Vec<u8>> {
    fs::read(mount.at(&format!("d{}/{n}", n / 100)))
}

fn branch_files(store: &Store) -> Vec<PathBuf> {
    let mut all = files(&store.path().join("keys/branch"));
    // What is being written.
    all.retain(|path| !path.to_string_lossy().contains(".tmp-"));
    all
}

/// Hundreds of files are made, and read on a fresh mount, under a budget of ten calls a second,
/// which a call for each file would pass by far.
#[test]
fn some_hundred_files_cost_few_calls() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&["--data-keys", "branch"]);
    let told = run(kmsfs().arg("info").arg(store.path()));
    assert!(told.contains("data keys   branch"), "{told}");
    let mount = store.mount(&QUIET);
    write_all(&mount, 0..FILES);
    let calls = mount.kms_calls();
    assert!(calls < FEW, "{calls} calls to write");
    mount.unmount();
    assert_eq!(branch_files(&store).len(), 1);
    let mount = store.mount(&QUIET);
    for n in 0..FILES {
        assert_eq!(read(&mount, n).expect("readable"), content(n));
    }
    let calls = mount.kms_calls();
    assert!(calls < FEW, "{calls} calls to read");
    mount.unmount();
    let dest = store.outside("exported");
    run(kmsfs().arg("export").arg(store.path()).arg(&dest));
    for n in 0..FILES {
        assert_eq!(fs::read(dest.join(format!("d{}/{n}", n / 100))).expect("there"), content(n));
    }
    let output = kmsfs().arg("cat").arg(store.path()).arg("d1/123").output().expect("started");
    assert_eq!(output.stdout, content(123));
}

/// The kill switch does not know of branch keys: they are wiped with all others.
#[test]
fn a_disabled_key_locks_and_an_enabled_one_opens() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&["--data-keys", "branch"]);
    let mount = store.mount(&["--heartbeat", "1s"]);
    write_all(&mount, 0..5);
    store.key(&["disable", "alias/kmsfs"]);
    mount.wait_state("revoked", PATIENCE);
    assert_eq!(errno(read(&mount, 1)), Some(EKEYREVOKED));
    assert_eq!(errno(fs::write(mount.at("new"), b"x")), Some(EKEYREVOKED));
    store.key(&["enable", "alias/kmsfs"]);
    mount.wait_state("open", PATIENCE);
    write_all(&mount, 5..10);
    for n in 0..10 {
        assert_eq!(read(&mount, n).expect("readable"), content(n));
    }
}

/// Another branch key wraps the keys of a second mount. The first one's file goes: its files are
/// rejected, the others are not; it comes back, and they open.
#[test]
fn a_missing_branch_file_rejects_its_own_files() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&["--data-keys", "branch"]);
    let mount = store.mount(&[]);
    write_all(&mount, 0..30);
    mount.unmount();
    let first = branch_files(&store).pop().expect("one");
    let mount = store.mount(&[]);
    write_all(&mount, 30..60);
    mount.unmount();
    assert_eq!(branch_files(&store).len(), 2);
    let away = store.outside("away");
    fs::rename(&first, &away).expect("moved");
    let mount = store.mount(&[]);
    for n in 0..60 {
        match n {
            0..30 => assert_eq!(errno(read(&mount, n)), Some(EKEYREJECTED), "{n}"),
            _ => assert_eq!(read(&mount, n).expect("readable"), content(n)),
        }
    }
    fs::copy(&away, &first).expect("put back");
    for n in 0..60 {
        assert_eq!(read(&mount, n).expect("readable"), content(n));
    }
    mount.unmount();
    fs::remove_file(&first).expect("removed");
    let said = fails(kmsfs().arg("cat").arg(store.path()).arg("d0/7"), 1);
    assert!(said.contains("d0/7"), "{said}");
}

/// An alias is pointed to another key: from the next heartbeat on, new files are under a branch
/// key that the other one wraps.
#[test]
fn an_alias_that_moves_begins_another_branch_key() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&["--data-keys", "branch"]);
    let mount = store.mount(&["--heartbeat", "1s"]);
    write_all(&mount, 0..1);
    let first = branch_files(&store);
    let other = store.key(&["create"]).trim().to_owned();
    store.key(&["alias", "set", "alias/kmsfs", &other]);
    // Keys that were made before are used up; each round looks at what wraps the next ones.
    let mut n = 1;
    crate::support::wait_for("another branch key", PATIENCE, || {
        write_all(&mount, n..n + 8);
        n += 8;
        branch_files(&store).len() > 1
    });
    let new = branch_files(&store).into_iter().find(|f| !first.contains(f)).expect("another");
    let text = fs::read_to_string(new).expect("a line");
    assert!(text.contains(&other), "{text}");
    mount.unmount();
    let mount = store.mount(&[]);
    for n in 0..n {
        assert_eq!(read(&mount, n).expect("readable"), content(n));
    }
}
