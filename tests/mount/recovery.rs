//! The master key is gone for good: an identity of the recovery brings everything back, and nobody
//! else has a part in it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use data_encoding::BASE64;
use kmsfs::recovery::Recipients;
use kmsfs::secret::Key;

use crate::support::recovery::Holder;
use crate::support::{Mount, PATIENCE, Store, fails, files, kmsfs, run, skipped, wait_for};

/// What an entry of a tree holds.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    mode: u32,
    links: u64,
    content: Vec<u8>,
    target: Option<PathBuf>,
    attributes: BTreeMap<OsString, Vec<u8>>,
}

fn attributes(path: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let mut names = vec![0; 4096];
    let n = rustix::fs::llistxattr(path, &mut names).expect("listed");
    let names = names[..n].split(|b| *b == 0).filter(|name| name.starts_with(b"user."));
    let one = |name: &[u8]| {
        let mut value = vec![0; 8192];
        let n = rustix::fs::lgetxattr(path, name, &mut value).expect("there");
        value.truncate(n);
        (std::os::unix::ffi::OsStringExt::from_vec(name.to_vec()), value)
    };
    names.map(one).collect()
}

/// All of a tree, by path.
fn tree(root: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut all = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("listed") {
            let path = entry.expect("an entry").path();
            let stat = fs::symlink_metadata(&path).expect("there");
            let is_link = stat.file_type().is_symlink();
            let found = Entry {
                mode: stat.mode(),
                links: stat.nlink(),
                content: if stat.is_file() { fs::read(&path).expect("readable") } else { vec![] },
                target: is_link.then(|| fs::read_link(&path).expect("a link")),
                attributes: attributes(&path),
            };
            if stat.is_dir() {
                folders.push(path.clone());
            }
            all.insert(path.strip_prefix(root).expect("below").to_owned(), found);
        }
    }
    all
}

/// Files of every kind, some of which have been renamed, replaced, cut and removed.
fn work(mount: &Mount<'_>, round: u8) {
    let folder = mount.at(&format!("round-{round}"));
    let at = |name: &str| folder.join(name);
    fs::create_dir_all(at("deep/er")).expect("made");
    for n in 0..40u8 {
        let text = vec![n ^ round; 100 * usize::from(n)];
        fs::write(at(&format!("f-{n}")), text).expect("written");
    }
    (0..40).step_by(3).for_each(|n| fs::remove_file(at(&format!("f-{n}"))).expect("removed"));
    fs::rename(at("f-1"), at("deep/moved")).expect("moved");
    fs::rename(at("f-2"), at("f-4")).expect("replaced");
    fs::write(at("f-5"), b"written anew").expect("written");
    fs::hard_link(at("f-7"), at("deep/er/hard")).expect("linked");
    fs::write(at(&"n".repeat(200)), b"a long name").expect("written");
    symlink("f-7", at("short-link")).expect("made");
    symlink(format!("/{}", "t".repeat(3500)), at("long-link")).expect("made");
    let sparse = fs::File::create(at("sparse")).expect("made");
    sparse.write_all_at(b"end", 1 << 20).expect("written");
    for (name, value) in [("user.colour", vec![b'b'; 5]), ("user.large", vec![b'x'; 3900])] {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(at("f-7"), name, &value, flags).expect("set");
        rustix::fs::setxattr(at("deep"), name, &value, flags).expect("set");
    }
}

/// A store with a recovery, and the holders of its two identities.
fn recoverable(data_keys: &str) -> (Store, [Holder; 2]) {
    let store = Store::unmade();
    let holders = ["one", "two"].map(|name| Holder::new(store.outside(name)));
    let list = store.outside("recipients");
    fs::write(&list, format!("# the safe\n\n{}\n", holders[0].recipient)).expect("written");
    let list = list.to_str().expect("UTF-8");
    let args = ["--data-keys", data_keys, "--recovery", list, "--recovery", &holders[1].recipient];
    (store.made(&args), holders)
}

fn master_of(store: &Store) -> String {
    let told = store.key(&["describe", "alias/kmsfs"]);
    told.split_whitespace().find(|w| w.len() == 36).expect("a key id").to_owned()
}

