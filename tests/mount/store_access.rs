//! What whoever can write a store can do to its mount, and who can write it at all.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use libc::EBADMSG;
use serde_json::Value;

use crate::support::{
    PATIENCE, Store, errno, fails, files, kmsfs, run, skipped, two_keys, wait_for,
};

fn mounting(store: &Store) -> Command {
    let mut command = store.kmsfs();
    command.arg("mount").arg(store.path()).arg(store.mountpoint());
    command
}

fn set_mode(path: &PathBuf, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("set");
}

/// The mount's root and the store's folder were one: whoever could enter the mount could change
/// the tree beneath it, and had root's daemon follow a symlink of theirs.
#[test]
fn a_store_that_others_can_enter_is_not_mounted() {
    if skipped("fuse") {
        return;
    }
    let store = Store::unmade();
    fs::create_dir(store.path()).expect("made");
    set_mode(&store.path(), 0o755);
    let store = store.made(&[]);
    let mode = || fs::metadata(store.path()).expect("there").mode() & 0o7777;
    assert_eq!(mode(), 0o700, "init has closed it");
    for open in [0o755, 0o711, 0o750, 0o702] {
        set_mode(&store.path(), open);
        let said = fails(&mut mounting(&store), 4);
        let wanted = format!("chmod 700 {}", store.path().display());
        assert!(said.contains(&wanted) && said.contains(&format!("{open:04o}")), "{said}");
    }
    set_mode(&store.path(), 0o700);
    run(Command::new("chown").arg("nobody").arg(store.path()));
    let said = fails(&mut mounting(&store), 4);
    assert!(said.contains("can enter the store's folder"), "{said}");
    run(Command::new("chown").arg("root").arg(store.path()));
    // The mount's root is open to all, the store's folder is not.
    let mount = store.mount(&[]);
    assert_eq!(fs::metadata(mount.root()).expect("there").mode() & 0o7777, 0o755);
    set_mode(&mount.root(), 0o777);
    assert_eq!(
        (mode(), fs::metadata(store.tree()).expect("there").mode() & 0o7777),
        (0o700, 0o777)
    );
    let ls = |path: PathBuf| {
        let mut ls = Command::new("setpriv");
        ls.args(["--reuid=65534", "--regid=65534", "--clear-groups", "ls"]).arg(path);
        ls.output().expect("started").status.success()
    };
    // The folders above belong to root alone in this test.
    set_mode(&store.outside(""), 0o755);
    assert!(ls(mount.root()) && !ls(store.tree()) && !ls(store.path()));
}

/// Tells a store of the format that was never released, by what it looked like.
#[test]
fn a_store_of_format_1_is_refused_with_a_sentence() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join(".kmsfs")).expect("made");
    fs::write(folder.path().join(".kmsfs/volume.json"), "{}").expect("written");
    for verb in ["info", "fsck"] {
        let said = fails(kmsfs().arg(verb).arg(folder.path()), 3);
        assert!(said.contains("format 1"), "{said}");
    }
}

fn source(store: &Store) -> (Value, Value) {
    let text = fs::read_to_string(store.path().join("volume.json")).expect("readable");
    let file: Value = serde_json::from_str(&text).expect("JSON");
    let source = serde_json::from_str(file["source"].as_str().expect("text")).expect("JSON");
    (file, source)
}

/// Edits one word of where new data keys come from, as whoever can write the store can.
fn redirect(store: &Store, asked: &str, generation: u64) {
    for copy in ["volume.json", "volume.json.bak"] {
        let path = store.path().join(copy);
        let text = fs::read_to_string(&path).expect("readable");
        let (_, source) = source(store);
        let word = |name: &str, value: &str| format!("\\\"{name}\\\":{value}");
        let quoted = |value: &str| format!("\\\"{value}\\\"");
        let now = source["asked"].as_str().expect("text");
        let text = text.replace(&word("asked", &quoted(now)), &word("asked", &quoted(asked)));
        let now = source["generation"].to_string();
        let new = generation.to_string();
        let text = text.replace(&word("generation", &now), &word("generation", &new));
        fs::write(path, text).expect("written");
    }
}

