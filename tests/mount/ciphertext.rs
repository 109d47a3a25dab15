//! What the store shows, and what becomes of a damaged one.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::support::{Store, fails, files, kmsfs, run, skipped};

fn contents(store: &Store) -> Vec<PathBuf> {
    let mut all = files(&store.tree());
    all.retain(|p| !p.is_symlink());
    all
}

#[test]
fn nothing_on_disk_betrays_content_or_names() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    let text = "an unmistakable sentence of plaintext ".repeat(500);
    let long = format!("unmistakable-name-{}", "x".repeat(200));
    for name in ["unmistakable-name", "unmistakable-name-2", long.as_str()] {
        fs::write(mount.at(name), &text).expect("written");
    }
    std::os::unix::fs::symlink("unmistakable-target", mount.at("l")).expect("made");
    mount.unmount();
    for path in files(&store.path()) {
        let shown = path.to_string_lossy().into_owned();
        let bytes = if path.is_symlink() {
            fs::read_link(&path).expect("a link").into_os_string().into_encoded_bytes()
        } else {
            fs::read(&path).expect("readable")
        };
        for secret in ["unmistakable", "sentence of plaintext"] {
            let found = bytes.windows(secret.len()).any(|w| w == secret.as_bytes());
            assert!(!found && !shown.contains(secret), "{shown} betrays {secret:?}");
        }
    }
    let bodies: Vec<_> = contents(&store).iter().map(|p| fs::read(p).expect("readable")).collect();
    assert_eq!(bodies.len(), 3);
    assert!(bodies[0] != bodies[1] && bodies[1] != bodies[2], "equal files differ on disk");
}

/// Every 97th byte of a content file, as a mount sees it; the record layer's unit tests flip
/// all of them.
#[test]
fn a_flipped_byte_is_an_error_and_never_wrong_data() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let text = vec![b'p'; 6000];
    let mount = store.mount(&[]);
    fs::write(mount.at("f"), &text).expect("written");
    mount.unmount();
    let on_disk = contents(&store).remove(0);
    let whole = fs::read(&on_disk).expect("readable");
    let mount = store.mount(&["--direct-io"]);
    let backing = fs::OpenOptions::new().write(true).open(&on_disk).expect("writable");
    // The header is read at the first open and remembered; its flips are tested by remounts
    // in the unit tests of the header.
    for at in (24..2 * 4096).step_by(97) {
        backing.write_all_at(&[whole[at] ^ 0x10], at as u64).expect("written");
        let got = fs::read(mount.at("f"));
        assert_eq!(got.err().and_then(|e| e.raw_os_error()), Some(libc::EBADMSG), "byte {at}");
        backing.write_all_at(&[whole[at]], at as u64).expect("written");
    }
    assert_eq!(fs::read(mount.at("f")).expect("whole again"), text);
}

#[test]
fn a_damaged_sidecar_costs_one_file_and_a_damaged_volume_file_refuses_the_mount() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    fs::write(mount.at("f"), b"content").expect("written");
    mount.unmount();
    let page = files(&store.path().join("keys")).remove(0);
    let whole = fs::read(&page).expect("readable");
    let mut damaged = whole.clone();
    damaged[40] ^= 1;
    fs::write(&page, &damaged).expect("written");
    let mount = store.mount(&[]);
    let got = fs::read(mount.at("f")).err().and_then(|e| e.raw_os_error());
    assert_eq!(got, Some(libc::EKEYREJECTED));
    mount.unmount();
    fs::write(&page, &whole).expect("written");
    for name in ["volume.json", "volume.json.bak"] {
        let path = store.path().join(name);
        let mut bytes = fs::read(&path).expect("readable");
        bytes[30] ^= 1;
        fs::write(&path, bytes).expect("written");
    }
    let said = fails(kmsfs().arg("mount").arg(store.path()).arg(store.mountpoint()), 3);
    assert!(said.contains("volume.json"), "{said}");
    run(kmsfs().arg("key").arg("--keystore").arg(store.keystore()).arg("list"));
}