/// Erases the master key as the end of its waiting period does.
fn destroy(store: &Store) -> String {
    let key = master_of(store);
    fs::remove_file(store.keystore().join("keys").join(format!("{key}.json"))).expect("erased");
    let said = fails(kmsfs().arg("mount").arg(store.path()).arg(store.mountpoint()), 5);
    assert!(said.contains("NotFoundException"), "{said}");
    key
}

fn recover(store: &Store, holder: &Holder) -> Command {
    let mut command = kmsfs();
    command.arg("recover").arg(store.path()).arg("--identity").arg(&holder.file);
    command.arg("--keystore").arg(store.keystore());
    command
}

fn dry_run(store: &Store, holder: &Holder) -> Command {
    let mut command = kmsfs();
    command.arg("recover").arg(store.path()).arg("--identity").arg(&holder.file);
    command.arg("--dry-run");
    command
}

/// Every file of the store, but its lock.
fn bytes_of(store: &Store) -> BTreeMap<PathBuf, Vec<u8>> {
    files(&store.path()).into_iter().map(|f| (f.clone(), fs::read(f).unwrap_or_default())).collect()
}

/// Lines of the store's metadata that name this key.
fn under(store: &Store, id: &str) -> usize {
    let meta = files(&store.path().join("keys"));
    let text = meta.iter().filter_map(|f| fs::read_to_string(f).ok());
    text.map(|t| t.lines().filter(|l| l.contains(id)).count()).sum()
}

fn json(command: &mut Command) -> serde_json::Value {
    serde_json::from_str(&run(command)).expect("JSON")
}

#[test]
fn everything_comes_back_under_a_new_master_key() {
    if skipped("fuse") {
        return;
    }
    for data_keys in ["per-file", "branch"] {
        let (store, [one, two]) = recoverable(data_keys);
        let recipients = serde_json::json!([one.recipient, two.recipient]);
        let info = json(kmsfs().arg("info").arg(store.path()).args(["--output", "json"]));
        assert_eq!(info["recovery"], recipients);
        let told = run(kmsfs().arg("info").arg(store.path()));
        assert!(told.contains("2 age recipients read it whatever the KMS says"), "{told}");
        // Two mounts: data keys are under two branch keys.
        for round in 0..2 {
            let mount = store.mount(&[]);
            assert_eq!(mount.report()["recovery"], recipients);
            work(&mount, round);
            mount.unmount();
        }
        let mount = store.mount(&["--read-only"]);
        let before = tree(&mount.root());
        assert!(before.len() > 60, "{}", before.len());
        mount.unmount();
        run(kmsfs().arg("fsck").arg(store.path()));
        let old = destroy(&store);

        let stranger = Holder::new(store.outside("stranger"));
        let untouched = bytes_of(&store);
        let said = fails(&mut recover(&store, &stranger), 4);
        assert!(said.contains(&one.recipient) && said.contains(&two.recipient), "{said}");
        let said = run(&mut dry_run(&store, &one));
        assert!(said.contains("data keys can be recovered"), "{said}");
        assert_eq!(bytes_of(&store), untouched, "neither wrote anything");

        let said = run(&mut recover(&store, &two));
        assert!(said.contains("recovered"), "{said}");
        assert_eq!(under(&store, &old), 0);
        run(kmsfs().arg("fsck").arg(store.path()));
        let mount = store.mount(&[]);
        assert_eq!(tree(&mount.root()), before, "{data_keys}");
        work(&mount, 2);
        let before = tree(&mount.root());
        mount.unmount();

        // It is a store like any other, and recovered again, by the other.
        let old = destroy(&store);
        let key = store.key(&["create"]).trim().to_owned();
        run(recover(&store, &one).args(["--master-key", &key]));
        assert_eq!(under(&store, &old), 0);
        let mount = store.mount(&[]);
        assert_eq!(tree(&mount.root()), before, "{data_keys}, again");
    }
}

