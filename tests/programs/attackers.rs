//! A user of the mount, a reader of the store and a writer of the store, each played by a process,
//! beside a database and fsx at work: nothing that they try succeeds, and nobody else notices.
//!
//! `KMSFS_TEST_FULL=1` goes on for ten minutes.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, Signal, kill_process};

use crate::postgres::{Postgres, as_postgres, initdb, pg};
use crate::root;
use crate::support::role::{self, Stamps};
use crate::support::{Mount, PATIENCE, Store, files, full_size, kmsfs, run, skipped, wait_for};

const ENTRY: &str = "attackers::a_role";
/// Anybody but root and the victims.
const STRANGER: u32 = 65_534;
const VICTIM: u32 = 1234;
/// What no ciphertext contains.
const MARKER: &str = "a-word-that-stands-in-no-ciphertext";

/// The attackers, and the slots of their stamps: how often each has tried all that it knows.
const ROLES: [(&str, usize); 3] = [("user", 0), ("reader", 1), ("writer", 2)];

#[test]
fn attackers_of_three_kinds_get_nothing_but_errors() {
    if skipped("fuse") || skipped("postgres") {
        return;
    }
    let seconds = if full_size() { 600 } else { 8 };
    let store = Store::new(&["--names", "plain"]);
    let first = key_of(&store, "alias/kmsfs");
    let evil = store.key(&["create"]).trim().to_owned();
    store.key(&["alias", "set", "alias/evil", &evil]);
    let mount = store.mount(&["--heartbeat", "2s"]);
    initdb(&mount);
    furnish(&store, &mount);
    let before = [state(&store.outside("outside")), state(&mount.at("victims"))];
    let server = Postgres::start(&mount);
    run(&mut server.client("pgbench", &["-i", "-q", "-s", "2"]));
    let (stamps, gains) = (store.outside("stamps"), store.outside("gains"));
    Stamps::open(&stamps).set(ROLES[2].1, 0);
    File::create(&gains).expect("made");
    for shared in [&stamps, &gains] {
        fs::set_permissions(shared, Permissions::from_mode(0o666)).expect("set");
    }

    let mut attackers = ROLES.map(|(name, _)| Attacker::start(name, seconds, &store, &mount));
    let end = Instant::now() + Duration::from_secs(seconds);
    std::thread::scope(|scope| {
        let time = seconds.to_string();
        let mut bench = server.client("pgbench", &["-n", "-c", "2", "-T", &time]);
        let bench = scope.spawn(move || run(&mut bench));
        scope.spawn(|| exercise(&store, &mount, end));
        while Instant::now() < end {
            assert_eq!(mount.state(), "open");
            assert_eq!(fs::read(mount.at("victims/secret")).expect("readable"), MARKER.as_bytes());
            std::thread::sleep(Duration::from_millis(200));
        }
        bench.join().expect("pgbench ends without an error");
    });
    attackers.iter_mut().for_each(Attacker::finish);
    // The last copy of the bait is gone from the store, and the kernel says so in its own time.
    let bait = mount.at("victims/bait");
    wait_for("the bait to be its id's only file", PATIENCE, || fs::read(&bait).is_ok());

    assert_eq!(fs::read_to_string(&gains).expect("readable"), "", "what succeeded");
    for (name, slot) in ROLES {
        let rounds = Stamps::open(&stamps).get(slot);
        eprintln!("{name}: all attacks, {rounds} times");
        assert!(rounds > 0, "{name}");
    }
    assert_eq!(before, [state(&store.outside("outside")), state(&mount.at("victims"))]);
    assert!(!set_ids_below(&mount.root()), "no set-id bit is left");
    run(&mut server.client("pg_amcheck", &["--install-missing", "--heapallindexed"]));
    let data = server.data();
    run(&mut as_postgres(&pg("pg_ctl"), &["-D", &data, "-m", "fast", "-w", "stop"]));
    run(&mut as_postgres(&pg("pg_checksums"), &["--check", "-D", &data]));
    drop(server);
    // New keys come from where they came from, and old ones lie where they lay.
    let lines = mount.lines();
    assert!(lines.contains(&first) && !lines.contains(&evil), "{lines}");
    mount.unmount();
    let mount = store.mount(&[]);
    assert_eq!(state(&mount.at("victims")), before[1]);
}

fn key_of(store: &Store, alias: &str) -> String {
    let described = store.key(&["describe", alias]);
    described.split_whitespace().find(|w| w.len() == 36).expect("a key id").to_owned()
}

