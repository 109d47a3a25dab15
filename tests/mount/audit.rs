//! The audit log of a mount: who used which key, and nothing of what it opened.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::scan::{forms, keys_of};
use crate::support::{
    EKEYREVOKED, Mount, PATIENCE, Store, Tmpfs, errno, fails, kmsfs, nobody, run, skipped,
};
use crate::support::{files, wait_for};

/// The whole lines of a log.
fn entries(log: &Path) -> Vec<Value> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let (whole, _) = text.rsplit_once('\n').unwrap_or_default();
    whole.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
}

/// Waits for an entry that has all these fields, and answers the first.
fn entry(log: &Path, wanted: &Value) -> Value {
    let has = |e: &Value| wanted.as_object().expect("fields").iter().all(|(k, v)| e[k] == *v);
    let mut found = None;
    wait_for(&wanted.to_string(), PATIENCE, || {
        found = entries(log).into_iter().find(has);
        found.is_some()
    });
    found.expect("waited for")
}

/// Runs a command as nobody or root; answers its process id.
fn cat(mut command: Command, path: &Path) -> u32 {
    let mut child = command.arg("cat").arg(path).stdout(std::process::Stdio::null()).spawn();
    let child = child.as_mut().expect("it can be started");
    child.wait().expect("it ends");
    child.id()
}

/// Mounts with a log.
fn audited<'a>(store: &'a Store, log: &Path) -> Mount<'a> {
    store.mount(&["--heartbeat", "1s", "--audit-log", log.to_str().expect("UTF-8")])
}

#[test]
fn it_says_who_opened_what_under_which_key() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let log = store.outside("audit.jsonl");
    let mount = audited(&store, &log);
    for folder in [store.outside(""), mount.root()] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("changed");
    }
    assert_eq!(fs::metadata(&log).expect("made").permissions().mode() & 0o777, 0o600);
    // A name that is too long for one entry on disk, and one that no line may be broken by.
    let long = format!("d/{}", "ü".repeat(120));
    let odd = "d/a\n\"b\\";
    fs::create_dir(mount.at("d")).expect("made");
    for name in [&long, odd] {
        fs::write(mount.at(name), b"content").expect("written");
    }
    let key = mount.report()["master_key"].clone();
    for (name, path) in [(&*long, format!("/{long}")), (odd, format!("/{odd}"))] {
        let made = entry(&log, &json!({ "operation": "write", "path": path }));
        assert_eq!((&made["by"], &made["uid"]), (&json!("program"), &json!(0)));
        assert_eq!(made["key"], key);
        let (file, root) = (&made["file"], Command::new("env"));
        let generated = entry(&log, &json!({ "operation": "GenerateDataKey", "file": file }));
        assert_eq!(generated["key"], key);
        for (uid, pid) in [(0, cat(root, &mount.at(name))), (65534, cat(nobody(), &mount.at(name)))]
        {
            let opened = json!({ "operation": "open", "path": path, "uid": uid, "pid": pid,
                "file": file, "key": key, "outcome": "ok" });
            entry(&log, &opened);
        }
    }
    // What has no name any more has no path.
    let gone = File::options().write(true).open(mount.at(odd)).expect("opened");
    fs::remove_file(mount.at(odd)).expect("removed");
    gone.set_len(3).expect("set");
    entry(&log, &json!({ "operation": "truncate", "path": null, "outcome": "ok" }));
}