/// Until the end `volume.json` says what it did, so the same command goes on.
#[test]
fn a_recovery_killed_in_the_middle_is_run_again() {
    if skipped("fuse") {
        return;
    }
    let (store, [one, _]) = recoverable("per-file");
    let mount = store.mount(&[]);
    mount.fill(400);
    mount.unmount();
    destroy(&store);
    let new = store.key(&["create"]).trim().to_owned();
    let mut cut = 0;
    for rate in ["40", "60", "80"] {
        let (mut command, before) = (recover(&store, &one), under(&store, &new));
        command.args(["--master-key", &new, "--kms-rate", rate]).stdout(Stdio::null());
        let mut child = command.stderr(Stdio::null()).spawn().expect("it starts");
        wait_for("some lines", PATIENCE, || under(&store, &new) > before + 60);
        cut += u32::from(child.try_wait().expect("it is ours").is_none());
        child.kill().expect("it is ours");
        child.wait().expect("it is ours");
        fails(kmsfs().arg("mount").arg(store.path()).arg(store.mountpoint()), 5);
    }
    assert_eq!(cut, 3, "each was cut short");
    let said = run(&mut dry_run(&store, &one));
    assert!(said.contains("data keys can be recovered"), "{said}");
    run(recover(&store, &one).args(["--master-key", &new]));
    let leftover = |f: &PathBuf| f.to_string_lossy().contains(".tmp-");
    assert_eq!(files(&store.path()).iter().filter(|f| leftover(f)).count(), 0);
    let mount = store.mount(&[]);
    mount.check_filled(400);
}

#[test]
fn a_mounted_store_is_tried_and_not_recovered() {
    if skipped("fuse") {
        return;
    }
    let (store, [one, two]) = recoverable("per-file");
    let mount = store.mount(&[]);
    mount.fill(5);
    let said = fails(&mut recover(&store, &one), 9);
    assert!(said.contains("another kmsfs has it mounted"), "{said}");
    let said = run(&mut dry_run(&store, &two));
    let keys: u64 = said.split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
    assert!(keys >= 5, "{said}");
    mount.unmount();
    // To the key that it is under already, or that has its name.
    let said = fails(&mut recover(&store, &one), 2);
    assert!(said.contains("a key of another name"), "{said}");
    let without = Store::new(&[]);
    let said = fails(&mut recover(&without, &one), 2);
    assert!(said.contains("has no recovery"), "{said}");
    let info = json(kmsfs().arg("info").arg(without.path()).args(["--output", "json"]));
    assert_eq!(info["recovery"], serde_json::json!([]));
}

/// Rewrites both copies of `volume.json`, as whoever can write the store does.
fn edit(store: &Store, change: impl Fn(&mut serde_json::Value)) {
    for name in ["volume.json", "volume.json.bak"] {
        let path = store.path().join(name);
        let bytes = fs::read(&path).expect("readable");
        let mut file = serde_json::from_slice(&bytes).expect("JSON");
        change(&mut file);
        let text = serde_json::to_string_pretty(&file).expect("JSON");
        // The order of members is kept only where nothing else is turned about.
        let order = ["settings", "mac", "recovery", "recovery_mac", "source", "source_mac"];
        let mut lines: Vec<&str> = text.lines().filter(|l| l.starts_with("  \"")).collect();
        let rank = |line: &str| {
            let name = line.trim_start().split('"').nth(1).expect("a member");
            order.iter().position(|o| *o == name).unwrap_or(if name == "key" { 8 } else { 9 })
        };
        lines.sort_by_key(|line| rank(line));
        let lines: Vec<_> = lines.iter().map(|line| line.trim_end_matches(',')).collect();
        fs::write(&path, format!("{{\n{}\n}}\n", lines.join(",\n"))).expect("written");
    }
}

fn mount_fails(store: &Store) -> String {
    fails(kmsfs().arg("mount").arg(store.path()).arg(store.mountpoint()), 3)
}

