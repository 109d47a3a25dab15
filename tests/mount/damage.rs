//! Samples of tests/damage on real mounts: the errno that a program sees, the exit codes.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::support::{Store, files, kmsfs, skipped};

const CONTENT: &[u8] = &[b'c'; 9000];

fn flip(path: &Path, at: usize) {
    let file = File::options().read(true).write(true).open(path).expect("opened");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).expect("readable");
    file.write_all_at(&[byte[0] ^ 1 << (at % 8)], at as u64).expect("written");
}

/// A store with one file of three records: it, and its sidecar page.
fn store_with_a_file() -> (Store, PathBuf, PathBuf) {
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    fs::write(mount.at("f"), CONTENT).expect("written");
    mount.unmount();
    let page = files(&store.path().join("keys")).remove(0);
    let tree = files(&store.tree());
    let [file] = &tree[..] else { panic!("one file: {tree:?}") };
    (store, file.clone(), page)
}

fn read(path: &Path) -> Result<Vec<u8>, i32> {
    fs::read(path).map_err(|e| e.raw_os_error().expect("an errno"))
}

#[test]
fn damaged_files_and_sidecars_have_their_errno() {
    if skipped("fuse") {
        return;
    }
    let (store, file, page) = store_with_a_file();
    let line = fs::read(&page).expect("a page");
    let check = line.len() - 10;
    let marker = 3 * 4096 + 5;
    for (path, at, wanted) in [
        (&file, 3, Err(libc::EBADMSG)),
        (&file, 12, Err(libc::EKEYREJECTED)),
        (&file, 30, Err(libc::EBADMSG)),
        (&file, 4095, Err(libc::EBADMSG)),
        (&file, 5000, Err(libc::EBADMSG)),
        (&file, 3 * 4096 - 1, Err(libc::EBADMSG)),
        (&file, marker, Ok(CONTENT.to_vec())),
        (&page, 0, Err(libc::EKEYREJECTED)),
        (&page, check, Err(libc::EKEYREJECTED)),
    ] {
        flip(path, at);
        let mount = store.mount(&[]);
        assert_eq!(read(&mount.at("f")), wanted, "{}, byte {at}", path.display());
        mount.unmount();
        flip(path, at);
    }
    let mount = store.mount(&[]);
    assert_eq!(read(&mount.at("f")), Ok(CONTENT.to_vec()));
}

fn mount_code(store: &Store) -> Option<i32> {
    let mut mount = kmsfs();
    mount.arg("mount").arg(store.path()).arg(store.mountpoint());
    mount.output().expect("started").status.code()
}

/// Every byte of volume.json in turn, in both copies: `cat` gives the file, or exits with a code
/// of the design. So does `mount`, for some of them.
#[test]
fn a_damaged_volume_json_has_its_exit_code() {
    if skipped("fuse") {
        return;
    }
    let (store, _, _) = store_with_a_file();
    let copies = ["volume.json", "volume.json.bak"].map(|n| store.path().join(n));
    let text = fs::read_to_string(&copies[0]).expect("readable");
    let len = text.len();
    let full = std::env::var_os("KMSFS_TEST_FULL").is_some_and(|v| v == "1");
    for at in (0..len).step_by(if full { 1 } else { 11 }) {
        copies.iter().for_each(|copy| flip(copy, at));
        let output = kmsfs().arg("cat").arg(store.path()).arg("f").output().expect("started");
        let code = output.status.code();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        match code {
            Some(0) => assert_eq!(output.stdout, CONTENT, "byte {at}"),
            _ => {
                assert!(matches!(code, Some(3..=6)), "byte {at}: {code:?}, {said}");
                assert!(output.stdout.is_empty() && said.lines().count() > 1, "byte {at}: {said}");
                assert!(at % 5 > 0 || mount_code(&store) == code, "byte {at}");
            }
        }
        copies.iter().for_each(|copy| flip(copy, at));
    }
    // `cat` needs no heartbeat and makes no key; a mount asks for what its heartbeat will.
    for (member, into) in [("\"canary\": \"", 60), (r#"\"asked\":\"alias/"#, 1)] {
        // The first letters of a wrapped key are its format.
        let at = text.find(member).expect("a member") + member.len() + into;
        copies.iter().for_each(|copy| flip(copy, at));
        assert_eq!(mount_code(&store), Some(3), "{member}");
        copies.iter().for_each(|copy| flip(copy, at));
    }
    let mount = store.mount(&[]);
    assert_eq!(read(&mount.at("f")), Ok(CONTENT.to_vec()));
}
