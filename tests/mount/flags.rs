//! The flags of mounts: set-id bits and device files of a store count only where that was asked
//! for.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::support::device::OpenDevice;
use crate::support::{Ordinary, Store, nobody, run, skipped};

/// Gives a mount a program with the set-user-ID bit, and a device that everybody may use.
fn fill(root: &Path) {
    let everyone = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("changed");
    };
    everyone(root.parent().expect("a parent"), 0o755);
    everyone(root, 0o755);
    fs::copy("/usr/bin/id", root.join("id")).expect("copied");
    everyone(&root.join("id"), 0o4755);
    run(Command::new("mknod").arg(root.join("zero")).args(["c", "1", "5"]));
    everyone(&root.join("zero"), 0o666);
}

/// Who a program of the mount is, started by nobody; and whether the device can be opened.
fn found(root: &Path) -> (String, bool) {
    let who = run(nobody().arg(root.join("id")).arg("-u"));
    (who.trim().to_owned(), fs::File::open(root.join("zero")).is_ok())
}

/// Whoever could write the store could make root's programs and disks in it.
#[test]
fn set_id_bits_and_devices_count_only_where_they_are_asked_for() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    fill(&mount.root());
    assert_eq!(found(&mount.root()), ("65534".to_owned(), false));
    mount.unmount();
    for (words, both) in
        [("suid,dev", ("0", true)), ("suid", ("0", false)), ("dev,nosuid", ("65534", true))]
    {
        let mount = store.mount(&["-o", words]);
        assert_eq!(found(&mount.root()), (both.0.to_owned(), both.1), "{words}");
    }
}

/// fusermount3 leaves such words out without telling.
#[test]
fn an_ordinary_user_is_refused_both_with_a_sentence() {
    if skipped("fuse") {
        return;
    }
    let _device = OpenDevice::new();
    let user = Ordinary::new();
    run(&mut user.shell("./kmsfs init st --no-passphrase; mkdir mnt"));
    for word in ["suid", "dev"] {
        let mut shell = user.shell(&format!(
            "trap './kmsfs unmount mnt 2>/dev/null || true' EXIT
            ./kmsfs mount st mnt -o noatime,{word}"
        ));
        let output = shell.env("XDG_RUNTIME_DIR", user.at("run")).output().expect("started");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(&format!("-o {word}: only a mount of root's can have it")), "{said}");
    }
}
