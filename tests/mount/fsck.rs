//! `kmsfs fsck` on stores that real mounts have written.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat, setxattr};
use serde_json::Value;

use crate::support::{Mount, Store, Tmpfs, errno, fails, files, kmsfs, run, skipped};

fn fsck(store: &Store, args: &[&str]) -> Command {
    let mut command = store.kmsfs();
    command.arg("fsck").arg(store.path()).args(args);
    command
}

/// Every kind of entry.
fn furnish(mount: &Mount<'_>) {
    let at = |name: &str| mount.at(name);
    fs::create_dir_all(at("dir/sub/deep")).expect("made");
    fs::write(at("dir/file"), vec![7; 300_000]).expect("written");
    fs::hard_link(at("dir/file"), at("dir/sub/linked")).expect("linked");
    fs::write(at("empty"), b"").expect("made");
    fs::write(at(&"n".repeat(255)), b"a long name").expect("written");
    symlink("dir/file", at("link")).expect("made");
    symlink("t".repeat(4000), at("longlink")).expect("made");
    File::create(at("sparse")).expect("made").write_at(b"end", 50_000_000).expect("written");
    File::create(at("grown")).expect("made").set_len(1_000_000).expect("grown");
    setxattr(at("dir/file"), "user.note", b"value", XattrFlags::empty()).expect("set");
    let mode = Mode::from_raw_mode(0o644);
    mknodat(CWD, at("fifo"), FileType::Fifo, mode, 0).expect("made");
    mknodat(CWD, at("null"), FileType::CharacterDevice, mode, makedev(1, 3)).expect("made");
}

/// What fsck finds, as JSON, and with which exit code.
fn findings(store: &Store, args: &[&str]) -> (Vec<Value>, Value, Option<i32>) {
    let output = fsck(store, args).args(["--output", "json"]).output().expect("started");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let mut lines: Vec<Value> =
        text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let summary = lines.pop().unwrap_or_default();
    (lines, summary, output.status.code())
}

fn words(lines: &[Value]) -> Vec<String> {
    let mut all: Vec<String> = lines
        .iter()
        .map(|l| format!("{} {}", l["what"].as_str().unwrap(), l["path"].as_str().unwrap()))
        .collect();
    all.sort();
    all
}

fn furnished(args: &[&str]) -> Store {
    let store = Store::new(args);
    let mount = store.mount(&[]);
    furnish(&mount);
    mount.unmount();
    store
}

/// Files of the tree on disk.
fn content(store: &Store) -> Vec<PathBuf> {
    let regular = |p: &PathBuf| fs::symlink_metadata(p).expect("there").is_file();
    files(&store.tree()).into_iter().filter(regular).collect()
}

#[test]
fn a_healthy_store_is_clean_whatever_is_in_it() {
    if skipped("fuse") {
        return;
    }
    for args in [&[][..], &["--names", "plain"], &["--data-keys", "branch"]] {
        let store = furnished(args);
        let (found, summary, code) = findings(&store, &[]);
        assert_eq!((words(&found), code), (Vec::new(), Some(0)), "{args:?}");
        // dir/file once, though it has two names.
        assert_eq!(summary["files"], 5, "{summary}");
        assert!(summary["bytes"].as_u64().unwrap() > 300_000, "{summary}");
        let told = run(&mut fsck(&store, &[]));
        assert!(
            told.starts_with("5 files, ") && told.ends_with("0 damage, 0 leftovers\n"),
            "{told}"
        );
    }
}