/// Files of a victim, a folder of the stranger's, and something outside of the store.
fn furnish(store: &Store, mount: &Mount<'_>) {
    let outside = store.outside("outside");
    fs::create_dir(&outside).expect("made");
    fs::write(outside.join("file"), "outside").expect("written");
    for folder in ["victims", "evil"] {
        fs::create_dir(mount.at(folder)).expect("made");
    }
    for (name, mode, text) in
        [("secret", 0o600, MARKER), ("public", 0o644, "public"), ("bait", 0o644, MARKER)]
    {
        let path = mount.at("victims").join(name);
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("set");
        chown(&path, Some(VICTIM), Some(VICTIM)).expect("given");
    }
    for (name, byte) in [("a", 0x41), ("b", 0x42)] {
        fs::write(mount.at("evil").join(name), vec![byte; 64 << 10]).expect("written");
    }
    chown(mount.at("evil"), Some(STRANGER), Some(STRANGER)).expect("given");
}

/// All that is to stay as it was.
fn state(folder: &Path) -> Vec<(PathBuf, [u64; 4], Vec<u8>)> {
    let mut all: Vec<_> = files(folder)
        .into_iter()
        .map(|path| {
            let meta = fs::symlink_metadata(&path).expect("there");
            let owner = u64::from(meta.uid()) << 32 | u64::from(meta.gid());
            let content = fs::read(&path).expect("readable");
            let changed = meta.mtime_nsec().unsigned_abs();
            (path, [meta.mode().into(), owner, meta.nlink(), changed], content)
        })
        .collect();
    all.sort();
    all
}

fn set_ids_below(folder: &Path) -> bool {
    files(folder).iter().any(|path| mode_of(path) & 0o6000 != 0)
}

fn mode_of(path: &Path) -> u32 {
    fs::symlink_metadata(path).map_or(0, |meta| meta.mode())
}

/// fsx, again and again: it verifies every byte that it reads.
fn exercise(store: &Store, mount: &Mount<'_>, end: Instant) {
    let fsx = root().join("target/tools/bin/fsx");
    let config = store.outside("fsx.toml");
    fs::write(&config, "flen = 1048576\n[opsize]\nmin = 1\nmax = 65536\n").expect("written");
    for seed in 1.. {
        if Instant::now() >= end {
            return;
        }
        let seed = seed.to_string();
        run(Command::new(&fsx)
            .args(["-q", "-N", "2000", "-S", &seed, "-f"])
            .arg(&config)
            .arg("-P")
            .arg(store.outside(""))
            .arg(mount.at("fsx")));
    }
}

/// A process that attacks; killed when dropped.
struct Attacker(&'static str, Child);

impl Attacker {
    fn start(name: &'static str, seconds: u64, store: &Store, mount: &Mount<'_>) -> Self {
        let mut command = match name {
            "user" => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
                command.arg(std::env::current_exe().expect("this binary"));
                command
            }
            _ => Command::new(std::env::current_exe().expect("this binary")),
        };
        let child = command
            .args(["--exact", ENTRY, "--ignored", "--nocapture"])
            .env("KMSFS_TEST_ROLE", name)
            .env("KMSFS_TEST_FOLDER", store.outside(""))
            .env("KMSFS_TEST_STAMPS", store.outside("stamps"))
            .env("KMSFS_TEST_SECONDS", seconds.to_string())
            .env("KMSFS_TEST_DAEMON", mount.pid().to_string())
            .stdout(Stdio::null())
            .spawn();
        Self(name, child.expect("this binary starts"))
    }

    fn finish(&mut self) {
        wait_for("an attacker's end", PATIENCE, || self.1.try_wait().expect("ours").is_some());
        let status = self.1.wait().expect("it has ended");
        assert!(status.success(), "the {} fails at an attack: {status}", self.0);
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        let _ = self.1.kill();
        let _ = self.1.wait();
    }
}