/// A volume that was never mounted here is believed, also at a path where another one was.
#[test]
fn another_volume_at_its_path_is_refused_by_its_id() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let info = run(kmsfs().arg("info").arg(store.path()).args(["--output", "json"]));
    let info: Value = serde_json::from_str(&info).expect("JSON");
    let id = info["volume"].as_str().expect("an id");
    drop(store.mount(&["--volume", id]));
    let said = fails(mounting(&store).args(["--volume", &"0".repeat(32)]), 3);
    assert!(said.contains(id) && said.contains("--volume"), "{said}");
    fails(mounting(&store).args(["--volume", "x"]), 2);
}

fn lines_under(store: &Store, key: &str) -> usize {
    let text = files(&store.path().join("keys")).into_iter().map(fs::read_to_string);
    text.flatten().map(|text| text.lines().filter(|l| l.contains(key)).count()).sum()
}

/// One word edited in `volume.json` put all new data keys under another master key: beneath a
/// mount, before one, and with `--master-key` as well.
#[test]
fn an_edited_volume_json_redirects_no_data_key() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let [own, theirs] = two_keys(&store);
    let mount = store.mount(&["--heartbeat", "1s"]);
    fs::write(mount.at("before"), "x").expect("written");
    let keep = fs::read(store.path().join("volume.json")).expect("readable");
    redirect(&store, &theirs, 2);
    let report = |name: &str| mount.report()[name].clone();
    let (asked, beats) = (report("key_target"), report("beats").as_u64().expect("a count"));
    wait_for("more beats", PATIENCE, || report("beats").as_u64() > Some(beats + 2));
    run(kmsfs().arg("lock").arg(mount.root()));
    mount.wait_state("locked", PATIENCE);
    run(kmsfs().arg("unlock").arg(mount.root()));
    mount.wait_state("open", PATIENCE);
    // More than a pool holds.
    for n in 0..200 {
        fs::write(mount.at(&format!("f{n}")), "secret").expect("written");
    }
    assert_eq!(report("key_target"), asked);
    mount.unmount();
    assert_eq!(lines_under(&store, &theirs), 0);
    assert!(lines_under(&store, &own) > 200);

    let said = fails(&mut mounting(&store), 3);
    assert!(said.contains(&theirs) && said.contains("--master-key"), "{said}");
    let said = fails(mounting(&store).args(["--master-key", &own]), 5);
    assert!(said.contains("new data keys would come under"), "{said}");
    fs::write(store.path().join("volume.json"), keep).expect("put back");
    let mount = store.mount(&["--master-key", &own]);
    assert_eq!(fs::read_to_string(mount.at("f7")).expect("readable"), "secret");
}

/// A `volume.json` of before a rewrap, put back while the old key is enabled, had the mount beat
/// under that key, so that disabling the new one locked nothing.
#[test]
fn a_volume_json_of_before_a_rewrap_is_not_taken() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let [_, new] = two_keys(&store);
    let old = fs::read(store.path().join("volume.json")).expect("readable");
    let put_back = || {
        for copy in ["volume.json", "volume.json.bak"] {
            fs::write(store.path().join(copy), &old).expect("written");
        }
    };
    let mount = store.mount(&["--heartbeat", "1s"]);
    fs::write(mount.at("f"), "content").expect("written");
    run(kmsfs().arg("rewrap").arg(store.path()).args(["--to", &new]));
    let newer = fs::read(store.path().join("volume.json")).expect("readable");
    assert_eq!(source(&store).1["generation"], 2);
    put_back();
    let beats = mount.report()["beats"].as_u64().expect("a count");
    wait_for("more beats", PATIENCE, || mount.report()["beats"].as_u64() > Some(beats + 2));
    store.key(&["disable", &new]);
    mount.wait_state("revoked", PATIENCE);
    store.key(&["enable", &new]);
    mount.wait_state("open", PATIENCE);
    mount.unmount();
    let said = fails(&mut mounting(&store), 3);
    assert!(said.contains("generation 1") && said.contains("generation 2"), "{said}");
    fails(store.kmsfs().arg("cat").arg(store.path()).arg("f"), 3);
    fs::write(store.path().join("volume.json"), newer).expect("restored");
    let mount = store.mount(&[]);
    assert_eq!(fs::read_to_string(mount.at("f")).expect("readable"), "content");
}

