//! Reaching a mount: whatever it is called, wherever it is seen, whatever version runs it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kmsfs::control::{self, Answer, Ask, Target};
use kmsfs::disk::DeviceNumber;
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    PATIENCE, Store, apart, errno, fails, kmsfs, run, skipped, two_keys, wait_for,
};

/// The exit code of `status`.
fn status(at: &Path) -> Option<i32> {
    kmsfs().arg("status").arg(at).output().expect("started").status.code()
}

fn verb(verb: &str, at: &Path) {
    run(kmsfs().arg(verb).arg(at));
}

/// The socket of root's mount.
fn socket(at: &Path) -> PathBuf {
    let number = DeviceNumber::mounted_at(at).expect("there").expect("a mountpoint");
    Path::new("/run/kmsfs").join(format!("{number}.sock"))
}

/// Unmounts a folder when dropped: by its daemon, which may be elsewhere, and by the kernel.
pub(super) struct Detached(pub(super) PathBuf);

impl Drop for Detached {
    fn drop(&mut self) {
        let _ = kmsfs().arg("unmount").arg(&self.0).stderr(Stdio::null()).status();
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).stderr(Stdio::null()).status();
    }
}

#[test]
fn a_mount_is_reached_by_each_of_its_names() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let (folder, link) = (store.outside("folder"), store.outside("link"));
    fs::create_dir_all(folder.join("at")).expect("made");
    fs::create_dir(folder.join("below")).expect("made");
    std::os::unix::fs::symlink(&folder, &link).expect("made");
    // Made through a link and `..`, as in `/home`, which leads to `/var/home`.
    let typed = link.join("below/../at");
    let real = folder.join("at");
    let _mount = Detached(real.clone());
    run(kmsfs().arg("mount").arg(store.path()).arg(&typed));
    fs::write(real.join("file"), b"x").expect("written");
    let by_name = link.join("at");
    for name in [&real, &by_name, &typed] {
        assert_eq!(status(name), Some(0), "{name:?}");
        verb("lock", name);
        assert_eq!(errno(fs::read(real.join("file"))), Some(libc::ENOKEY), "{name:?}");
        verb("unlock", name);
    }
    // Whoever owns a folder on the way could point a link elsewhere at any moment.
    let said = fails(kmsfs().args(["shred", "--yes"]).arg(by_name.join("file")), 2);
    assert!(said.contains(&*real.join("file").to_string_lossy()), "{said}");
    fs::read(real.join("file")).expect("untouched");
    run(kmsfs().args(["shred", "--yes"]).arg(real.join("file")));
    verb("unmount", &by_name);
    assert_eq!(status(&real), Some(8));
}

/// The second took the first's socket, and the first could not be locked any more.
#[test]
fn two_mounts_of_copies_of_one_store_are_locked_each() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let first = store.mount(&[]);
    first_file(&first.root());
    let (copy, at) = (store.outside("copy"), store.outside("second"));
    run(Command::new("cp").arg("-a").arg(store.path()).arg(&copy));
    fs::create_dir(&at).expect("made");
    let _mount = Detached(at.clone());
    run(kmsfs().arg("mount").arg(&copy).arg(&at));
    verb("lock", &first.root());
    assert_eq!((status(&first.root()), status(&at)), (Some(10), Some(0)));
    verb("unlock", &first.root());
    verb("lock", &at);
    assert_eq!((status(&first.root()), status(&at)), (Some(0), Some(10)));
    verb("unmount", &at);
    assert_eq!(status(&first.root()), Some(0));
}

fn first_file(at: &Path) {
    fs::write(at.join("file"), b"content").expect("written");
}

#[test]
fn a_mountpoint_need_not_be_text() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let at = store.outside("x").with_file_name(OsString::from_vec(b"m\xff\xfe t".to_vec()));
    fs::create_dir(&at).expect("made");
    let _mount = Detached(at.clone());
    run(kmsfs().arg("mount").arg(store.path()).arg(&at));
    first_file(&at);
    assert!(at.as_os_str().as_bytes().contains(&0xff));
    verb("lock", &at);
    assert_eq!(status(&at), Some(10));
    verb("unmount", &at);
    assert_eq!(status(&at), Some(8));
}

