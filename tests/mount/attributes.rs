//! `user.*` attributes on the filesystems that a store may lie on: how many there is room for, how
//! large they may be, and what the errors are.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use rustix::fs::{XattrFlags, getxattr, listxattr, removexattr, setxattr};
use rustix::io::Errno;

use crate::support::{Loop, Mount, Store, Tmpfs, skipped};

/// The most bytes of a value (xattr(7)), and of a list.
const MOST: usize = 65_536;

type Values = BTreeMap<String, Vec<u8>>;

fn set(at: &Path, name: &str, value: &[u8]) -> Result<(), Errno> {
    setxattr(at, name, value, XattrFlags::empty())
}

fn check(at: &Path, wanted: &Values) {
    let mut buf = vec![0; MOST];
    let n = listxattr(at, &mut buf).expect("listed");
    let list = String::from_utf8(buf[..n].to_vec()).expect("names of the test");
    let mut names: Vec<&str> = list.split_terminator('\0').collect();
    names.retain(|name| name.starts_with("user."));
    names.sort_unstable();
    assert!(wanted.keys().eq(&names), "{} of {} are listed", names.len(), wanted.len());
    for (name, value) in wanted {
        let n = getxattr(at, name.as_str(), &mut buf).expect("there");
        assert_eq!(buf[..n], value[..], "{name}");
    }
    assert_eq!(getxattr(at, "user.absent", &mut buf), Err(Errno::NODATA));
}

/// As `check`, also of what is read from the disk by the next mount.
fn check_twice(store: &Store, mount: Mount<'_>, file: &str, wanted: &Values) {
    check(&mount.at(file), wanted);
    mount.unmount();
    check(&store.mount(&[]).at(file), wanted);
}

/// 35 fitted while each lay apart, and 114 do without a mount.
#[test]
fn ext4_has_room_for_more_than_without_a_mount() {
    if skipped("fuse") {
        return;
    }
    let disk = Loop::new(64 << 20, &["-b", "4096"]);
    let native = disk.path().join("native");
    let store = Store::unmade_in(&disk.path()).made(&[]);
    let mount = store.mount(&[]);
    let fill = |at: &Path| {
        File::create(at).expect("made");
        let mut all = Values::new();
        let full = loop {
            let (name, value) = (format!("user.{:011}", all.len()), vec![b'v'; 8]);
            match set(at, &name, &value) {
                Ok(()) => all.insert(name, value),
                Err(e) => break e,
            };
        };
        assert_eq!(full, Errno::NOSPC);
        all
    };
    let without = fill(&native).len();
    let at = mount.at("f");
    let mut all = fill(&at);
    assert!(without > 100 && all.len() > without, "{} and {without}", all.len());
    // And what is full can be changed.
    assert_eq!(set(&at, "user.00000000000", &[1; 500]), Err(Errno::NOSPC));
    assert_eq!(set(&at, "user.00000000000", &[1; 8]), Ok(()));
    all.insert("user.00000000000".to_owned(), vec![1; 8]);
    assert_eq!(removexattr(&at, "user.00000000001"), Ok(()));
    all.remove("user.00000000001");
    assert_eq!(set(&at, "user.again", b"value"), Ok(()));
    all.insert("user.again".to_owned(), b"value".to_vec());
    // One that takes all of the room.
    File::create(mount.at("one")).expect("made");
    assert_eq!(set(&mount.at("one"), "user.00000000000", &[1; 3985]), Ok(()));
    assert_eq!(set(&mount.at("one"), "user.00000000000", &[1; 4060]), Err(Errno::NOSPC));
    check(&mount.at("one"), &Values::from([("user.00000000000".to_owned(), vec![1; 3985])]));
    check_twice(&store, mount, "f", &all);
}

/// Beyond the block there is what the filesystem has.
fn has_room_on(folder: &Path, largest: usize) {
    let store = Store::unmade_in(folder).made(&[]);
    let mount = store.mount(&[]);
    let at = mount.at("f");
    File::create(&at).expect("made");
    let mut all = Values::new();
    let mut put = |name: String, value: Vec<u8>| {
        assert_eq!(set(&at, &name, &value), Ok(()), "{name}, {}", value.len());
        all.insert(name, value);
    };
    for n in 0..1100usize {
        put(format!("user.{n}"), vec![n as u8; n % 90]);
    }
    put(format!("user.{}", "n".repeat(250)), vec![1; 100]);
    put("user.largest".to_owned(), vec![2; largest]);
    // From the block, and into it.
    put("user.7".to_owned(), vec![3; 5000]);
    put("user.1000".to_owned(), Vec::new());
    for n in (0..1100).step_by(3) {
        assert_eq!(removexattr(&at, format!("user.{n}")), Ok(()));
        all.remove(&format!("user.{n}"));
    }
    assert_eq!(setxattr(&at, "user.7", b"", XattrFlags::CREATE), Err(Errno::EXIST));
    assert_eq!(setxattr(&at, "user.1", b"", XattrFlags::CREATE), Err(Errno::EXIST));
    assert_eq!(setxattr(&at, "user.3", b"", XattrFlags::REPLACE), Err(Errno::NODATA));
    assert_eq!(removexattr(&at, "user.3"), Err(Errno::NODATA));
    check_twice(&store, mount, "f", &all);
}

#[test]
fn other_filesystems_have_room_for_large_ones_and_for_many() {
    if skipped("fuse") {
        return;
    }
    // 65,536 bytes less nonce, tag, lengths, name and padding; docs/SEMANTICS.md tells.
    let largest = MOST - 32 - 3 - "user.largest".len();
    has_room_on(Tmpfs::new("size=64m").path(), largest);
    if !skipped("xfs") {
        has_room_on(&Loop::of("xfs", 400 << 20, &[]).path(), largest);
    }
    if !skipped("btrfs") {
        has_room_on(&Loop::of("btrfs", 400 << 20, &[]).path(), 16_000);
    }
}

#[test]
fn a_value_that_is_too_large_or_a_name_that_is_none_is_refused() {
    if skipped("fuse") {
        return;
    }
    let disk = Tmpfs::new("size=64m");
    let store = Store::unmade_in(disk.path()).made(&[]);
    let mount = store.mount(&[]);
    let at = mount.at("f");
    File::create(&at).expect("made");
    let largest = MOST - 32 - 3 - "user.a".len();
    assert_eq!(set(&at, "user.a", &vec![1; largest]), Ok(()));
    let all = Values::from([("user.a".to_owned(), vec![1; largest])]);
    assert_eq!(set(&at, "user.a", &vec![2; largest + 1]), Err(Errno::TOOBIG));
    check(&at, &all);
    assert_eq!(set(&at, "user.", b""), Err(Errno::INVAL));
    assert_eq!(removexattr(&at, "user."), Err(Errno::INVAL));
    assert_eq!(getxattr(&at, "user.", &mut [0; 8]), Err(Errno::INVAL));
    check_twice(&store, mount, "f", &all);
}
