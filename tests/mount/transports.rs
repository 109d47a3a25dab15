//! Over io_uring and over /dev/fuse: what a mount is told is what it does, and both do the same.
//! (`scripts/test` runs more of these tests over /dev/fuse.)

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use crate::support::{Store, skipped};

/// So many long names do not go into one answer.
const NAMES: usize = 250;
const PARAMETER: &str = "/sys/module/fuse/parameters/enable_uring";

/// Large and small, many and few, of each kind of request.
fn work(at: &Path) {
    let content: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    fs::write(at.join("large"), &content).expect("written");
    fs::copy(at.join("large"), at.join("copy")).expect("copied");
    assert!(fs::read(at.join("copy")).expect("readable") == content);
    let file = File::options().read(true).write(true).open(at.join("copy")).expect("opened");
    let mut part = [0; 5000];
    for offset in [1, 4043, 1 << 20, 2_999_000] {
        let n = file.read_at(&mut part, offset).expect("readable");
        assert_eq!(part[..n], content[offset as usize..][..n]);
        file.write_all_at(b"over", offset).expect("written");
    }
    file.sync_all().expect("synced");
    for n in 0..NAMES {
        fs::write(at.join(format!("{n:0>200}")), n.to_string()).expect("written");
    }
    assert_eq!(fs::read_dir(at).expect("a folder").count(), NAMES + 2);
    // As much as ext4 takes beside what sealing adds.
    let value = vec![7; 3000];
    rustix::fs::setxattr(at.join("large"), "user.long", &value, rustix::fs::XattrFlags::empty())
        .expect("set");
    let mut back = vec![0; 65_536];
    let n = rustix::fs::getxattr(at.join("large"), "user.long", &mut back).expect("there");
    assert_eq!(back[..n], value);
    let target = "t/".repeat(2000);
    std::os::unix::fs::symlink(&target, at.join("link")).expect("made");
    assert_eq!(fs::read_link(at.join("link")).expect("there"), Path::new(&target));
    fs::rename(at.join("copy"), at.join("large")).expect("renamed");
    assert_eq!(fs::metadata(at.join("large")).expect("there").len(), 3_000_000);
}

/// Sets attributes of one folder, as others do at the same time.
fn share(at: &Path, who: usize) {
    let none = rustix::fs::XattrFlags::empty();
    for round in 0..20 {
        for n in 0..5 {
            let (name, value) = (format!("user.{who}-{n}"), format!("{round}"));
            rustix::fs::setxattr(at, name, value.as_bytes(), none).expect("set");
        }
        rustix::fs::removexattr(at, format!("user.{who}-0")).expect("there");
    }
}

/// None of them is lost.
fn check_shared(at: &Path) {
    for (who, n) in (0..8).flat_map(|who| (0..5).map(move |n| (who, n))) {
        let mut value = [0; 8];
        let got = rustix::fs::getxattr(at, format!("user.{who}-{n}"), &mut value);
        if n == 0 {
            assert_eq!(got, Err(rustix::io::Errno::NODATA));
        } else {
            assert_eq!(&value[..got.expect("there")], b"19");
        }
    }
}

#[test]
fn a_mount_works_over_either() {
    if skipped("fuse") {
        return;
    }
    let mut transports = vec![("off", "/dev/fuse")];
    if Path::new(PARAMETER).exists() {
        transports.push(("on", "io_uring"));
    } else {
        eprintln!("SKIPPED: io_uring (this kernel's FUSE has none)");
    }
    for (given, told) in transports {
        for how in [&[][..], &["--writeback"], &["--direct-io"]] {
            let store = Store::new(&[]);
            let mount = store.mount(&[&["--io-uring", given], how].concat());
            assert_eq!(mount.report()["transport"], told);
            // Eight at once, so that both cores have more than one request.
            std::thread::scope(|scope| {
                for n in 0..8 {
                    let at = mount.at(&format!("folder-{n}"));
                    scope.spawn(move || {
                        fs::create_dir(&at).expect("made");
                        work(&at);
                        share(at.parent().expect("in the mount"), n);
                    });
                }
            });
            check_shared(&mount.root());
            mount.unmount();
            let mount = store.mount(&["--io-uring", given]);
            let names = fs::read_dir(mount.at("folder-3")).expect("a folder").count();
            assert_eq!(names, NAMES + 2);
        }
    }
}

/// The pages said that a root mount reads 4 MiB ahead, and nothing set it: the kernel
/// read its 128 KiB, and a file read in order took a quarter longer.
#[test]
fn the_kernel_reads_two_requests_ahead_for_root() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    let device = fs::metadata(mount.root()).expect("mounted").dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let knob = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    assert_eq!(fs::read_to_string(knob).expect("there for each mount").trim(), "2048");
}