/// Not a test: a process that the test starts.
#[test]
#[ignore = "a process that another test starts"]
fn a_role() {
    let Some((name, folder, stamps)) = role::asked() else { return };
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let seconds = number("KMSFS_TEST_SECONDS").expect("set by the test");
    let attack = Attack {
        mount: folder.join("mnt"),
        store: folder.join("store"),
        daemon: number("KMSFS_TEST_DAEMON").expect("set by the test"),
        keystore: folder.join("keystore"),
        folder,
    };
    let (_, slot) = ROLES.into_iter().find(|(role, _)| *role == name).expect("one of the three");
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut rounds = 0;
    while Instant::now() < end {
        match &*name {
            "user" => attack.as_a_user(rounds),
            "reader" => attack.as_a_reader(),
            _ => attack.as_a_writer(rounds),
        }
        rounds += 1;
        Stamps::open(&stamps).set(slot, rounds);
    }
}

/// Where an attacker is at work.
struct Attack {
    folder: PathBuf,
    mount: PathBuf,
    store: PathBuf,
    keystore: PathBuf,
    daemon: u64,
}

impl Attack {
    /// Writes down what should have failed.
    fn expect_failure(&self, attack: &str, succeeded: bool) {
        if succeeded {
            let mut gains =
                OpenOptions::new().append(true).open(self.folder.join("gains")).expect("there");
            writeln!(gains, "{attack}").expect("written");
        }
    }

    fn kmsfs(&self, args: &[&str], at: &Path) -> bool {
        let mut command = kmsfs();
        command.env("XDG_STATE_HOME", self.folder.join("state")).args(args).arg(at);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    /// Whoever may use the mount, and is neither root nor a victim.
    fn as_a_user(&self, round: u64) {
        let victims = self.mount.join("victims");
        let (secret, public) = (victims.join("secret"), victims.join("public"));
        let own = self.mount.join("evil/own");
        let write = |path: &Path| OpenOptions::new().write(true).open(path).is_ok();
        let process = format!("/proc/{}", self.daemon);
        let pid = Pid::from_raw(i32::try_from(self.daemon).expect("a pid")).expect("not zero");
        let wrote = fs::write(&own, "own").is_ok();
        assert!(wrote, "his own folder is his");
        let set_id = |path: &Path, bits| fs::set_permissions(path, Permissions::from_mode(bits));
        let attacks = [
            ("read a secret", fs::read(&secret).is_ok()),
            ("write a public file", write(&public)),
            ("cut a public file", truncate(&public)),
            ("make a victim's file set-user-ID", set_id(&public, 0o4777).is_ok()),
            ("take a file", chown(&public, Some(STRANGER), None).is_ok()),
            ("give a file away", chown(&own, Some(0), None).is_ok()),
            ("remove a file", fs::remove_file(&public).is_ok()),
            ("move a file away", fs::rename(&public, self.mount.join("evil/stolen")).is_ok()),
            ("move a file over it", fs::rename(&own, &public).is_ok()),
            ("add to a victim's folder", File::create(victims.join("new")).is_ok()),
            ("remove a folder", fs::remove_dir(&victims).is_ok()),
            ("set a victim's attribute", self.set_attribute(&public, "user.x")),
            ("set a capability", self.set_attribute(&own, "security.capability")),
            ("set a trusted attribute", self.set_attribute(&own, "trusted.x")),
            ("make a device", self.make_device()),
            ("enter the store", fs::read_dir(&self.store).is_ok()),
            ("read a sidecar folder", fs::read_dir(self.store.join("keys")).is_ok()),
            ("read the keystore", fs::read_dir(&self.keystore).is_ok()),
            ("read volume.json", fs::read(self.store.join("volume.json")).is_ok()),
            ("signal the daemon", kill_process(pid, Signal::CONT).is_ok()),
            ("read the daemon's memory", File::open(format!("{process}/mem")).is_ok()),
            ("read the daemon's maps", has_content(&format!("{process}/maps"))),
            ("list the daemon's descriptors", fs::read_dir(format!("{process}/fd")).is_ok()),
            ("unmount", unmount(&self.mount, UnmountFlags::DETACH).is_ok()),
            ("mount over it", self.mount_over()),
        ];
        for (attack, succeeded) in attacks {
            self.expect_failure(attack, succeeded);
        }
        // Set-id bits of his own are his to set; they go with the first write.
        if set_id(&own, 0o6777).is_ok() && fs::write(&own, "changed").is_ok() {
            self.expect_failure("keep set-id bits over a write", mode_of(&own) & 0o6000 != 0);
        }
        let _ = set_id(&own, 0o600);
        self.ask_the_socket(round);
        if round.is_multiple_of(20) {
            for verb in ["lock", "unlock", "unmount", "shred"] {
                self.expect_failure(verb, self.kmsfs(&[verb], &self.mount));
            }
        }
    }

    fn set_attribute(&self, path: &Path, name: &str) -> bool {
        rustix::fs::setxattr(path, name, b"x", XattrFlags::empty()).is_ok()
    }

    fn make_device(&self) -> bool {
        let device = rustix::fs::makedev(1, 3);
        let path = self.mount.join("evil/device");
        mknodat(CWD, path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), device).is_ok()
    }

