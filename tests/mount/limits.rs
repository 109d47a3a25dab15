//! Limits of the machine and of programs: few descriptors, positions of 32 bits, folders that may be
//! entered and not listed.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::mem::MaybeUninit;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rustix::fs::{RawDir, SeekFrom, seek};

use crate::support::device::OpenDevice;
use crate::support::{Loop, Ordinary, Store, errno, nobody, run, skipped};

/// One user opened all files that the daemon could: every other user's requests failed with EMFILE.
#[test]
fn who_opens_all_he_can_leaves_descriptors_for_others() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mut mounting = Command::new("prlimit");
    let program = store.kmsfs();
    mounting.args(["--nofile=1024:1024", "--"]).arg(program.get_program());
    mounting.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    run(mounting.arg("mount").arg(store.path()).arg(store.mountpoint()));
    let mount = store.mounted();
    let files = mount.at("files");
    fs::create_dir(&files).expect("made");
    for n in 0..700 {
        fs::write(files.join(n.to_string()), n.to_string()).expect("written");
    }
    fs::create_dir(mount.at("others")).expect("made");
    fs::set_permissions(mount.at("others"), Permissions::from_mode(0o777)).expect("set");
    fs::set_permissions(store.outside(""), Permissions::from_mode(0o755)).expect("set");
    let mut open = Vec::new();
    let refused = loop {
        match File::open(files.join(open.len().to_string())) {
            Ok(file) => open.push(file),
            Err(e) => break e,
        }
    };
    assert_eq!(refused.raw_os_error(), Some(libc::ENFILE));
    assert!((300..700).contains(&open.len()), "{}", open.len());
    assert_eq!(errno(fs::read_dir(&files)), Some(libc::ENFILE), "a listing costs one too");
    let script =
        "cd others; for n in 1 2 3 4 5 6 7 8 9; do echo $n > f$n; cat f$n ../files/$n; done
        ls | wc -l; exec 3<f1 4<f2 5<f3 6<f4; mkdir d; mv f1 d; rm -r d f2; ls ../files | wc -l";
    let said = run(nobody().args(["sh", "-ec", script]).current_dir(mount.root()));
    assert!(said.ends_with("9\n700\n"), "{said}");
    // What is given back can be had again.
    open.truncate(open.len() / 2);
    assert_eq!(fs::read_dir(&files).expect("listed").count(), 700);
}

/// ext4's positions are hashes of 63 bits: a program whose `off_t` has 32 got EOVERFLOW for every
/// folder of a store on ext4.
#[test]
fn positions_in_a_listing_fit_into_32_bits_and_lead_back() {
    if skipped("fuse") {
        return;
    }
    let disk = Loop::new(64 << 20, &[]);
    let store = Store::unmade_in(&disk.path()).made(&[]);
    let mount = store.mount(&[]);
    let folder = mount.at("folder");
    fs::create_dir(&folder).expect("made");
    let wanted: BTreeSet<String> = (0..3000).map(|n| format!("entry {n}")).collect();
    for name in &wanted {
        File::create(folder.join(name)).expect("made");
    }
    // As many bytes as fit some entries: positions within a reply are asked for, too.
    for room in [200, 4096, 65_536] {
        let dir = File::open(&folder).expect("opened");
        let (mut found, mut positions) = (Vec::new(), Vec::new());
        let mut buf = vec![MaybeUninit::uninit(); room];
        let mut raw = RawDir::new(&dir, &mut buf);
        while let Some(entry) = raw.next() {
            let entry = entry.expect("listed");
            let name = entry.file_name().to_str().expect("UTF-8").to_owned();
            let next = entry.next_entry_cookie();
            assert!(i32::try_from(next).is_ok(), "{name}: {next:x}");
            positions.push(next);
            found.push(name);
        }
        let names: BTreeSet<String> =
            found.iter().filter(|n| !n.starts_with('.')).cloned().collect();
        assert_eq!((found.len(), &names), (3002, &wanted), "each entry once");
        // From a position that was told it goes on as it did.
        for at in [1, 77, 1500, 2999] {
            seek(&dir, SeekFrom::Start(positions[at])).expect("a position");
            let mut rest = Vec::new();
            let mut raw = RawDir::new(&dir, &mut buf);
            while let Some(entry) = raw.next() {
                let entry = entry.expect("listed");
                rest.push(entry.file_name().to_str().expect("UTF-8").to_owned());
            }
            assert_eq!(rest, found[at + 1..], "from entry {at} with {room} bytes");
        }
    }
}

/// The daemon of an ordinary user could not open such a folder: what lay in it was EACCES.
#[test]
fn folders_that_may_be_entered_and_not_listed_are_served() {
    if skipped("fuse") {
        return;
    }
    let _device = OpenDevice::new();
    let user = Ordinary::new();
    let script = r#"
./kmsfs init store --no-passphrase 2>/dev/null >/dev/null
mkdir mnt
trap './kmsfs unmount mnt' EXIT
use() {
  [ "$(cat mnt/d/file)" = content ]
  ! ls mnt/d 2>/dev/null
  [ "$(cat mnt/d/below/file)" = deeper ]
  ls -l mnt/d/file mnt/d/below >/dev/null
  ! cat mnt/d/none 2>/dev/null
}
./kmsfs mount store mnt
mkdir -p mnt/d/below
echo content > mnt/d/file
echo deeper > mnt/d/below/file
for mode in 0300 0311 0711; do
  chmod $mode mnt/d
  [ $mode = 0711 ] || use
  echo new > mnt/d/new; mv mnt/d/new mnt/d/newer; ln mnt/d/newer mnt/d/linked
  mkdir mnt/d/made; rmdir mnt/d/made; ln -s file mnt/d/link; [ "$(cat mnt/d/link)" = content ]
  rm mnt/d/newer mnt/d/linked mnt/d/link
done
chmod 0111 mnt/d
use
! touch mnt/d/new 2>/dev/null
./kmsfs unmount mnt
./kmsfs mount store mnt
use
chmod 0300 mnt/d
use
sync mnt/d/file mnt
mkdir -m 0300 mnt/fresh mnt/fresh/below
sync mnt
rmdir mnt/fresh/below mnt/fresh
chmod 0700 mnt/d
[ "$(ls mnt/d | wc -l)" = 2 ]
"#;
    run(&mut user.shell(script));
}