#[test]
fn damage_is_told_by_its_path_and_repaired_where_nothing_is_lost() {
    if skipped("fuse") {
        return;
    }
    let store = furnished(&[]);
    let mount = store.mount(&[]);
    let hostile = "dir/\u{1b}[2J\u{202e}";
    fs::write(mount.at(hostile), b"content").expect("written");
    fs::write(mount.at("shredded"), b"content").expect("written");
    run(kmsfs().args(["shred", "--yes"]).arg(mount.at("shredded")));
    mount.unmount();
    // The one file of 300,000 bytes has a damaged record; the hostile one lies in the same folder.
    for path in content(&store) {
        let len = fs::metadata(&path).expect("there").len();
        if (300_000..400_000).contains(&len) {
            let file = File::options().write(true).open(&path).expect("opened");
            file.write_all_at(b"x", 20 * 4096 + 99).expect("written");
        }
        if len == 4096 + 7 && path.parent() != Some(&store.tree()) {
            File::options().write(true).open(&path).expect("opened").set_len(50).expect("cut");
        }
    }
    fs::remove_file(store.path().join("volume.json")).expect("there");
    fs::write(store.path().join("keys/00/x.tmp-1"), b"").expect("written");
    let (found, summary, code) = findings(&store, &[]);
    assert_eq!(code, Some(20), "{summary}");
    let shown = "size /dir/\\u{1b}[2J\\u{202e}";
    let volume = "volume-missing volume.json";
    let file = words(&found).into_iter().find(|w| w.starts_with("records")).expect("found");
    assert!(["records /dir/file", "records /dir/sub/linked"].contains(&&*file), "{file}");
    let temporary = "temporary-file keys/00/x.tmp-1";
    assert_eq!(words(&found), ["key /shredded", &file, shown, temporary, volume]);
    // Without a terminal there is nobody to ask.
    let told = fails(&mut fsck(&store, &["--repair"]), 2);
    assert!(told.contains("nothing was done") && told.contains("--yes"), "{told}");
    assert!(!store.path().join("volume.json").exists());
    let (done, summary, code) = findings(&store, &["--repair", "--yes"]);
    assert_eq!((code, &summary["repaired"]), (Some(20), &Value::from(2)), "{done:?}");
    assert_eq!(words(&findings(&store, &[]).0), ["key /shredded", &file, shown]);
    // As fsck says, so it is.
    let mount = store.mount(&[]);
    assert_eq!(errno(fs::read(mount.at("dir/file"))), Some(libc::EBADMSG));
    assert!(fs::read(mount.at("sparse")).is_ok());
}

/// A mount takes the first copy of `volume.json` that reads well, and refuses where its settings
/// do not verify; the command that it then names must be one that helps.
#[test]
fn a_changed_volume_file_is_mended_by_the_command_that_mount_names() {
    if skipped("fuse") {
        return;
    }
    let store = furnished(&[]);
    let file = store.path().join("volume.json");
    let good = fs::read_to_string(&file).expect("there");
    let changed = good.replacen("per-file", "branch", 1);
    assert_ne!(changed, good);
    fs::write(&file, changed).expect("changed");
    let told = fails(store.kmsfs().arg("mount").arg(store.path()).arg(store.mountpoint()), 3);
    assert!(told.contains("do not verify") && told.contains("fsck"), "{told}");
    run(&mut fsck(&store, &["--repair", "--yes"]));
    assert_eq!(fs::read_to_string(&file).expect("there"), good);
    let mount = store.mount(&[]);
    assert_eq!(fs::read(mount.at("dir/file")).expect("read"), vec![7; 300_000]);
}

/// A daemon that is killed leaves the lines of keys that no file took.
#[test]
fn what_a_killed_daemon_leaves_is_repaired_and_nothing_is_lost() {
    if skipped("fuse") {
        return;
    }
    let store = furnished(&[]);
    let mount = store.mount(&[]);
    fs::write(mount.at("more"), b"more").expect("written");
    let told = fails(&mut fsck(&store, &[]), 9);
    assert!(told.contains("another kmsfs has it mounted"), "{told}");
    let pid = i32::try_from(mount.pid()).expect("a process id");
    let pid = rustix::process::Pid::from_raw(pid).expect("not 0");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
    drop(mount);
    let (found, _, code) = findings(&store, &[]);
    assert_eq!(code, Some(0), "{found:?}");
    assert!(!found.is_empty() && found.iter().all(|f| f["what"] == "lines-unused"), "{found:?}");
    let (_, summary, code) = findings(&store, &["--repair", "--yes"]);
    assert_eq!((code, summary["repaired"].as_u64()), (Some(0), Some(found.len() as u64)));
    assert_eq!(words(&findings(&store, &[]).0), Vec::<String>::new());
    let mount = store.mount(&[]);
    assert_eq!(fs::read(mount.at("more")).expect("readable"), b"more");
    assert_eq!(fs::read(mount.at("dir/file")).expect("readable"), vec![7; 300_000]);
}