/// Mounts a store in a mount namespace of its own.
pub(super) fn mount_apart(store: &Store) {
    let mut mounts = apart::program(env!("CARGO_BIN_EXE_kmsfs"));
    mounts.arg("mount").arg(store.path()).arg(store.mountpoint());
    run(mounts.env("KMSFS_CONFIG", "").env("XDG_STATE_HOME", store.outside("state")));
}

/// What was found by a socket's name was unmounted, or locked, by that name a moment later: when it
/// had ended meanwhile, the next mount had the name, and was unmounted in its place.
#[test]
fn a_mount_that_has_ended_is_not_taken_for_the_next_one() {
    if skipped("fuse") {
        return;
    }
    assert!((0..20).any(|_| next_mount_is_not_meant()), "no mount was given a number again");
}

/// False where the next mount has a number of its own.
fn next_mount_is_not_meant() -> bool {
    let (store, next) = (Store::new(&[]), Store::new(&[]));
    let _mount = Detached(store.mountpoint());
    mount_apart(&store);
    let found = control::at(&store.mountpoint()).expect("listed");
    let [ended] = &found[..] else { panic!("{found:?}") };
    let Target::Elsewhere { socket, .. } = ended else { panic!("{found:?}") };
    assert!(matches!(ended.ask(Ask::Status), Ok(Some(Answer::Report { .. }))));
    verb("unmount", &store.mountpoint());
    let second = next.mount(&[]);
    let has_name = self::socket(&second.root()) == *socket;
    if has_name {
        assert!(matches!(ended.ask(Ask::Lock), Ok(None)), "another daemon has taken it for itself");
        assert_eq!(second.state(), "open");
        if let Some(process) = ended.process() {
            assert!(control::has_ended(&process, 0), "it is another daemon's");
        }
    }
    second.unmount();
    has_name
}

/// A service with a mount namespace of its own (PrivateMounts=) mounts what nobody else sees.
#[test]
fn a_mount_in_another_mount_namespace_is_reached() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let at = store.mountpoint();
    let _mount = Detached(at.clone());
    mount_apart(&store);
    let listed = String::from_utf8(kmsfs().arg("status").output().expect("started").stdout);
    let named = status(&at);
    verb("lock", &at);
    let locked = status(&at);
    let free = store.outside("free");
    fs::create_dir(&free).expect("made");
    fails(kmsfs().arg("mount").arg(store.path()).arg(&free), 9);
    verb("unlock", &at);
    verb("unmount", &at);
    assert!(listed.expect("text").contains(&*at.to_string_lossy()));
    assert_eq!((named, locked), (Some(0), Some(10)));
    assert_eq!(status(&at), Some(8));
}

/// A daemon that hangs was waited for until the time for all of them was over: those whose sockets
/// were listed behind its own were mounted nowhere, said `lock`.
#[test]
fn a_daemon_that_hangs_hides_no_mount_of_another_namespace() {
    if skipped("fuse") {
        return;
    }
    let stores = [(); 3].map(|()| Store::new(&[]));
    let _mounts = stores.each_ref().map(|store| Detached(store.mountpoint()));
    stores.iter().for_each(mount_apart);
    let daemon = |store: &Store| {
        let told =
            kmsfs().arg("status").arg(store.mountpoint()).args(["--output", "json"]).output();
        let report: serde_json::Value =
            serde_json::from_slice(&told.expect("started").stdout).expect("a report");
        report["pid"].as_u64().expect("a process id")
    };
    let daemons = stores.each_ref().map(daemon);
    // In whatever order their sockets are listed, one that hangs comes first at some time.
    for (n, store) in stores.iter().enumerate() {
        let others = daemons.iter().enumerate().filter(|(other, _)| *other != n);
        let hang: Vec<_> = others.map(|(_, process)| Stopped::new(*process)).collect();
        verb("lock", &store.mountpoint());
        drop(hang);
        assert_eq!(status(&store.mountpoint()), Some(10));
    }
}

/// umount(8) returns before the daemon has ended.
#[test]
fn a_store_is_mounted_right_after_it_was_unmounted() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let _mount = Detached(store.mountpoint());
    for n in 0..5 {
        let mount = store.mount(&[]);
        for file in 0..200 {
            fs::write(mount.at(&format!("f{n}-{file}")), b"content").expect("written");
        }
        run(Command::new("umount").arg(mount.root()));
        std::mem::forget(mount);
    }
    assert_eq!(fs::read_dir(store.mount(&[]).root()).expect("listed").count(), 1000);
}