/// New keys would be sealed to whoever can write the store, and old ones be recoverable by nobody.
#[test]
fn a_writer_of_the_store_adds_no_recipient_and_takes_none_away() {
    if skipped("fuse") {
        return;
    }
    let (store, [one, two]) = recoverable("per-file");
    let theirs = Holder::new(store.outside("theirs"));
    let saved = ["volume.json", "volume.json.bak"].map(|name| {
        let path = store.path().join(name);
        (path.clone(), fs::read(path).expect("readable"))
    });
    let restore = || saved.iter().for_each(|(path, text)| fs::write(path, text).expect("ok"));
    edit(&store, |_| ());
    assert_eq!(fs::read(&saved[0].0).expect("readable"), saved[0].1, "this test edits well");

    let settings = |from: &str, to: &str| {
        edit(&store, |file| {
            let text = file["settings"].as_str().expect("text").replace(from, to);
            file["settings"] = text.into();
        });
    };
    let add = format!("{}\",\"{}", two.recipient, theirs.recipient);
    for (from, to) in [(&two.recipient, &theirs.recipient), (&two.recipient, &add)] {
        settings(from, to);
        let said = mount_fails(&store);
        assert!(said.contains("do not verify"), "{said}");
        fails(&mut dry_run(&store, &one), 3);
        restore();
    }
    edit(&store, |file| {
        let members = file.as_object_mut().expect("an object");
        members.remove("recovery");
        members.remove("recovery_mac");
    });
    assert!(mount_fails(&store).contains("volume.json"));
    restore();
    let list = format!(",\"recovery\":[\"{}\",\"{}\"]", one.recipient, two.recipient);
    settings(&list, "");
    edit(&store, |file| {
        let members = file.as_object_mut().expect("an object");
        members.remove("recovery");
        members.remove("recovery_mac");
    });
    assert!(mount_fails(&store).contains("do not verify"));
    restore();
    // Anyone can seal to a public key.
    let all = Recipients::new([one.recipient.as_str(), &two.recipient]).expect("good");
    let sealed = BASE64.encode(&all.seal(&Key::random()));
    edit(&store, |file| file["recovery"] = sealed.clone().into());
    assert!(mount_fails(&store).contains("do not verify"));
    fails(&mut dry_run(&store, &one), 3);
    restore();

    // Beneath a mount.
    let mount = store.mount(&["--heartbeat", "1s"]);
    settings(&two.recipient, &theirs.recipient);
    let seen = mount.report()["beats"].as_u64().expect("a count");
    wait_for("two more beats", PATIENCE, || mount.report()["beats"].as_u64() > Some(seen + 2));
    mount.fill(3);
    restore();
    mount.unmount();
    fails(&mut dry_run(&store, &theirs), 4);
    run(&mut dry_run(&store, &two));
}

/// What takes a file's recovery away is found by a check that has no identity, and named by the
/// recovery, which has all others.
#[test]
fn a_recovery_taken_from_a_file_is_found_and_costs_that_file_alone() {
    if skipped("fuse") {
        return;
    }
    for data_keys in ["per-file", "branch"] {
        let (store, [one, two]) = recoverable(data_keys);
        let mount = store.mount(&[]);
        mount.fill(10);
        mount.unmount();
        run(kmsfs().arg("fsck").arg(store.path()));
        let (mut pages, mut branches): (Vec<_>, Vec<_>) = files(&store.path().join("keys"))
            .into_iter()
            .filter(|f| !f.to_string_lossy().contains("removed"))
            .partition(|f| !f.to_string_lossy().contains("/branch/"));
        let (page, branch) = (pages.pop().expect("a page"), branches.pop().expect("one"));
        let fsck = || fails(kmsfs().arg("fsck").arg(store.path()).args(["--output", "json"]), 20);
        let found = |what: &str| {
            let output = kmsfs().arg("fsck").arg(store.path()).args(["--output", "json"]).output();
            let told = String::from_utf8(output.expect("started").stdout).expect("text");
            assert!(told.contains(&format!("\"what\":\"{what}\"")), "{told}");
        };
        if data_keys == "per-file" {
            let saved = fs::read_to_string(&page).expect("a page");
            let line = saved.lines().next().expect("a line");
            let (start, rest) = line.split_once(",\"recovery\"").expect("a second wrap");
            let check = rest.find(",\"check\"").expect("a check");
            let stripped = saved.replace(line, &format!("{start}{}", &rest[check..]));
            fs::write(&page, stripped).expect("written");
            fsck();
            found("lines-unrecoverable");
            let said = fails(&mut dry_run(&store, &one), 1);
            assert!(said.contains("no second wrap"), "{said}");
            fs::write(&page, &saved).expect("put back");
        }
        // A branch key of the writer's, sealed to the volume's recipients.
        let saved = fs::read_to_string(&branch).expect("one");
        let all = Recipients::new([one.recipient.as_str(), &two.recipient]).expect("good");
        let theirs = BASE64.encode(&all.seal(&Key::random()));
        let own = saved.split("\"recovery\":\"").nth(1).and_then(|rest| rest.split('"').next());
        fs::write(&branch, saved.replace(own.expect("sealed"), &theirs)).expect("written");
        fsck();
        found("branch-unrecoverable");
        let said = fails(&mut dry_run(&store, &two), 1);
        assert!(said.contains("its MAC is another"), "{said}");
        destroy(&store);
        let said = fails(&mut recover(&store, &one), 1);
        assert!(said.contains("cannot be recovered"), "{said}");
        // The volume is there; the files come when the branch file is put right.
        fs::write(&branch, &saved).expect("put back");
        let key = store.key(&["create"]).trim().to_owned();
        run(recover(&store, &one).args(["--master-key", &key]));
        let mount = store.mount(&[]);
        mount.check_filled(10);
    }
}