/// Root repairs a store of another user's: what is replaced must be that user's still, or their
/// daemon could not read its own keys.
#[test]
fn what_root_repairs_stays_its_owners() {
    if skipped("fuse") {
        return;
    }
    let store = furnished(&[]);
    let page = files(&store.path().join("keys")).remove(0);
    let line = fs::read_to_string(&page).expect("a page").lines().next().expect("one").to_owned();
    let slots = (0..64).map(|n| format!("{{\"slot\":{n},"));
    let text = fs::read_to_string(&page).expect("a page");
    let free = slots.into_iter().find(|slot| !text.contains(slot)).expect("one is");
    let rest = line.split_once(',').expect("members").1;
    fs::write(&page, format!("{text}{free}{rest}\n")).expect("written");
    fs::remove_file(store.path().join("volume.json.bak")).expect("there");
    run(Command::new("chown").args(["-R", "nobody:nogroup"]).arg(store.path()));
    let (_, summary, code) = findings(&store, &["--repair", "--yes"]);
    assert_eq!((code, summary["repaired"].as_u64()), (Some(0), Some(2)), "{summary}");
    let owners = |p: &PathBuf| fs::symlink_metadata(p).expect("there").uid();
    let all = files(&store.path());
    let nobody = owners(&store.path());
    assert!(nobody != 0 && all.contains(&store.path().join("volume.json.bak")));
    assert!(all.iter().all(|p| owners(p) == nobody));
}

#[test]
fn a_key_that_is_disabled_and_a_folder_that_is_no_store_have_their_codes() {
    if skipped("fuse") {
        return;
    }
    let store = furnished(&[]);
    store.key(&["disable", "alias/kmsfs"]);
    let told = fails(&mut fsck(&store, &[]), 5);
    assert!(told.contains("key enable"), "{told}");
    store.key(&["enable", "alias/kmsfs"]);
    run(&mut fsck(&store, &[]));
    let empty = store.outside("empty");
    fs::create_dir(&empty).expect("made");
    fails(store.kmsfs().arg("fsck").arg(&empty), 3);
}

/// Files under a key of the keystore that is disabled, while the volume's own is not: they are
/// told, and the rest is checked.
#[test]
fn files_under_another_key_that_is_disabled_are_told() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let [first, second] = crate::support::two_keys(&store);
    let mount = store.mount(&[]);
    fs::write(mount.at("old"), b"old").expect("written");
    mount.unmount();
    let page = files(&store.path().join("keys")).remove(0);
    let lines = fs::read(&page).expect("a page");
    run(store.kmsfs().arg("rewrap").arg(store.path()).args(["--to", &second]));
    fs::write(&page, lines).expect("put back");
    let mount = store.mount(&[]);
    fs::write(mount.at("new"), b"new").expect("written");
    mount.unmount();
    run(&mut fsck(&store, &[]));
    store.key(&["disable", &first]);
    let (found, _, code) = findings(&store, &[]);
    assert_eq!((words(&found), code), (vec!["key /old".to_owned()], Some(20)));
    assert!(found[0]["detail"].as_str().unwrap().contains(&first), "{found:?}");
}

/// A check writes nothing: it runs on a store that cannot be written, and tells of what is
/// mounted in it.
#[test]
fn a_store_that_cannot_be_written_is_checked() {
    if skipped("fuse") {
        return;
    }
    let tmpfs = Tmpfs::new("size=64m");
    let store = Store::unmade_in(tmpfs.path()).made(&[]);
    let mount = store.mount(&[]);
    furnish(&mount);
    mount.unmount();
    let remount = |how: &str| {
        run(Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(tmpfs.path()));
    };
    remount("ro");
    run(&mut fsck(&store, &[]));
    remount("rw");
    let folder = fs::read_dir(store.tree()).expect("listed").flatten().map(|e| e.path());
    let folder = folder.filter(|p| p.is_dir()).collect::<Vec<_>>();
    run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&folder[0]));
    let (found, _, code) = findings(&store, &["--repair", "--yes"]);
    run(Command::new("umount").arg(&folder[0]));
    let words = words(&found);
    assert!(words.contains(&"other-device /dir".to_owned()), "{words:?}");
    assert_eq!(code, Some(20));
    // The lines of what was hidden are there still.
    assert_eq!(findings(&store, &[]).2, Some(0));
}