/// A process that stands still until this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn new(pid: u64) -> Self {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process");
        kill_process(pid, Signal::STOP).expect("it runs");
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// The kernel gives the number of a mount that has ended to the next one. A daemon that was told
/// to unmount while it tidied up unmounted that one.
#[test]
fn a_daemon_that_outlives_its_mount_leaves_the_next_mount_alone() {
    if skipped("fuse") {
        return;
    }
    // Other tests mount, too, and may be given the number first.
    assert!((0..20).any(|_| next_mount_is_left_alone()), "no mount was given a number again");
}

/// False where the next mount has a number of its own.
fn next_mount_is_left_alone() -> bool {
    let (store, next) = (Store::new(&[]), Store::new(&[]));
    let first = store.mount(&[]);
    let number = |at: &Path| fs::metadata(at).expect("mounted").dev();
    let given = number(&first.root());
    let daemon = Stopped::new(first.pid());
    wait_for("an unmount", PATIENCE, || {
        rustix::mount::unmount(first.root(), UnmountFlags::empty()).is_ok()
    });
    std::mem::forget(first);
    let second = next.mount(&[]);
    if number(&second.root()) != given {
        return false;
    }
    let pid = daemon.0;
    kill_process(pid, Signal::TERM).expect("it stands still");
    drop(daemon);
    let process = format!("/proc/{}", pid.as_raw_pid());
    wait_for("the end of the first daemon", PATIENCE, || !Path::new(&process).exists());
    assert_eq!(second.state(), "open");
    second.unmount();
    true
}

/// The kernel answered for the dead mount out of its cache, and the new daemon took it for one that
/// is served: a service never came back.
#[test]
fn a_mount_takes_the_place_of_one_whose_daemon_was_killed() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    first_file(&mount.root());
    fs::File::open(mount.at("file")).and_then(|f| f.sync_all()).expect("synced");
    let pid = i32::try_from(mount.pid()).ok().and_then(Pid::from_raw).expect("a process");
    kill_process(pid, Signal::KILL).expect("it is ours");
    fs::metadata(mount.root()).expect("the kernel has cached it");
    run(store.kmsfs().arg("mount").arg(store.path()).arg(mount.root()));
    assert_eq!(fs::read(mount.at("file")).expect("readable"), b"content");
    assert_eq!(mount.state(), "open");
}

#[test]
fn a_hangup_does_not_unmount() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    first_file(&mount.root());
    let log = format!("/run/kmsfs/{}.log", mount.report()["volume"].as_str().expect("an id"));
    let pid = i32::try_from(mount.pid()).ok().and_then(Pid::from_raw);
    kill_process(pid.expect("a process"), Signal::HUP).expect("it is ours");
    let said = || fs::read_to_string(&log).is_ok_and(|l| l.contains("SIGHUP does nothing"));
    wait_for("a line in the log", PATIENCE, said);
    assert_eq!(fs::read(mount.at("file")).expect("readable"), b"content");
}

/// Without a descriptor to spare the server span.
#[test]
fn a_daemon_without_descriptors_answers_later() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    let report = mount.report();
    let log = format!("/run/kmsfs/{}.log", report["volume"].as_str().expect("an id"));
    let pid = mount.pid();
    let limit = |n: &str| {
        let nofile = format!("--nofile={n}:");
        run(Command::new("prlimit").args(["--pid", &pid.to_string(), &nofile]));
    };
    let before = run(Command::new("prlimit").args([
        "--pid",
        &pid.to_string(),
        "--nofile",
        "--raw",
        "--noheadings",
        "--output=SOFT",
    ]));
    limit("3");
    let asking = kmsfs().arg("status").arg(mount.root()).stdout(Stdio::piped()).spawn();
    let lines = || {
        let log = fs::read_to_string(&log).unwrap_or_default();
        log.lines().filter(|l| l.contains("cannot accept connections")).count()
    };
    wait_for("a line in the log", PATIENCE, || lines() > 0);
    limit(before.trim());
    let answer = asking.expect("started").wait_with_output().expect("ended");
    assert!(answer.status.success());
    assert!(lines() < 100, "{} lines", lines());
}

/// A daemon of another version: it answers each question with what it says, and keeps those.
struct Other {
    socket: PathBuf,
    aside: PathBuf,
}

