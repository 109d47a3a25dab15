//! Keys that are not the volume's only one: an alias that moves, and lines that name other keys.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use crate::support::mapping::Map;
use crate::support::{
    EKEYREJECTED, EKEYREVOKED, PATIENCE, Store, errno, fails, files, kmsfs, run, skipped, two_keys,
    wait_for,
};

/// The alias is pointed to a disabled key: no new data keys can be had, so the mount locks; it
/// opens when the alias points to a key in use again, or that key is enabled.
#[test]
fn an_alias_that_points_to_a_disabled_key_locks() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let [first, other] = two_keys(&store);
    store.key(&["disable", &other]);
    let mount = store.mount(&["--heartbeat", "1s"]);
    fs::write(mount.at("file"), b"content").expect("written");
    let locked = || {
        mount.wait_state("revoked", PATIENCE);
        assert_eq!(errno(fs::read(mount.at("file"))), Some(EKEYREVOKED));
    };
    store.key(&["alias", "set", "alias/kmsfs", &other]);
    locked();
    store.key(&["alias", "set", "alias/kmsfs", &first]);
    mount.wait_state("open", PATIENCE);
    assert_eq!(fs::read(mount.at("file")).expect("readable"), b"content");
    store.key(&["alias", "set", "alias/kmsfs", &other]);
    locked();
    store.key(&["enable", &other]);
    mount.wait_state("open", PATIENCE);
    assert_eq!(fs::read(mount.at("file")).expect("readable"), b"content");
}

/// A sidecar line names a key of another keystore, and one a key of this keystore that did not
/// wrap it: each costs its own file, and the mount stays open.
#[test]
fn a_line_that_names_a_foreign_key_costs_its_file_alone() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let other = store.key(&["create"]).trim().to_owned();
    let names = ["foreign", "mistaken", "untouched"];
    let mount = store.mount(&[]);
    for name in names {
        fs::write(mount.at(name), name).expect("written");
    }
    mount.unmount();
    let pages = files(&store.path().join("keys"));
    let [page] = &pages[..] else { panic!("three files made together share a page: {pages:?}") };
    let text = fs::read_to_string(page).expect("text");
    let arn = |line: &str| {
        let from = line.find("arn:").expect("an ARN");
        let to = from + line[from..].find('"').expect("its end");
        (from, to)
    };
    let changed: Vec<String> = text
        .lines()
        .enumerate()
        .map(|(i, line)| {
            let (from, to) = arn(line);
            let id = from + line[from..to].rfind('/').expect("a key id") + 1;
            match i {
                0 => format!(
                    "{}arn:aws:kms:eu-west-1:111122223333:key/{other}{}",
                    &line[..from],
                    &line[to..]
                ),
                1 => format!("{}{other}{}", &line[..id], &line[to..]),
                _ => line.to_owned(),
            }
        })
        .collect();
    fs::write(page, changed.join("\n") + "\n").expect("written");
    let mount = store.mount(&["--heartbeat", "1s"]);
    let read: Vec<_> = names.iter().map(|n| errno(fs::read(mount.at(n)))).collect();
    assert_eq!(read.iter().filter(|e| **e == Some(EKEYREJECTED)).count(), 2, "{read:?}");
    assert_eq!(read.iter().filter(|e| e.is_none()).count(), 1, "{read:?}");
    assert_eq!(mount.state(), "open");
    run(store.kmsfs().arg("status").arg(mount.root()));
}

/// The use of aliases after a rotation: pointed to another key, what is under the old one can no
/// longer be read, cached or open, and a rewrap makes it readable again. Nothing is lost.
#[test]
fn with_only_the_current_key_an_alias_that_moves_cuts_off_what_is_under_the_old_one() {
    if skipped("fuse") {
        return;
    }
    for data_keys in ["per-file", "branch"] {
        cut_off(&Store::new(&["--only-current-key", "--data-keys", data_keys]));
    }
}