/// Two files with one id, two directories with one: each could be moved into the other, unseen.
#[test]
fn what_shares_an_id_is_damaged_on_both_sides_and_keeps_its_key() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&["--names", "plain"]);
    let mount = store.mount(&[]);
    fs::write(mount.at("own"), "content").expect("written");
    fs::write(mount.at("other"), "else").expect("written");
    mount.unmount();
    fs::copy(store.tree().join("own"), store.tree().join("copy")).expect("copied");
    let mount = store.mount(&["--removed-key-grace", "0s"]);
    assert_eq!(fs::read_to_string(mount.at("own")).expect("alone"), "content");
    let own = File::open(mount.at("own")).expect("opened");
    assert_eq!(errno(fs::read(mount.at("copy"))), Some(EBADMSG));
    assert_eq!(errno(File::options().write(true).open(mount.at("own"))), Some(EBADMSG));
    assert_eq!(fs::read_to_string(mount.at("other")).expect("readable"), "else");
    fs::remove_file(mount.at("copy")).expect("removed");
    drop(own);
    mount.unmount();
    let mount = store.mount(&[]);
    let kept = fs::read_to_string(mount.at("own"));
    assert_eq!(kept.expect("its key is there, though a file with its id was removed"), "content");
    mount.unmount();

    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    for dir in ["a", "b", "c"] {
        fs::create_dir(mount.at(dir)).expect("made");
        fs::write(mount.at(dir).join("f"), dir).expect("written");
    }
    let inode = |name: &str| fs::metadata(mount.at(name)).expect("there").ino();
    let inodes = ["a", "b", "c"].map(inode);
    mount.unmount();
    let beneath = |ino: u64| {
        let all = fs::read_dir(store.tree()).expect("listed").flatten();
        let path = all.map(|e| e.path()).find(|p| fs::metadata(p).is_ok_and(|m| m.ino() == ino));
        path.expect("it has a name").join(".kmsfs.dir")
    };
    let [a, b, c] = inodes.map(beneath);
    fs::remove_file(&b).expect("there");
    symlink(fs::read_link(&a).expect("an id"), &b).expect("copied");
    fs::remove_file(&c).expect("there");
    symlink("0".repeat(32), &c).expect("the root's");
    let mount = store.mount(&[]);
    let read = |dir: &str| errno(fs::read_dir(mount.at(dir)).map(Iterator::count));
    assert_eq!(read("c"), Some(EBADMSG), "the root's id is the root's");
    assert_eq!((read("a"), read("b")), (None, Some(EBADMSG)));
    assert_eq!(read("a"), Some(EBADMSG), "once both are known");
}

/// What was cut to nothing took its next content under the id of before: whoever had put another
/// file's header there could move what was written.
#[test]
fn a_file_that_is_cut_to_nothing_takes_another_key() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&["--names", "plain"]);
    let mount = store.mount(&[]);
    let mut file = File::create(mount.at("f")).expect("made");
    file.write_all(b"the first content").expect("written");
    let id = || {
        let mut header = [0; 24];
        let raw = File::open(store.tree().join("f")).expect("there");
        raw.read_exact_at(&mut header, 0).expect("a header");
        header
    };
    let first = id();
    file.write_all_at(b"THE", 0).expect("overwritten");
    file.set_len(3).expect("cut, but not to nothing");
    assert_eq!(id(), first);
    file.set_len(0).expect("cut");
    file.write_all_at(b"the second content", 0).expect("written");
    assert_ne!(id(), first);
    let second = id();
    fs::write(mount.at("f"), "the third").expect("written");
    assert!(id() != first && id() != second);
    file.sync_all().expect("synced");
    drop(file);
    assert_eq!(fs::read_to_string(mount.at("f")).expect("readable"), "the third");
    mount.unmount();
    let mount = store.mount(&[]);
    assert_eq!(fs::read_to_string(mount.at("f")).expect("readable"), "the third");
}