impl Other {
    /// In the place of the daemon of a mount.
    fn instead(at: &Path, answers: &'static [(&'static str, &'static str)]) -> Self {
        let socket = socket(at);
        let aside = socket.with_extension("aside");
        fs::rename(&socket, &aside).expect("moved");
        let listener = UnixListener::bind(&socket).expect("bound");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut asked = String::new();
                let _ = BufReader::new(&stream).read_line(&mut asked);
                let asked: serde_json::Value = serde_json::from_str(&asked).unwrap_or_default();
                let answer = answers.iter().find(|(ask, _)| asked["ask"] == *ask);
                let _ = (&stream).write_all(answer.map_or("{}", |a| a.1).as_bytes());
                let _ = (&stream).write_all(b"\n");
            }
        });
        Self { socket, aside }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = fs::rename(&self.aside, &self.socket);
    }
}

/// What a daemon of a later version answers: fields more, fields fewer, fields of another form.
const LATER: &[(&str, &str)] = &[
    ("lock", r#"{"version":7,"answer":"done","took_ms":12}"#),
    ("unlock", r#"{"version":7,"answer":"failed","why":"not before Monday","until":"Monday"}"#),
    (
        "status",
        r#"{"version":7,"answer":"report","report":{"version":"7.1.0","state":"locked",
        "mountpoint":"/somewhere","store":"/store","volume":"v","weather":{"sun":true},
        "kms_calls":{"Decrypt":7},"lines":"many"}}"#,
    ),
];

#[test]
fn a_daemon_of_a_later_version_is_asked_and_locked() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    let later: &'static [_] = Box::leak(
        LATER.iter().map(|(ask, said)| (*ask, &*said.replace('\n', " ").leak())).collect(),
    );
    let other = Other::instead(&mount.root(), later);
    verb("lock", &mount.root());
    let said = fails(kmsfs().arg("unlock").arg(mount.root()), 1);
    assert!(said.contains("not before Monday"), "{said}");
    let told = kmsfs().arg("status").arg(mount.root()).output().expect("started");
    assert_eq!(told.status.code(), Some(10));
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("/somewhere: locked") && told.contains("7.1.0 runs it"), "{told}");
    drop(other);
    verb("unmount", &mount.root());
    std::mem::forget(mount);
    assert_eq!(status(&store.mountpoint()), Some(8));
}