fn cut_off(store: &Store) {
    let [first, other] = two_keys(store);
    let mount = store.mount(&["--heartbeat", "1s"]);
    fs::write(mount.at("old"), b"under the first").expect("written");
    let mut open = File::open(mount.at("old")).expect("opened");
    let mut reread = || {
        let mut text = Vec::new();
        open.rewind().and_then(|()| open.read_to_end(&mut text)).map(|_| text)
    };
    assert_eq!(reread().expect("readable"), b"under the first");
    let dirty = File::create_new(mount.at("mapped"))
        .and_then(|_| File::options().read(true).write(true).open(mount.at("mapped")));
    let dirty = dirty.expect("opened");
    dirty.set_len(4096).expect("as long as a page");
    let map = Map::shared(&dirty, 4096);
    map.set(0, b'x');

    store.key(&["alias", "set", "alias/kmsfs", &other]);
    wait_for("the cached page is gone", PATIENCE, || errno(reread()) == Some(EKEYREJECTED));
    assert_eq!(errno(fs::read(mount.at("old"))), Some(EKEYREJECTED));
    assert_eq!(mount.state(), "open");
    fs::write(mount.at("new"), b"under the second").expect("written");
    assert_eq!(fs::read(mount.at("new")).expect("readable"), b"under the second");
    let report = mount.report();
    assert!(report["key_target"].as_str().expect("an ARN").ends_with(&other), "{report}");
    assert!(report["master_key"].as_str().expect("an ARN").ends_with(&first), "{report}");

    store.key(&["alias", "set", "alias/kmsfs", &first]);
    wait_for("what was cut off", PATIENCE, || {
        reread().is_ok_and(|text| text == b"under the first")
    });
    let saved = fs::read(mount.at("mapped")).expect("readable");
    assert_eq!(saved[0], b'x', "a dirty page was saved before its key was dropped");
    // What is under the alias's key again may be readable a moment before the rest is cut off.
    let new = || errno(fs::read(mount.at("new")));
    wait_for("what is now under the old one", PATIENCE, || new() == Some(EKEYREJECTED));

    store.key(&["alias", "set", "alias/kmsfs", &other]);
    wait_for("the other way again", PATIENCE, || errno(reread()) == Some(EKEYREJECTED));
    run(kmsfs().arg("rewrap").arg(store.path()).args(["--to", "alias/kmsfs"]));
    wait_for("what was rewrapped", PATIENCE, || {
        reread().is_ok_and(|text| text == b"under the first")
    });
    store.key(&["disable", &first]);
    drop((map, dirty, open));
    mount.unmount();
    let said = run(kmsfs().arg("cat").arg(store.path()).arg("old"));
    assert_eq!(said, "under the first");
    // `init` remembered it: without a mount too.
    let third = store.key(&["create"]).trim().to_owned();
    store.key(&["alias", "set", "alias/kmsfs", &third]);
    fails(kmsfs().arg("cat").arg(store.path()).arg("old"), 1);
}

/// A line that says the present key and was wrapped by another is refused: the demanded key goes
/// into the call.
#[test]
fn with_only_the_current_key_what_a_line_says_is_not_believed() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let [first, other] = two_keys(&store);
    let mount = store.mount(&[]);
    fs::write(mount.at("old"), b"under the first").expect("written");
    mount.unmount();
    store.key(&["alias", "set", "alias/kmsfs", &other]);
    let page = files(&store.path().join("keys")).remove(0);
    let text = fs::read_to_string(&page).expect("text");
    for text in [text.clone(), text.replace(&first, &other)] {
        fs::write(&page, &text).expect("written");
        let mount = store.mount(&["--only-current-key"]);
        assert_eq!(errno(fs::read(mount.at("old"))), Some(EKEYREJECTED), "{text}");
        mount.unmount();
    }
    fs::write(&page, &text).expect("written");
    let mount = store.mount(&[]);
    assert_eq!(fs::read(mount.at("old")).expect("readable"), b"under the first");
    let lines = mount.lines();
    assert!(lines.contains(&first) && lines.contains(r#""lines":1"#), "{lines}");
}

/// Files under a master key that is neither the volume's own nor the one that new data keys come
/// under: an alias was moved twice. When that key was disabled, cached keys lived on for as long
/// as their time to live, those of open writers for ever, and cached pages stayed readable.
#[test]
fn a_third_master_key_that_is_disabled_cuts_off_its_files_alone() {
    if skipped("fuse") {
        return;
    }
    for data_keys in ["per-file", "branch"] {
        cut_off_third(&Store::new(&["--data-keys", data_keys]));
    }
}

fn cut_off_third(store: &Store) {
    let [_, second] = two_keys(store);
    let third = store.key(&["create"]).trim().to_owned();
    let mount = store.mount(&["--heartbeat", "2s"]);
    fs::write(mount.at("one"), b"under the first").expect("written");
    let target = |key: &str| {
        store.key(&["alias", "set", "alias/kmsfs", key]);
        let is_target =
            || mount.report()["key_target"].as_str().is_some_and(|target| target.ends_with(key));
        wait_for("the alias's new key", PATIENCE, is_target);
    };
    target(&second);
    let two = File::create_new(mount.at("two")).expect("made");
    two.write_all_at(b"under the second", 0).expect("written");
    let mut writer = File::options().read(true).write(true).open(mount.at("two")).expect("opened");
    let mut reread = || {
        let mut text = Vec::new();
        writer.rewind().and_then(|()| writer.read_to_end(&mut text)).map(|_| text)
    };
    assert_eq!(reread().expect("readable"), b"under the second");
    target(&third);
    fs::write(mount.at("three"), b"under the third").expect("written");
    let file = File::open(mount.at("two")).expect("opened");
    let map = Map::read_only(&file, 4096);
    assert_eq!(map.byte(0), b'u');

    store.key(&["disable", &second]);
    let bound = Duration::from_secs(3);
    wait_for("the open file is cut off", bound, || errno(reread()) == Some(EKEYREVOKED));
    assert_eq!(errno(fs::read(mount.at("two"))), Some(EKEYREVOKED));
    assert_eq!(map.resident(), 0, "the pages of a map are gone");
    assert_eq!(mount.state(), "open");
    for (name, text) in [("one", "under the first"), ("three", "under the third")] {
        assert_eq!(fs::read_to_string(mount.at(name)).expect("readable"), text);
    }
    store.key(&["enable", &second]);
    wait_for("it is back", PATIENCE, || reread().is_ok_and(|text| text == b"under the second"));
    two.write_all_at(b"U", 0).expect("its writer goes on");
    drop((map, file, writer, two));
    mount.unmount();
}
