//! What other users of the machine can do to root's commands: mounts under the names of stores
//! that are not theirs, and sockets that answer what they like.

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kmsfs::disk::DeviceNumber;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::support::{Mount, PATIENCE, Store, apart, kmsfs, run, skipped, two_keys, wait_for};

/// Anybody but root.
const STRANGER: u32 = 65_534;

/// A mount of the stranger's, as fusermount3 makes it, that nobody serves.
struct Fake {
    at: PathBuf,
    _device: File,
}

impl Fake {
    fn new(at: PathBuf, store: &Path) -> Self {
        fs::create_dir(&at).expect("made");
        let device = File::options().read(true).write(true).open("/dev/fuse").expect("opened");
        let fd = device.as_raw_fd();
        let data = format!("fd={fd},rootmode=40000,user_id={STRANGER},group_id={STRANGER}\0");
        let data = std::ffi::CStr::from_bytes_with_nul(data.as_bytes()).expect("no NUL");
        rustix::mount::mount(store, &at, "fuse.kmsfs", MountFlags::empty(), data).expect("mounted");
        Self { at, _device: device }
    }

    fn socket_name(&self) -> String {
        let number = DeviceNumber::mounted_at(&self.at).expect("there").expect("a mountpoint");
        format!("{number}.sock")
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.at, UnmountFlags::DETACH);
    }
}

/// A filesystem of the stranger's, open to all, that reads what it is asked and does not answer.
struct Swallowing {
    at: PathBuf,
    asked: Arc<AtomicUsize>,
}