/// What `init` takes for a recipient, and what it says of the rest without showing it.
#[test]
fn recipients_and_identities_are_told_apart() {
    let store = Store::unmade();
    let holder = Holder::new(store.outside("holder"));
    let secret = fs::read_to_string(&holder.file).expect("a file");
    let secret = secret.lines().last().expect("the secret");
    let file = holder.file.to_str().expect("UTF-8");
    let weak = "age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq5cu47z";
    let init = |recovery: &str| {
        let mut command = kmsfs();
        command.arg("init").arg(store.path()).args(["--recovery", recovery, "--no-passphrase"]);
        command.arg("--keystore").arg(store.keystore());
        fails(&mut command, if recovery.starts_with("/absent") { 4 } else { 2 })
    };
    for recovery in [secret, file, weak, "age1x", "/absent/recipients"] {
        let said = init(recovery);
        assert!(!said.contains(&secret[20..]), "{said}");
        assert!(!store.path().exists() && !store.keystore().exists(), "{recovery}");
    }
    let public = store.outside("public");
    fs::write(&public, &holder.recipient).expect("written");
    let store = store.made(&["--recovery", &holder.recipient]);
    let tried = |identity: &Path| {
        let mut command = kmsfs();
        command.arg("recover").arg(store.path()).args(["--dry-run", "--identity"]).arg(identity);
        command
    };
    let said = fails(&mut tried(&public), 4);
    assert!(said.contains("is a recipient"), "{said}");
    run(&mut tried(&holder.file));
    let mut piped = tried("-".as_ref());
    piped.stdin(fs::File::open(&holder.file).expect("opened"));
    run(&mut piped);
}

/// With the programs of age: its identities recover, and it opens by itself what is sealed.
#[test]
fn age_itself_opens_what_is_sealed() {
    if skipped("fuse") || skipped("age") {
        return;
    }
    let store = Store::unmade();
    let key = store.outside("recovery.key");
    run(Command::new("age-keygen").arg("-o").arg(&key));
    let recipient = run(Command::new("age-keygen").arg("-y").arg(&key));
    let store = store.made(&["--recovery", recipient.trim()]);
    let mount = store.mount(&[]);
    mount.fill(3);
    mount.unmount();
    let tried = kmsfs()
        .arg("recover")
        .arg(store.path())
        .arg("--identity")
        .arg(&key)
        .arg("--dry-run")
        .output();
    assert!(tried.expect("started").status.success());
    let branch = files(&store.path().join("keys/branch")).pop().expect("one");
    let text = fs::read_to_string(branch).expect("a line");
    let sealed = text.split("\"recovery\":\"").nth(1).and_then(|rest| rest.split('"').next());
    let file = store.outside("sealed.age");
    fs::write(&file, BASE64.decode(sealed.expect("sealed").as_bytes()).expect("base64"))
        .expect("written");
    let opened = Command::new("age").args(["-d", "-i"]).arg(&key).arg(&file).output();
    let opened = opened.expect("age is installed");
    assert!(opened.status.success() && opened.stdout.len() == 32, "{opened:?}");
}
