//! Keys that are not the volume's only one: an alias that moves, and lines that name other keys.

use std::fs;
use std::time::Duration;

use crate::support::{EKEYREJECTED, EKEYREVOKED, Store, errno, files, run, skipped};

const SOON: Duration = Duration::from_secs(10);

/// The alias is pointed to a disabled key: no new data keys can be had, so the mount locks; it
/// opens when the alias points to a key in use again, or that key is enabled.
#[test]
fn an_alias_that_points_to_a_disabled_key_locks() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let first = store.key(&["describe", "alias/kmsfs"]);
    let first = first.split_whitespace().find(|w| w.len() == 36).expect("a key id").to_owned();
    let other = store.key(&["create"]).trim().to_owned();
    store.key(&["disable", &other]);
    let mount = store.mount(&["--heartbeat", "1s"]);
    fs::write(mount.at("file"), b"content").expect("written");
    let locked = || {
        mount.wait_state("revoked", SOON);
        assert_eq!(errno(fs::read(mount.at("file"))), Some(EKEYREVOKED));
    };
    store.key(&["alias", "set", "alias/kmsfs", &other]);
    locked();
    store.key(&["alias", "set", "alias/kmsfs", &first]);
    mount.wait_state("open", SOON);
    assert_eq!(fs::read(mount.at("file")).expect("readable"), b"content");
    store.key(&["alias", "set", "alias/kmsfs", &other]);
    locked();
    store.key(&["enable", &other]);
    mount.wait_state("open", SOON);
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
    let pages = files(&store.path().join(".kmsfs/keys"));
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