impl Swallowing {
    fn over(at: &Path) -> Self {
        let mut device = File::options().read(true).write(true).open("/dev/fuse").expect("opened");
        let fd = device.as_raw_fd();
        let ids = format!("user_id={STRANGER},group_id={STRANGER}");
        let data = format!("fd={fd},rootmode=40000,{ids},allow_other\0");
        let data = std::ffi::CStr::from_bytes_with_nul(data.as_bytes()).expect("no NUL");
        rustix::mount::mount("x", at, "fuse.x", MountFlags::empty(), data).expect("mounted");
        // FUSE_INIT, and an answer to it: struct fuse_out_header and fuse_init_out.
        let mut request = vec![0; 1 << 17];
        let length = device.read(&mut request).expect("a request");
        assert!(length > 16, "a whole header");
        let mut answer = [0; 16 + 64];
        answer[..4].copy_from_slice(&80_u32.to_ne_bytes());
        answer[8..16].copy_from_slice(&request[8..16]);
        for (at, word) in [(16, 7_u32), (20, 31), (24, 4096), (36, 4096), (40, 1)] {
            answer[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        }
        device.write_all(&answer).expect("answered");
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        std::thread::spawn(move || {
            // Closed then, which lets whoever waits go on: only a test that fails comes here.
            if device.read(&mut request).is_ok() {
                count.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(PATIENCE / 20);
            }
        });
        Self { at: at.to_owned(), asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Swallowing {
    fn drop(&mut self) {
        // Whoever waits for an answer is let go.
        let _ = rustix::mount::unmount(&self.at, UnmountFlags::FORCE);
        let _ = rustix::mount::unmount(&self.at, UnmountFlags::DETACH);
    }
}

/// What a stranger's socket does with a connection.
#[derive(Clone, Copy)]
enum Manner {
    /// Answers with this line.
    Says(&'static str),
    /// Sends bytes, and no end of a line.
    Endless,
    /// A byte a second.
    Dribbles,
    /// Nothing.
    Silent,
}

/// A process of the stranger's that listens; how often somebody connected.
struct Listening(Arc<AtomicUsize>);

impl Listening {
    fn at(folder: &Path, name: &str, manner: Manner) -> Self {
        let (count, path) = (Arc::new(AtomicUsize::new(0)), folder.join(name));
        let (counted, folder) = (count.clone(), folder.to_owned());
        let (told, ready) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            // This thread alone is the stranger's, and the socket is of who calls listen(2).
            rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(STRANGER)).expect("root");
            if !folder.exists() {
                fs::create_dir(&folder).expect("made");
                fs::set_permissions(&folder, Permissions::from_mode(0o700)).expect("closed");
            }
            let listener = UnixListener::bind(&path).expect("bound");
            told.send(()).expect("awaited");
            let mut kept = Vec::new();
            for stream in listener.incoming().flatten() {
                counted.fetch_add(1, Ordering::SeqCst);
                match manner {
                    Manner::Silent => kept.push(stream),
                    _ => drop(std::thread::spawn(move || serve(&stream, manner))),
                }
            }
        });
        ready.recv().expect("listening");
        Self(count)
    }

    fn connections(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

fn serve(mut stream: &UnixStream, manner: Manner) {
    let _ = BufReader::new(stream).read_line(&mut String::new());
    match manner {
        Manner::Says(line) => {
            let _ = stream.write_all(line.as_bytes()).and_then(|()| stream.write_all(b"\n"));
        }
        Manner::Endless => while stream.write_all(&[b'x'; 65_536]).is_ok() {},
        Manner::Dribbles => {
            while stream.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_secs(1));
            }
        }
        Manner::Silent => {}
    }
}

/// A folder for everybody, as /tmp is, and the stranger's folder of sockets in it.
fn temporary(store: &Store) -> (PathBuf, PathBuf) {
    let all = store.outside("tmp");
    fs::create_dir(&all).expect("made");
    fs::set_permissions(&all, Permissions::from_mode(0o1777)).expect("opened");
    let to_there = all.parent().expect("a folder");
    fs::set_permissions(to_there, Permissions::from_mode(0o755)).expect("opened");
    (all.clone(), all.join(format!("kmsfs-{STRANGER}")))
}

/// A command that has to end by itself.
fn ended(command: &mut Command) -> (Option<i32>, String, String) {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
    let mut child = Killed(child);
    wait_for("its end", PATIENCE, || child.0.try_wait().expect("a child").is_some());
    let text = |from: Option<&mut dyn std::io::Read>| {
        let mut text = String::new();
        from.expect("piped").read_to_string(&mut text).expect("text");
        text
    };
    let out = text(child.0.stdout.as_mut().map(|o| o as _));
    let err = text(child.0.stderr.as_mut().map(|o| o as _));
    (child.0.wait().expect("it ended").code(), out, err)
}

/// Killed when dropped: a test that fails leaves no command behind.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn status(temporary: &Path) -> Command {
    let mut command = kmsfs();
    command.env("TMPDIR", temporary).arg("status");
    command
}

/// A rewrap asked the first mount that bears the store's name, and took a stranger's word for it
/// that new keys come under the new master key.
#[test]
fn a_strangers_mount_under_a_stores_name_is_not_asked() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let [_, second] = two_keys(&store);
    let (tmp, sockets) = temporary(&store);
    let mount = store.mount(&["--heartbeat", "1s"]);
    // Moved to the end of the list of mounts, behind the fake one, as after a remount.
    let fake = Fake::new(store.outside("fake"), &store.path());
    mount.unmount();
    let mount = store.mount(&["--heartbeat", "1s"]);
    let says = Manner::Says(r#"{"version":1,"answer":"done"}"#);
    let listening = Listening::at(&sockets, &fake.socket_name(), says);

    run(kmsfs().env("TMPDIR", &tmp).arg("rewrap").arg(store.path()).args(["--to", &second]));
    let report = mount.report();
    assert!(report["master_key"].as_str().expect("an ARN").ends_with(&second), "{report}");

    let (code, out, err) = ended(&mut status(&tmp));
    assert!(err.contains("passed over") && err.contains(&*fake.at.to_string_lossy()), "{err}");
    assert!(!out.contains(&*fake.at.to_string_lossy()), "{code:?} {out}");
    let (code, _, err) = ended(status(&tmp).arg(&fake.at));
    assert!(code == Some(8) && err.contains("is not theirs"), "{code:?} {err}");
    let (code, ..) = ended(kmsfs().env("TMPDIR", &tmp).arg("lock").arg(&fake.at));
    assert_eq!(code, Some(8));
    run(kmsfs().env("TMPDIR", &tmp).arg("unmount").arg(&fake.at));
    assert_eq!(listening.connections(), 0, "a stranger was asked");
    assert_eq!(mount.state(), "open");
}

/// Where the store is the stranger's, the stranger is asked: for as long, and for as many bytes, as
/// the command says.
#[test]
fn what_a_stranger_answers_is_bounded_and_steers_no_terminal() {
    if skipped("fuse") {
        return;
    }
    let hostile = concat!(
        r#"{"answer":"report","report":{"state":"\u001b[2J\u009bopen","mountpoint":"/\nx: open","#,
        r#""store":"\u001b]0;t\u0007","volume":"v"}}"#
    );
    let manners = [Manner::Endless, Manner::Dribbles, Manner::Silent, Manner::Says(hostile)];
    for manner in manners {
        let store = Store::unmade();
        let (tmp, sockets) = temporary(&store);
        fs::create_dir(store.path()).expect("made");
        chown(store.path(), Some(STRANGER), None).expect("given away");
        let fake = Fake::new(store.outside("fake"), &store.path());
        let listening = Listening::at(&sockets, &fake.socket_name(), manner);
        let (code, out, err) = ended(status(&tmp).arg(&fake.at));
        assert!(listening.connections() > 0 && code != Some(0), "{code:?} {out} {err}");
        for text in [out, err] {
            let steers = |c: char| c != '\n' && c.is_control();
            assert!(!text.contains(steers) && !text.contains("\nx: open"), "{text:?}");
        }
    }
}

/// Who waits for an answer of a FUSE filesystem's process can't be killed. Such filesystems of
/// strangers' lie behind the stores that their mounts name and over their folders of sockets.
#[test]
fn a_filesystem_of_a_strangers_is_not_entered() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    let (tmp, sockets) = temporary(&store);
    let _listening = Listening::at(&sockets, "0:999998.sock", Manner::Says("x"));
    std::thread::scope(|scope| {
        let apart = scope.spawn(|| {
            apart::this_thread(&store.outside(""));
            enter_nothing_of_a_strangers(&store, &mount, &tmp);
        });
        apart.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

fn enter_nothing_of_a_strangers(store: &Store, mount: &Mount<'_>, tmp: &Path) {
    let folder = |name: &str| {
        let path = store.outside(name);
        fs::create_dir(&path).expect("made");
        path
    };
    let (behind, link) = (folder("behind"), store.outside("link"));
    std::os::unix::fs::symlink(&behind, &link).expect("linked");
    let named = Fake::new(store.outside("named"), &behind.join("store"));
    let linked = Fake::new(store.outside("linked"), &link.join("store"));
    let others = tmp.join("kmsfs-65533");
    fs::create_dir(&others).expect("made");
    let swallow = [behind, others].map(|at| Swallowing::over(&at));
    let asked = || swallow.iter().map(Swallowing::asked).sum::<usize>();
    let within = |verb: &str, target: &Path| {
        let mut command = kmsfs();
        command.env("TMPDIR", tmp).arg(verb).arg(target);
        if verb == "rewrap" {
            command.args(["--to", "alias/kmsfs"]);
        }
        let (code, _, err) = ended(&mut command);
        assert_eq!(asked(), 0, "{verb} {}: {err}", target.display());
        code
    };
    let (_, out, err) = ended(&mut status(tmp));
    assert!(out.contains(&*store.mountpoint().to_string_lossy()), "{out} {err}");
    assert_eq!(asked(), 0, "status: {err}");
    for fake in [&named, &linked] {
        assert_eq!(within("status", &fake.at), Some(8));
        assert_eq!(within("lock", &fake.at), Some(8));
    }
    assert_eq!(within("rewrap", &store.path()), Some(0));
    assert_eq!(within("info", &store.path()), Some(0));
    assert_eq!(within("lock", &mount.root()), Some(0));
}

/// A mount elsewhere is found by its socket: one in a folder that its user does not own is nobody's.
#[test]
fn a_socket_in_anothers_folder_is_nobodys() {
    if skipped("fuse") {
        return;
    }
    let store = Store::unmade();
    let (tmp, sockets) = temporary(&store);
    let claimed = store.outside("claimed");
    let report = format!(
        r#"{{"answer":"report","report":{{"state":"open","mountpoint":"{}","store":"{}","volume":"v"}}}}"#,
        claimed.display(),
        store.outside("tmp").display()
    );
    // Root owns the store that is named: the stranger is not believed about it.
    let listening = Listening::at(&sockets, "0:999999.sock", Manner::Says(report.leak()));
    let (code, out, _) = ended(status(&tmp).arg(&claimed));
    assert_eq!((code, out.as_str()), (Some(8), ""));
    assert_eq!(listening.connections(), 1, "asked what it serves, and not believed");
    // Root's folder under the stranger's number.
    chown(&sockets, Some(0), None).expect("taken");
    let (code, ..) = ended(status(&tmp).arg(&claimed));
    assert_eq!(code, Some(8));
    assert_eq!(listening.connections(), 1, "asked at another's folder");
}

/// Under sudo(8) HOME may be the caller's, who can put links where root writes.
#[test]
fn another_users_home_is_not_roots() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let home = store.outside("home");
    fs::create_dir(&home).expect("made");
    chown(&home, Some(STRANGER), None).expect("given away");
    let mount = || {
        let mut mount = kmsfs();
        mount.env_remove("XDG_STATE_HOME").env("HOME", &home);
        mount.arg("mount").arg(store.path()).arg(store.mountpoint());
        mount
    };
    run(&mut mount());
    let mounted = store.mounted();
    let volume = mounted.report()["volume"].as_str().expect("an id").to_owned();
    let known = Path::new("/var/lib/kmsfs/volumes").join(volume);
    let is_known = fs::remove_file(&known).is_ok();
    assert!(is_known, "remembered elsewhere than {}", known.display());
    assert_eq!(fs::read_dir(&home).expect("listed").count(), 0);
    mounted.unmount();
}
