//! The filesystems that a store may lie on: what works on each, and what `init` says where one
//! lacks something.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::{FallocateFlags, XattrFlags, fallocate, getxattr, setxattr, statvfs};

use crate::support::slow::SlowDisk;
use crate::support::{Loop, Mount, Store, Tmpfs, errno, fails, kmsfs, run, skipped};

/// Whether a store on it has attributes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attributes {
    Kept,
    None,
}

const LARGE: usize = 3_000_000;

fn content() -> Vec<u8> {
    (0..LARGE).map(|n| (n * 7 + n / 1000) as u8).collect()
}

fn use_it(mount: &Mount<'_>, longest: usize, attributes: Attributes) {
    let at = |name: &str| mount.at(name);
    fs::write(at("large"), content()).expect("written");
    fs::create_dir_all(at("a/b/c")).expect("made");
    for n in 0..200 {
        fs::write(at(&format!("a/b/file {n}")), format!("content {n}")).expect("written");
    }
    for len in [1, 79, 80, longest.saturating_sub(1), longest] {
        fs::write(at("a").join("n".repeat(len.min(longest))), len.to_string()).expect("written");
    }
    fs::hard_link(at("large"), at("a/linked")).expect("linked");
    for (name, len) in [("short", 10), ("longer", 900), ("long", 4000)] {
        symlink("t".repeat(len), at(name)).expect("made");
    }
    let sparse = File::create(at("sparse")).expect("made");
    sparse.write_at(b"end", 50_000_000).expect("written");
    sparse.sync_all().expect("synced");
    if attributes == Attributes::Kept {
        setxattr(at("a"), "user.note", b"value", XattrFlags::empty()).expect("set");
    }
    let punched = File::options().read(true).write(true).open(at("a/linked")).expect("opened");
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&punched, hole, 1_000_000, 500_000).expect("punched");
    fs::rename(at("a/b"), at("moved")).expect("renamed");
    fs::rename(at("moved/file 1"), at("moved/file 2")).expect("replaced");
    fs::remove_file(at("moved/file 3")).expect("removed");
    let mut removed = File::create_new(at("removed")).expect("made");
    fs::remove_file(at("removed")).expect("removed");
    removed.write_all(b"it goes on").expect("written");
    File::open(at("moved")).and_then(|dir| dir.sync_all()).expect("synced");
}

fn check(mount: &Mount<'_>, longest: usize, attributes: Attributes) {
    let at = |name: &str| mount.at(name);
    let mut wanted = content();
    wanted[1_000_000..1_500_000].fill(0);
    assert!(fs::read(at("large")).expect("readable") == wanted);
    let numbers =
        [at("large"), at("a/linked")].map(|path| fs::metadata(path).expect("there").ino());
    assert_eq!(numbers[0], numbers[1]);
    assert_eq!(fs::read_dir(at("moved")).expect("listed").count(), 199);
    assert_eq!(fs::read_to_string(at("moved/file 2")).expect("readable"), "content 1");
    for n in 4..200 {
        let text = fs::read_to_string(at(&format!("moved/file {n}"))).expect("readable");
        assert_eq!(text, format!("content {n}"));
    }
    let name = at("a").join("n".repeat(longest));
    assert_eq!(fs::read_to_string(name).expect("readable"), longest.to_string());
    for (name, len) in [("short", 10), ("longer", 900), ("long", 4000)] {
        assert_eq!(fs::read_link(at(name)).expect("a link").as_os_str().len(), len);
    }
    let sparse = fs::metadata(at("sparse")).expect("there");
    assert!(sparse.len() == 50_000_003 && sparse.blocks() < 10_000);
    if attributes == Attributes::Kept {
        let mut value = [0; 9];
        assert_eq!(getxattr(at("a"), "user.note", &mut value), Ok(5));
    }
    assert_eq!(statvfs(mount.root()).expect("told").f_namemax, longest as u64);
}

fn works_on(folder: &Path, longest: usize, attributes: Attributes) {
    let store = Store::unmade_in(folder);
    let mut init = kmsfs();
    init.arg("init").arg(store.path()).arg("--keystore").arg(store.keystore());
    let told = init.arg("--no-passphrase").output().expect("started");
    let said = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.status.success(), "{said}");
    let lacks = said.contains("does not have");
    assert_eq!(lacks, longest < 255 || attributes == Attributes::None, "{said}");
    let mount = store.mount(&[]);
    use_it(&mount, longest, attributes);
    check(&mount, longest, attributes);
    mount.unmount();
    let mount = store.mount(&[]);
    check(&mount, longest, attributes);
    mount.unmount();
    let said = run(kmsfs().arg("fsck").arg(store.path()));
    assert!(said.contains("0 damage"), "{said}");
    let mount = store.mount(&[]);
    fs::remove_dir_all(mount.at("a")).expect("removed");
    fs::remove_dir_all(mount.at("moved")).expect("removed");
}

#[test]
fn a_store_works_on_the_kernels_own_filesystems() {
    if skipped("fuse") {
        return;
    }
    works_on(Loop::new(192 << 20, &[]).path().as_path(), 255, Attributes::Kept);
    if !skipped("xfs") {
        works_on(Loop::of("xfs", 400 << 20, &[]).path().as_path(), 255, Attributes::Kept);
    }
    if !skipped("btrfs") {
        works_on(Loop::of("btrfs", 400 << 20, &[]).path().as_path(), 255, Attributes::Kept);
    }
    works_on(Tmpfs::new("size=192m").path(), 255, Attributes::Kept);
}

/// An overlay, unmounted when dropped.
struct Overlay(tempfile::TempDir);