#[test]
fn a_command_of_a_later_version_is_followed() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    let say = |line: &str| {
        let mut stream = UnixStream::connect(socket(&mount.root())).expect("connected");
        stream.write_all(line.as_bytes()).and_then(|()| stream.write_all(b"\n")).expect("asked");
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).expect("answered");
        serde_json::from_str::<serde_json::Value>(&answer).expect("JSON")
    };
    assert_eq!(say(r#"{"version":7,"ask":"lock","because":{"of":[1]}}"#)["answer"], "done");
    mount.wait_state("locked", PATIENCE);
    let report = &say(r#"{"ask":"status"}"#)["report"];
    for field in ["state", "mountpoint", "store", "volume"] {
        assert!(report[field].is_string(), "{field} is part of what does not change");
    }
    let dance = say(r#"{"version":7,"ask":"dance"}"#);
    assert_eq!(dance["answer"], "failed");
    assert!(dance["why"].as_str().is_some_and(|why| why.contains(env!("CARGO_PKG_VERSION"))));
    assert_eq!(say(r#"{"version":7,"ask":"unlock"}"#)["answer"], "done");
    mount.wait_state("open", PATIENCE);
}

/// With another volume's `volume.json` in its place, a locked mount opened as that volume.
#[test]
fn a_locked_mount_opens_as_no_other_volume() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let other = store.outside("other");
    run(kmsfs().arg("init").arg(&other).arg("--keystore").arg(store.keystore()));
    let mount = store.mount(&["--heartbeat", "1s"]);
    first_file(&mount.root());
    verb("lock", &mount.root());
    let (own, copy) = (store.path().join("volume.json"), store.outside("volume.json"));
    fs::copy(&own, &copy).expect("copied");
    fs::copy(other.join("volume.json"), &own).expect("replaced");
    let unlocking = kmsfs().arg("unlock").arg(mount.root()).spawn();
    let log = format!("/run/kmsfs/{}.log", mount.report()["volume"].as_str().expect("an id"));
    let said = || fs::read_to_string(&log).is_ok_and(|l| l.contains("that of another volume"));
    wait_for("a line in the log", PATIENCE, said);
    assert!(mount.state() != "open" && fs::read(mount.at("file")).is_err());
    fs::copy(&copy, &own).expect("restored");
    assert!(unlocking.expect("started").wait().expect("ended").success());
    assert_eq!(fs::read(mount.at("file")).expect("readable"), b"content");
}

/// An empty XDG_STATE_HOME was the current folder: the fingerprint that a mount is compared with
/// was another one in each.
#[test]
fn empty_and_relative_base_folders_count_as_unset() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let (home, current) = (store.outside("home"), store.outside("current"));
    [&home, &current].iter().for_each(|dir| fs::create_dir(dir).expect("made"));
    for none in ["", "state", "./state"] {
        let _mount = Detached(store.mountpoint());
        let mut mount = kmsfs();
        mount.env("HOME", &home).env("XDG_STATE_HOME", none).current_dir(&current);
        run(mount.arg("mount").arg(store.path()).arg(store.mountpoint()));
        verb("unmount", &store.mountpoint());
        assert_eq!(fs::read_dir(&current).expect("listed").count(), 0, "{none:?}");
        let known = home.join(".local/state/kmsfs/volumes");
        assert_eq!(fs::read_dir(known).expect("made").count(), 1, "{none:?}");
    }
}

#[test]
fn a_heartbeat_is_not_too_short() {
    let store = Store::new(&[]);
    let _mount = Detached(store.mountpoint());
    for short in ["0", "1ms", "999ms"] {
        let mut mount = store.kmsfs();
        mount.arg("mount").arg(store.path()).arg(store.mountpoint());
        let said = fails(mount.args(["--heartbeat", short]), 2);
        assert!(said.contains("at least 1s"), "{said}");
    }
}

#[test]
fn the_options_of_a_family_stand_before_and_after_its_verb() {
    let store = Store::new(&[]);
    let keystore = store.keystore();
    let key = |args: &[&OsStr]| run(kmsfs().arg("key").args(args));
    let (option, alias) = (OsStr::new("--keystore"), OsStr::new("alias/kmsfs"));
    let [disable, enable, list] = ["disable", "enable", "list"].map(OsStr::new);
    key(&[disable, alias, option, keystore.as_os_str()]);
    assert!(key(&[list, option, keystore.as_os_str()]).contains("Disabled"));
    key(&[option, keystore.as_os_str(), enable, alias]);
    assert!(key(&[option, keystore.as_os_str(), list]).contains("Enabled"));
    let backup = store.outside("backup");
    run(kmsfs().args(["keystore", "backup"]).arg(&backup).arg(option).arg(&keystore));
    run(kmsfs().args(["policy", "test"]).arg(store.path()).arg(option).arg(&backup));
    run(kmsfs().arg("policy").arg(option).arg(&backup).arg("test").arg(store.path()));
}

/// A mount that accepts one master key alone accepts no other after a lock either, and a rewrap to
/// another says so before it begins.
#[test]
fn a_pinned_master_key_stays_pinned() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let [first, second] = two_keys(&store);
    let mount = store.mount(&["--heartbeat", "1s", "--master-key", &first]);
    let rewrap = || {
        let mut rewrap = kmsfs();
        rewrap.arg("rewrap").arg(store.path()).args(["--to", &second]);
        rewrap
    };
    let said = fails(&mut rewrap(), 9);
    assert!(said.contains(&first) && said.contains("--master-key"), "{said}");
    // Rewrapped elsewhere, as where the disk is shared, and put in place while it is locked.
    let copy = store.outside("copy");
    run(Command::new("cp").arg("-a").arg(store.path()).arg(&copy));
    run(kmsfs().arg("rewrap").arg(&copy).args(["--to", &second]));
    verb("lock", &mount.root());
    let own = store.path().join("volume.json");
    fs::copy(copy.join("volume.json"), &own).expect("replaced");
    let mut unlocking = kmsfs().arg("unlock").arg(mount.root()).spawn().expect("started");
    let log = format!("/run/kmsfs/{}.log", mount.report()["volume"].as_str().expect("an id"));
    let said = || fs::read_to_string(&log).is_ok_and(|l| l.contains("which --master-key names"));
    wait_for("a line in the log", PATIENCE, said);
    assert!(mount.state() != "open");
    let _ = unlocking.kill();
    let _ = unlocking.wait();
}