    fn mount_over(&self) -> bool {
        mount("none", &self.mount, "tmpfs", MountFlags::empty(), None).is_ok()
    }

    /// Says to every control socket that may be reached what no command says.
    fn ask_the_socket(&self, round: u64) {
        let Ok(sockets) = fs::read_dir("/run/kmsfs") else { return };
        let ours = format!(" {} ", self.mount.display());
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("readable");
        let line = mounts.lines().find(|line| line.contains(&ours)).expect("it is mounted");
        let device = line.split(' ').nth(2).expect("a device number");
        for socket in sockets.flatten() {
            if !socket.file_name().to_string_lossy().starts_with(device) {
                continue;
            }
            let Ok(mut stream) = UnixStream::connect(socket.path()) else { continue };
            let text = match round % 3 {
                0 => vec![b'x'; 1 << 20],
                1 => b"{\"version\":1,\"command\":\"lock\"}\n".to_vec(),
                _ => b"\xff\0\n\n{}\n".to_vec(),
            };
            let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
            let _ = stream.write_all(&text);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.take(4096).read_to_end(&mut Vec::new());
        }
    }

    /// Whoever has a copy of the store, and a keystore of his own.
    fn as_a_reader(&self) {
        let own = tempfile::tempdir_in(&self.folder).expect("a folder");
        let copy = own.path().join("copy");
        // Files go and come while they are copied.
        let _ =
            Command::new("cp").arg("-a").arg(&self.store).arg(&copy).stderr(Stdio::null()).status();
        let marker = MARKER.as_bytes();
        // The writer's devices are in the copy too, and /dev/zero has no end.
        let is_file = |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file());
        for path in files(&copy).into_iter().filter(is_file) {
            let content = fs::read(&path).unwrap_or_default();
            let found = content.windows(marker.len()).any(|bytes| bytes == marker);
            self.expect_failure("find plaintext in a copy", found);
        }
        let keystore = own.path().join("keystore");
        let keys = keystore.display().to_string();
        let other = own.path().join("other");
        assert!(
            self.kmsfs(&["init", "--no-passphrase", "--keystore", &keys], &other),
            "a store of his own can be made"
        );
        let at = own.path().join("mnt");
        fs::DirBuilder::new().mode(0o755).create(&at).expect("made");
        let store = copy.display().to_string();
        let mounted = self.kmsfs(&["mount", &store, "--keystore", &keys], &at);
        self.expect_failure("mount a copy with another keystore", mounted);
        // His own volume.json over it, for his own key.
        let _ = fs::copy(other.join("volume.json"), copy.join("volume.json"));
        let mounted = self.kmsfs(&["mount", &store, "--keystore", &keys], &at);
        let read = fs::read(at.join("victims/secret"));
        self.expect_failure("read a copy under another volume's key", read.is_ok());
        if mounted {
            let _ = self.kmsfs(&["unmount"], &at);
        }
    }

    /// Whoever can write the store.
    fn as_a_writer(&self, round: u64) {
        self.redirect_new_keys(round);
        self.copy_a_bait(round);
        self.exchange_pages();
        self.plant_a_page(round);
        self.set_bits_and_devices(round);
    }

    /// Exchanges `volume.json` for a moment. Files that are made meanwhile want new keys.
    fn redirect_new_keys(&self, round: u64) {
        let path = self.store.join("volume.json");
        let good = fs::read(&path).expect("readable");
        let text = String::from_utf8_lossy(&good).into_owned();
        let bad = match round % 4 {
            0 => text.replace("alias/kmsfs", "alias/evil").into_bytes(),
            1 => text.replace("\"generation\":", "\"generation\":9").into_bytes(),
            2 => good[..good.len() / 2].to_vec(),
            _ => {
                let mut bytes = good.clone();
                let at = usize::try_from(round * 7919).expect("small") % bytes.len();
                bytes[at] ^= 1;
                bytes
            }
        };
        self.put(&path, &bad);
        for n in 0..40 {
            let file = self.mount.join(format!("evil/new-{n}"));
            fs::write(&file, "new").expect("the mount goes on");
            fs::remove_file(&file).expect("just made");
        }
        self.put(&path, &good);
    }

    fn put(&self, path: &Path, bytes: &[u8]) {
        let new = self.store.join("volume.json.evil");
        fs::write(&new, bytes).expect("he can write the store");
        fs::rename(&new, path).expect("in the same folder");
    }

    /// A victim's file, header and all, under a name that the attacker may read.
    fn copy_a_bait(&self, round: u64) {
        let tree = self.store.join("files");
        let name = format!("evil/copied-{round}");
        fs::copy(tree.join("victims/bait"), tree.join(&name)).expect("copied");
        // The victim's is in use: its id is known.
        let _ = fs::read(self.mount.join("victims/bait"));
        let read = fs::read(self.mount.join(&name));
        let _held = File::open(self.mount.join("victims/bait"));
        self.expect_failure("read a victim's file through a copy", read.is_ok());
        fs::remove_file(tree.join(&name)).expect("it is his");
        let _ = fs::remove_file(self.mount.join(&name));
    }

    /// Records of one file of his in another's place, and within one file.
    fn exchange_pages(&self) {
        let tree = self.store.join("files/evil");
        let open = |name: &str| {
            OpenOptions::new().read(true).write(true).open(tree.join(name)).expect("his own")
        };
        let (a, b) = (open("a"), open("b"));
        let page = |from: &File, at| {
            let mut bytes = vec![0; 4096];
            from.read_exact_at(&mut bytes, at).expect("16 records");
            bytes
        };
        let good = page(&a, 8192);
        for bad in [page(&b, 8192), page(&a, 4096)] {
            a.write_all_at(&bad, 8192).expect("his own");
            drop_cached(&self.mount.join("evil/a"));
            let mut bytes = [0; 512];
            let opened = File::open(self.mount.join("evil/a")).expect("opened");
            let read = opened.read_exact_at(&mut bytes, 8192);
            self.expect_failure("read a record in another's place", read.is_ok());
        }
        a.write_all_at(&good, 8192).expect("his own");
    }

    /// A sidecar page whose lines are another page's.
    fn plant_a_page(&self, round: u64) {
        let pages: Vec<_> = files(&self.store.join("keys"))
            .into_iter()
            .filter(|path| path.file_name().is_some_and(|name| name.len() >= 16))
            .collect();
        let Some(page) = pages.get(usize::try_from(round).expect("small") % pages.len().max(1))
        else {
            return;
        };
        let name = page.file_name().expect("a file").to_string_lossy().into_owned();
        let planted: String = name.chars().rev().collect();
        let planted = page.with_file_name(planted);
        if !planted.exists() && fs::copy(page, &planted).is_ok() {
            let _ = fs::read(self.mount.join("victims/public"));
            fs::remove_file(&planted).expect("just made");
        }
    }

    /// What a mount without nosuid and nodev would make of it is root.
    fn set_bits_and_devices(&self, round: u64) {
        let tree = self.store.join("files/evil");
        let program = tree.join("b");
        fs::set_permissions(&program, Permissions::from_mode(0o6755)).expect("his own");
        let device = tree.join(format!("device-{round}"));
        let zero = rustix::fs::makedev(1, 5);
        mknodat(CWD, &device, FileType::CharacterDevice, Mode::from_raw_mode(0o666), zero)
            .expect("root may");
        let opened = File::open(self.mount.join(format!("evil/device-{round}")));
        self.expect_failure("open a planted device", opened.is_ok());
        fs::remove_file(&device).expect("just made");
        fs::set_permissions(&program, Permissions::from_mode(0o644)).expect("his own");
    }
}

/// truncate(2) to nothing.
fn truncate(path: &Path) -> bool {
    let path = CString::new(path.as_os_str().as_encoded_bytes()).expect("no NUL");
    // SAFETY: a C string that outlives the call.
    unsafe { libc::truncate(path.as_ptr(), 0) == 0 }
}

fn has_content(path: &str) -> bool {
    fs::read(path).is_ok_and(|content| !content.is_empty())
}

/// What the kernel has of a file is read anew.
fn drop_cached(path: &Path) {
    let file = File::open(path).expect("opened");
    let all = rustix::fs::Advice::DontNeed;
    rustix::fs::fadvise(&file, 0, None, all).expect("advice");
}