impl Overlay {
    /// Of a folder that is read alone, and one that is written.
    fn new(lower: &Path, upper: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("kmsfs-overlay-").tempdir().expect("a folder");
        let [upper, work] = ["upper", "work"].map(|name| upper.join(name));
        for path in [&upper, &work] {
            fs::create_dir(path).expect("made");
        }
        let (lower, upper, work) = (lower.display(), upper.display(), work.display());
        let with = format!("lowerdir={lower},upperdir={upper},workdir={work},xino=off");
        let mut mount = Command::new("mount");
        run(mount.args(["-t", "overlay", "-o", &with, "overlay"]).arg(folder.path()));
        Self(folder)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        // Lazily: a daemon that is ending may still hold it.
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).output();
    }
}

/// Where the layers lie on two filesystems, files have other device numbers than folders: each was
/// EXDEV.
#[test]
fn a_store_works_on_an_overlay() {
    if skipped("fuse") {
        return;
    }
    let (one, other) = (Tmpfs::new("size=192m"), Loop::new(192 << 20, &[]));
    let lower = one.path().join("lower");
    fs::create_dir(&lower).expect("made");
    let same = Overlay::new(&lower, one.path());
    works_on(same.0.path(), 255, Attributes::Kept);
    let apart = Overlay::new(&lower, &other.path());
    works_on(apart.0.path(), 255, Attributes::Kept);
}

/// A store that a lower layer holds, as in a container's image: files of both layers, whose numbers
/// are unique within each of them alone.
#[test]
fn a_store_in_a_lower_layer_is_read_and_written() {
    if skipped("fuse") {
        return;
    }
    let (one, other) = (Tmpfs::new("size=192m"), Loop::new(192 << 20, &[]));
    let lower = one.path().join("lower");
    fs::create_dir(&lower).expect("made");
    let first = Store::new(&[]).at(lower.join("store"));
    run(kmsfs().arg("init").arg(first.path()).arg("--keystore").arg(first.keystore()));
    let mount = first.mount(&[]);
    for n in 0..300 {
        fs::write(mount.at(&format!("old {n}")), format!("old content {n}")).expect("written");
    }
    mount.unmount();
    let overlay = Overlay::new(&lower, &other.path());
    let store = Store::unmade().at(overlay.0.path().join("store"));
    let mount = store.mount(&[]);
    for n in 0..300 {
        fs::write(mount.at(&format!("new {n}")), format!("new content {n}")).expect("written");
    }
    fs::write(mount.at("old 7"), "rewritten").expect("written");
    fs::remove_file(mount.at("old 8")).expect("removed");
    let check = |mount: &Mount<'_>| {
        for n in (0..300).filter(|n| *n != 7 && *n != 8) {
            for kind in ["old", "new"] {
                let read = fs::read_to_string(mount.at(&format!("{kind} {n}")));
                assert_eq!(read.expect("readable"), format!("{kind} content {n}"));
            }
        }
        assert_eq!(fs::read_to_string(mount.at("old 7")).expect("readable"), "rewritten");
        assert_eq!(fs::read_dir(mount.root()).expect("listed").count(), 599);
    };
    check(&mount);
    mount.unmount();
    check(&store.mount(&[]));
}

#[test]
fn a_store_works_on_a_fuse_filesystem_and_on_one_with_short_names() {
    if skipped("fuse") {
        return;
    }
    let disk = SlowDisk::new("slow_store::a_role");
    works_on(&disk.path(), 255, Attributes::Kept);
    disk.shorten_names(143);
    works_on(&disk.path(), 80, Attributes::Kept);
    let store = Store::unmade_in(&disk.path()).made(&[]);
    let mount = store.mount(&[]);
    let longer = mount.at(&"n".repeat(81));
    assert_eq!(errno(fs::write(&longer, "")), Some(libc::ENAMETOOLONG));
    fs::write(mount.at(&"n".repeat(200)), "longer names work again").expect("written");
}

#[test]
fn init_says_what_a_filesystem_lacks_and_leaves_nothing_there() {
    if skipped("fuse") {
        return;
    }
    let lacking = |disk: &SlowDisk, args: &[&str]| {
        let keystore = tempfile::tempdir().expect("a folder");
        let mut init = kmsfs();
        init.arg("init").arg(disk.path().join("store")).arg("--no-passphrase").args(args);
        init.arg("--keystore").arg(keystore.path().join("ks"));
        let told = init.output().expect("started");
        (told.status.code(), String::from_utf8_lossy(&told.stderr).into_owned())
    };
    let disk = SlowDisk::new("slow_store::a_role");
    disk.refuse_links();
    let (code, said) = lacking(&disk, &[]);
    assert!(code == Some(1) && said.contains("does not have: symbolic links\n"), "{said}");
    assert!(said.contains("kmsfs init OTHER") && !disk.path().join("store").exists(), "{said}");
    let (code, said) = lacking(&disk, &["--names", "plain"]);
    assert!(
        code == Some(0) && said.contains("each mount, does not have: symbolic links"),
        "{said}"
    );

    let disk = SlowDisk::new("slow_store::a_role");
    disk.fold_case();
    let (code, said) = lacking(&disk, &[]);
    assert!(code == Some(1) && said.contains("upper and lower case"), "{said}");
    fs::create_dir(disk.path().join("empty")).expect("made");
    let store = disk.path().join("empty");
    fails(
        kmsfs()
            .arg("init")
            .arg(&store)
            .arg("--keystore")
            .arg(disk.path().join("ks"))
            .arg("--no-passphrase"),
        1,
    );
    assert_eq!(fs::read_dir(&store).expect("still there").count(), 0);
}
