//! `kmsfs key usage`, and what is told of a key that is disabled or to be deleted.

use std::fs;

use serde_json::Value;

use crate::control::{Detached, mount_apart};
use crate::support::{Store, kmsfs, run, skipped, two_keys};

/// `kmsfs key …` on the store's keystore: what it said on both outputs.
fn key(store: &Store, args: &[&str]) -> (String, String) {
    let mut command = kmsfs();
    command.arg("key").arg("--keystore").arg(store.keystore()).args(args);
    let output = command.output().expect("it can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (text(output.stdout), text(output.stderr))
}

fn usage(store: &Store, of: &str, more: &[&str]) -> Vec<Value> {
    let (told, _) = key(store, &[&["usage", of, "--output", "json"], more].concat());
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(told["last_use"], Value::Null, "a keystore keeps no record");
    told["stores"].as_array().expect("a list").clone()
}

#[test]
fn a_key_tells_which_stores_it_opens() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let [first, second] = two_keys(&store);
    let other = store.outside("other");
    let init = |to: &std::path::Path| {
        let mut init = kmsfs();
        init.arg("init").arg(to).arg("--keystore").arg(store.keystore());
        run(init.args(["--no-passphrase", "--master-key", &second]));
    };
    init(&other);
    let mount = store.mount(&[]);
    (0..3).for_each(|n| fs::write(mount.at(&format!("f{n}")), "x").expect("written"));

    let found = usage(&store, &first, &[]);
    assert_eq!(found.len(), 1, "{found:?}");
    let path = |of: &std::path::Path| of.canonicalize().expect("there").display().to_string();
    assert_eq!(found[0]["store"], path(&store.path()));
    assert_eq!(found[0]["mountpoint"], path(&mount.root()));
    assert_eq!(found[0]["new_data_keys"], true);
    assert!(found[0]["data_keys"].as_u64() >= Some(3), "{found:?}");

    assert_eq!(usage(&store, &second, &[]), [] as [Value; 0], "nothing names the other store");
    let named = usage(&store, &second, &[&path(&other)]);
    assert_eq!((&named[0]["store"], &named[0]["mountpoint"]), (&path(&other).into(), &Value::Null));

    // What is left behind under a key that new data keys do not come under counts.
    mount.unmount();
    run(kmsfs().arg("rewrap").arg(store.path()).args(["--to", &second]));
    assert_eq!(usage(&store, &first, &[&path(&store.path())]), [] as [Value; 0]);
    let moved = usage(&store, &second, &[&path(&store.path())]);
    assert!(moved[0]["data_keys"].as_u64() >= Some(3), "{moved:?}");
}

#[test]
fn who_disables_or_deletes_a_key_is_told_what_it_opens() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    let at = format!("mounted on {}", mount.root().canonicalize().expect("there").display());
    let (_, said) = key(&store, &["disable", "alias/kmsfs"]);
    assert!(said.contains(&at) && said.contains("and its new ones"), "{said}");
    let (_, said) = key(&store, &["schedule-deletion", "alias/kmsfs", "--yes"]);
    assert!(said.contains(&at), "{said}");
}

/// A mount that other programs' namespaces have alone is found by its daemon.
#[test]
fn a_mount_in_another_namespace_counts() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let _mount = Detached(store.mountpoint());
    mount_apart(&store);
    let found = usage(&store, "alias/kmsfs", &[]).pop().expect("it is found");
    run(kmsfs().arg("unmount").arg(store.mountpoint()));
    assert_eq!(found["mountpoint"], store.mountpoint().display().to_string());
    assert_eq!(found["new_data_keys"], true);
}
