//! A store on a disk that runs full: a small tmpfs.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

use crate::support::{Mount, Store, Tmpfs, fails, files, kmsfs, skipped};

const PIECE: usize = 48 << 10;

fn content(n: usize) -> Vec<u8> {
    (0..PIECE).map(|i| (i * 13 + n * 31) as u8).collect()
}

/// Writes and syncs files until the disk is full; answers how many are whole.
fn fill(mount: &Mount<'_>, folder: &Path) -> usize {
    for n in 0.. {
        let path = folder.join(format!("file{n}"));
        let made = File::create_new(&path).and_then(|mut file| {
            file.write_all(&content(n))?;
            file.sync_all()
        });
        if let Err(e) = made {
            assert_eq!(e.kind(), ErrorKind::StorageFull, "file {n}: {e}");
            assert_eq!(mount.state(), "open");
            let _ = fs::remove_file(&path);
            return n;
        }
    }
    unreachable!("a disk has an end")
}

fn check(mount: &Mount<'_>, whole: usize) {
    for n in 0..whole {
        let read = fs::read(mount.at(&format!("d/file{n}")));
        let read = read.unwrap_or_else(|e| panic!("file {n} of {whole}: {e}; {}", mount.story()));
        assert!(read == content(n), "file {n} is another");
    }
}

#[test]
fn a_full_disk_is_told_and_loses_nothing() {
    if skipped("fuse") {
        return;
    }
    let disk = Tmpfs::new("size=6m");
    let store = Store::unmade_in(disk.path()).made(&[]);
    for options in [&[][..], &["--writeback"], &["--direct-io"]] {
        let mount = store.mount(options);
        let folder = mount.at("d");
        fs::create_dir(&folder).expect("made");
        let whole = fill(&mount, &folder);
        assert!(whole > 20, "{whole} files of 48 KiB fit in 6 MiB");
        // Smaller and smaller, to the last page: each fails clearly or is whole.
        for len in [20_000, 4000, 1] {
            for n in 0..64 {
                let path = mount.at(&format!("small{len}-{n}"));
                match fs::write(&path, vec![b's'; len]).and_then(|()| File::open(&path)?.sync_all())
                {
                    Ok(()) => assert_eq!(fs::read(&path).expect("readable").len(), len),
                    Err(e) => {
                        assert_eq!(e.kind(), ErrorKind::StorageFull, "{e}");
                        let _ = fs::remove_file(&path);
                        break;
                    }
                }
            }
        }
        check(&mount, whole);
        // An overwrite needs no space, an append does: what is there stays.
        let first = folder.join("file0");
        let mut file = File::options().append(true).open(&first).expect("opened");
        let grown = file.write_all(&vec![b'g'; 1 << 20]).and_then(|()| file.sync_all());
        assert_eq!(grown.expect_err("it cannot fit").kind(), ErrorKind::StorageFull);
        drop(file);
        let read = fs::read(&first).expect("readable");
        assert!(read[..PIECE] == content(0), "what was synced is there");

        // Removing makes room again.
        for n in 0..whole / 2 {
            fs::remove_file(folder.join(format!("file{n}"))).expect("removed");
        }
        for n in 0..whole / 4 {
            fs::write(folder.join(format!("file{n}")), content(n)).expect("there is room");
        }
        check(&mount, whole / 4);
        mount.unmount();
        let mount = store.mount(options);
        check(&mount, whole / 4);
        for n in whole / 2..whole {
            let read = fs::read(folder.join(format!("file{n}"))).expect("readable");
            assert!(read == content(n), "file {n} is another after a remount");
        }
        fs::remove_dir_all(&folder).expect("removed");
        for entry in fs::read_dir(mount.root()).expect("listed").flatten() {
            fs::remove_file(entry.path()).expect("removed");
        }
        mount.unmount();
    }
}

/// No space for a byte, or for a folder: both are told, and the store can be made when there is.
#[test]
fn init_on_a_full_disk_leaves_nothing() {
    if skipped("fuse") {
        return;
    }
    for options in ["size=64k", "size=1m,nr_inodes=300"] {
        let disk = Tmpfs::new(options);
        let keys = Store::new(&[]);
        let store = disk.path().join("store");
        let init = || {
            let mut command = kmsfs();
            command.arg("init").arg(&store).arg("--keystore").arg(keys.keystore());
            command
        };
        if options == "size=64k" {
            fs::write(disk.path().join("ballast"), vec![0; 64 << 10]).expect("it just fits");
        }
        let said = fails(&mut init(), 1);
        assert!(said.contains("No space left"), "{said}");
        assert!(!store.exists(), "{options}: {:?}", files(&store));
        // The same in a folder that was there before.
        fs::create_dir(&store).expect("made");
        fails(&mut init(), 1);
        assert_eq!(fs::read_dir(&store).expect("there").count(), 0, "{options}");
    }
}
