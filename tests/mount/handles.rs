//! File handles are good for as long as the file is there: through moves, and through remounts.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::handle::Handle;
use crate::support::{Store, errno, skipped, wait_for};

/// So many files lie beside each other: a search by number comes by many before the last.
const FILES: usize = 300;

fn read(mut file: File) -> String {
    let mut all = String::new();
    file.read_to_string(&mut all).expect("readable");
    all
}

/// The path of what is open.
fn path(file: &File) -> PathBuf {
    fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("open")
}

fn tree(root: &Path) {
    let long = "l".repeat(200);
    for folder in ["a/b/c/d".to_owned(), format!("a/{long}/e"), "z".to_owned()] {
        fs::create_dir_all(root.join(folder)).expect("made");
    }
    for n in 0..FILES {
        fs::write(root.join(format!("a/b/c/d/{n}")), n.to_string()).expect("written");
    }
    fs::write(root.join(format!("a/{long}/e/deep")), "deep").expect("written");
    std::os::unix::fs::symlink("deep", root.join("z/link")).expect("made");
}

#[test]
fn a_handle_outlives_moves_and_remounts() {
    if skipped("fuse") {
        return;
    }
    for names in ["encrypted", "plain"] {
        for transport in ["auto", "off"] {
            let store = Store::new(&["--names", names]);
            let mount = store.mount(&["--io-uring", transport]);
            tree(&mount.root());
            let deep = format!("a/{}/e/deep", "l".repeat(200));
            let of = |name: &str| Handle::of(&mount.at(name));
            let files: Vec<_> = (0..FILES).map(|n| of(&format!("a/b/c/d/{n}"))).collect();
            let (deep, folder, link) = (of(&deep), of("a/b/c"), of("z/link"));
            mount.unmount();

            let mount = store.mount(&["--io-uring", transport]);
            let root = File::open(mount.root()).expect("opened");
            for (n, handle) in files.iter().enumerate().rev() {
                let file = handle.open(&root, libc::O_RDONLY);
                assert_eq!(read(file.expect("it is there")), n.to_string());
            }
            let mut file = deep.open(&root, libc::O_RDWR).expect("it is there");
            file.write_all(b"DE").expect("written");
            assert_eq!(read(deep.open(&root, libc::O_RDONLY).expect("there")), "DEep");
            let opened = folder.open(&root, libc::O_RDONLY | libc::O_DIRECTORY).expect("there");
            assert_eq!(path(&opened), mount.at("a/b/c"));
            let pinned = link.open(&root, libc::O_PATH | libc::O_NOFOLLOW).expect("there");
            assert!(pinned.metadata().expect("there").is_symlink());
            drop((file, opened, pinned, root));
            mount.unmount();

            // Found where it is now, and its folder is one that nobody has looked up.
            let mount = store.mount(&["--io-uring", transport]);
            fs::rename(mount.at("a/b/c/d/7"), mount.at("z/moved")).expect("moved");
            fs::rename(mount.at("a/b/c"), mount.at("z/c")).expect("moved");
            let root = File::open(mount.root()).expect("opened");
            assert_eq!(read(files[7].open(&root, libc::O_RDONLY).expect("there")), "7");
            assert_eq!(read(files[9].open(&root, libc::O_RDONLY).expect("there")), "9");
            let opened = folder.open(&root, libc::O_RDONLY | libc::O_DIRECTORY).expect("there");
            assert_eq!(path(&opened), mount.at("z/c"));
            fs::remove_file(mount.at("z/moved")).expect("removed");
            assert_eq!(errno(files[7].open(&root, libc::O_RDONLY)), Some(libc::ESTALE));
        }
    }
}

/// A new file that has a removed one's number is another file.
#[test]
fn a_handle_of_a_removed_file_opens_no_other() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    let root = File::open(mount.root()).expect("opened");
    fs::write(mount.at("old"), "old").expect("written");
    let (old, number) =
        (Handle::of(&mount.at("old")), fs::metadata(mount.at("old")).expect("there"));
    fs::remove_file(mount.at("old")).expect("removed");
    // Most filesystems give a free number to the next file; where this one does not, the handle
    // names nothing, which is tested too.
    let mut made = 0;
    wait_for("a file with the number, or enough of others", Duration::from_secs(30), || {
        let path = mount.at(&format!("new-{made}"));
        fs::write(&path, "new").expect("written");
        made += 1;
        made == 200 || fs::metadata(&path).expect("there").ino() == number.ino()
    });
    println!("{made} files were made");
    assert_eq!(errno(old.open(&root, libc::O_RDONLY)), Some(libc::ESTALE));
}