#[test]
fn it_says_what_was_refused_and_what_an_operator_did() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let log = store.outside("audit.jsonl");
    let mount = audited(&store, &log);
    let key = mount.report()["master_key"].clone();
    fs::create_dir(mount.at("d")).expect("made");
    fs::write(mount.at("d/file"), b"content").expect("written");
    store.key(&["disable", "alias/kmsfs"]);
    mount.wait_state("revoked", PATIENCE);
    assert_eq!(errno(File::open(mount.at("d/file"))), Some(EKEYREVOKED));
    entry(&log, &json!({ "operation": "state", "state": "revoked", "code": "DisabledException" }));
    let refused = json!({ "operation": "Decrypt", "by": "daemon", "purpose": "heartbeat",
        "outcome": "refused", "code": "DisabledException" });
    entry(&log, &refused);
    // The kernel has forgotten every name: an open gets no further than its first.
    let refused = entry(&log, &json!({ "outcome": "refused", "errno": "EKEYREVOKED" }));
    assert_eq!((&refused["operation"], &refused["path"]), (&json!("lookup"), &json!("/d")));
    assert_eq!(refused["uid"], 0);

    store.key(&["enable", "alias/kmsfs"]);
    mount.wait_state("open", PATIENCE);
    run(kmsfs().args(["shred", "--yes"]).arg(mount.at("d/file")));
    run(kmsfs().arg("lock").arg(mount.root()));
    run(kmsfs().arg("unlock").arg(mount.root()));
    for operation in ["shred", "lock", "unlock"] {
        let done = entry(&log, &json!({ "operation": operation, "by": "operator", "uid": 0 }));
        assert!(done["pid"].as_u64().is_some_and(|pid| pid > 1), "{done}");
    }
    mount.unmount();
    let all = entries(&log);
    assert_eq!(all[all.len() - 1]["operation"], "unmount", "the queue is written to its end");
    assert!(all.iter().all(|e| e["operation"] != "lost"));

    // A mount that the KMS does not let be is told too.
    store.key(&["disable", "alias/kmsfs"]);
    let mut command = store.kmsfs();
    command.arg("mount").arg(store.path()).arg(store.mountpoint());
    fails(command.arg("--audit-log").arg(&log), 5);
    let last = entries(&log).pop().expect("an entry");
    assert_eq!((&last["operation"], &last["outcome"]), (&json!("Decrypt"), &json!("refused")));
    assert_eq!((&last["purpose"], &last["key"]), (&json!("volume"), &key));
}

#[test]
fn it_holds_no_key_and_no_content() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let log = store.outside("audit.jsonl");
    // By a variable, as for the other options.
    let mut command = store.kmsfs();
    command.env("KMSFS_AUDIT_LOG", &log).arg("mount").arg(store.path());
    run(command.arg(store.mountpoint()));
    let mount = store.mounted();
    const MARK: &[u8] = b"<a mark in the plaintext of a file>";
    for n in 0..20 {
        fs::write(mount.at(&format!("f{n}")), MARK.repeat(300)).expect("written");
        fs::read(mount.at(&format!("f{n}"))).expect("readable");
    }
    mount.unmount();
    let text = fs::read(&log).expect("readable");
    let told = |what: &[u8]| memchr::memmem::find(&text, what).is_some();
    assert!(told(b"\"path\":\"/f19\""), "the search finds what is there");
    assert!(!told(MARK) && !told(&MARK[..16]));
    let keys = keys_of(&store);
    assert!(keys.len() > 40);
    for (name, key) in keys {
        for (form, bytes) in forms(&key) {
            assert!(!told(&bytes), "{name} ({form})");
        }
    }
    // Nor anything but what is documented.
    let fields = "time operation volume by uid pid purpose file key outcome code path errno state";
    for e in entries(&log) {
        let known = |k: &&String| fields.split(' ').any(|field| field == **k);
        let unknown = e.as_object().expect("an object").keys().find(|k| !known(k));
        assert_eq!(unknown, None, "{e}");
        assert_eq!(e["by"] == "daemon", e.get("pid").is_none(), "{e}");
    }
}

/// One call of the KMS serves many files: each use still leads to the master key.
#[test]
fn a_file_under_a_branch_key_leads_to_the_master_key() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&["--data-keys", "branch"]);
    let log = store.outside("audit.jsonl");
    let mount = audited(&store, &log);
    let key = mount.report()["master_key"].clone();
    fs::write(mount.at("file"), b"content").expect("written");
    let made = entry(&log, &json!({ "operation": "write", "path": "/file", "key": key }));
    let branch = &made["branch"];
    assert_eq!(branch.as_str().map(str::len), Some(32), "{made}");
    entry(&log, &json!({ "operation": "GenerateDataKey", "purpose": "branch", "branch": branch }));
    mount.unmount();
    // Opened with a branch key that is fetched.
    let mount = audited(&store, &log);
    fs::read(mount.at("file")).expect("readable");
    entry(&log, &json!({ "operation": "open", "path": "/file", "branch": branch, "key": key }));
    let fetched = json!({ "operation": "Decrypt", "purpose": "branch", "branch": branch });
    entry(&log, &fetched);
}

#[test]
fn a_rewrap_of_a_mounted_store_is_told() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let log = store.outside("audit.jsonl");
    let mount = audited(&store, &log);
    let new = store.key(&["create"]).trim().to_owned();
    run(kmsfs().arg("rewrap").arg(store.path()).args(["--to", &new]));
    entry(&log, &json!({ "operation": "rewrap", "by": "operator", "uid": 0 }));
    let key = mount.report()["master_key"].clone();
    assert!(key.as_str().is_some_and(|arn| arn.ends_with(&new)), "{key}");
    entry(&log, &json!({ "operation": "Decrypt", "purpose": "volume", "key": key }));
    entry(&log, &json!({ "operation": "Decrypt", "purpose": "heartbeat", "key": key }));
}

#[test]
fn a_rotated_log_goes_on_in_a_new_file() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&["--names", "plain"]);
    let log = store.outside("audit.jsonl");
    // By the configuration file, as for the other options.
    let config = store.outside("kmsfs.toml");
    fs::write(&config, format!("[mount]\naudit-log = '{}'\n", log.display())).expect("written");
    let mount = store.mount(&["--config", config.to_str().expect("UTF-8")]);
    fs::write(mount.at("before"), b"content").expect("written");
    entry(&log, &json!({ "operation": "write", "path": "/before" }));
    let old = store.outside("audit.jsonl.1");
    fs::rename(&log, &old).expect("renamed");
    fs::write(mount.at("after"), b"content").expect("written");
    entry(&log, &json!({ "operation": "write", "path": "/after" }));
    assert!(entries(&old).iter().all(|e| e["path"] != "/after"));
    let audit = &mount.report()["audit"];
    assert_eq!(*audit, json!({ "log": log, "lost": 0 }));
    let told = run(kmsfs().arg("status").arg(mount.root()));
    assert!(told.contains(&format!("{}, 0 entries lost", log.display())), "{told}");
}

#[test]
fn a_log_where_none_may_be_is_refused() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    std::os::unix::fs::symlink(store.path(), store.outside("way")).expect("made");
    let before = files(&store.path()).len();
    let wrong = [
        (store.path().join("log"), "inside the store"),
        (store.outside("way").join("log"), "inside the store"),
        (store.mountpoint().join("log"), "inside the mountpoint"),
        (store.keystore(), "a regular file"),
        (store.outside("way"), "a regular file"),
        ("/dev/null".into(), "a regular file"),
        (store.outside("absent").join("log"), "No such file"),
    ];
    for (log, why) in wrong {
        let mut command = store.kmsfs();
        command.arg("mount").arg(store.path()).arg(store.mountpoint()).arg("--audit-log");
        let said = fails(command.arg(&log), 4);
        assert!(said.contains(why) && said.contains("--audit-log /"), "{said}");
    }
    assert_eq!(files(&store.path()).len(), before);
    // Without one nothing is told of it.
    assert!(store.mount(&[]).report()["audit"].is_null());
}

#[test]
fn a_full_disk_costs_entries_and_nothing_else() {
    if skipped("fuse") {
        return;
    }
    let disk = Tmpfs::new("size=256k");
    let store = Store::new(&[]);
    let log = disk.path().join("audit.jsonl");
    let mount = audited(&store, &log);
    fs::write(mount.at("file"), b"content").expect("written");
    entry(&log, &json!({ "operation": "write", "path": "/file" }));
    let ballast = disk.path().join("ballast");
    let mut file = File::create(&ballast).expect("made");
    while file.write_all(&[0; 4096]).is_ok() {}
    drop(file);
    let lost = || mount.report()["audit"]["lost"].as_u64().expect("a count");
    wait_for("a lost entry", PATIENCE, || {
        assert_eq!(fs::read(mount.at("file")).expect("it is served"), b"content");
        lost() > 2
    });
    assert_eq!(mount.state(), "open");
    fs::write(mount.at("more"), b"content").expect("written too");

    fs::remove_file(&ballast).expect("removed");
    // Every entry is whole, and the log says how many it lacks.
    wait_for("the count of what was lost", PATIENCE, || {
        fs::read(mount.at("file")).expect("it is served");
        let told = entries(&log);
        let told =
            told.iter().filter(|e| e["operation"] == "lost").filter_map(|e| e["count"].as_u64());
        told.sum::<u64>() == lost()
    });
    let last = fs::read(mount.at("file")).map(|_| entries(&log).len()).expect("readable");
    wait_for("entries after it", PATIENCE, || entries(&log).len() > last);
    mount.unmount();
}
