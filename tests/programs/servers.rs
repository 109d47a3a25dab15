//! Servers whose data lies in a mount, and what every database of them goes through: it is killed
//! under load, and its master key is disabled under load. Then each row that was acknowledged is
//! there, and the database's own check finds nothing wrong.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::root;
use crate::support::{Mount, PATIENCE, Store, full_size, wait_for};

/// How many clients write at once.
const CLIENTS: usize = 4;
/// How many rows are acknowledged before something happens.
const ROWS: usize = 30;
const NOBODY: u32 = 65_534;

/// A folder of nobody's in a mount that every user may enter.
pub fn nobodys_folder(mount: &Mount<'_>, name: &str) -> PathBuf {
    let root = mount.root();
    for folder in [root.parent().expect("a parent"), &root] {
        fs::set_permissions(folder, Permissions::from_mode(0o755)).expect("set");
    }
    nobodys(&mount.at(name))
}

/// Makes a folder that is nobody's.
pub fn nobodys(at: &Path) -> PathBuf {
    fs::create_dir(at).expect("made");
    chown(at, Some(NOBODY), Some(NOBODY)).expect("root may");
    at.to_owned()
}

/// What `docs/PROGRAMS.md` says a program logs: the test finds it in the log, and in that page.
pub fn logs(log: &str, lines: &[&str]) {
    let page = fs::read_to_string(root().join("docs/PROGRAMS.md")).expect("readable");
    for line in lines {
        assert!(page.contains(line), "docs/PROGRAMS.md does not say {line:?}");
    }
    assert!(lines.iter().any(|line| log.contains(line)), "none of {lines:?} in\n{log}");
}

/// What became of a client's command.
pub fn outcome(command: &mut Command) -> Result<(), String> {
    let output = command.output().expect("the client is installed");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(said) }
}

/// A server in the foreground, killed with all that it has started when dropped.
pub struct Server {
    process: Mutex<Child>,
    log: PathBuf,
}

impl Server {
    /// Started in the folder of its log, which its output is added to, and waited for until it is
    /// ready.
    pub fn start(command: &mut Command, log: &Path, ready: impl Fn() -> bool) -> Self {
        let out = File::options().create(true).append(true).open(log).expect("a log");
        let err = out.try_clone().expect("a descriptor");
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        command.current_dir(log.parent().expect("in a folder"));
        let process = Mutex::new(command.spawn().expect("it is installed"));
        let server = Self { process, log: log.to_owned() };
        wait_for("a server", PATIENCE, || {
            assert!(!server.has_ended(), "{command:?}: {}", server.log());
            ready()
        });
        server
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.process.lock().expect("no panic"));
        kill_process(pid, signal).expect("it has not been waited for");
    }

    pub fn has_ended(&self) -> bool {
        self.process.lock().expect("no panic").try_wait().expect("it is ours").is_some()
    }

    /// What it has logged since the test began.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Stops it as an operator does.
    pub fn stop(&self) {
        self.signal(Signal::TERM);
        wait_for("its end", PATIENCE, || self.has_ended());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its group has its number, also when it has ended itself.
        let Ok(process) = self.process.get_mut() else { return };
        let _ = kill_process_group(Pid::from_child(process), Signal::KILL);
        let _ = process.wait();
    }
}

/// A database server of one table of numbers.
pub trait Database: Sync {
    /// Starts it, and waits until it answers.
    fn start(&mut self);
    /// The server, once it was started.
    fn server(&self) -> &Server;
    /// Adds a row in a transaction of its own: acknowledged, or what its client says.
    fn put(&self, row: u32) -> Result<(), String>;
    /// All rows, each found whole.
    fn rows(&self) -> BTreeSet<u32>;
    /// What it checks of itself; it may be stopped then.
    fn check(&mut self);
}

/// What happens to a server whose key is disabled while it is written to.
pub enum Outcome {
    /// It ends, and is to be started again.
    Ends,
    /// It refuses, and serves again by itself.
    GoesOn,
}

/// Which rows were asked for, and which of them acknowledged.
#[derive(Default)]
struct Ledger {
    asked: AtomicU32,
    acknowledged: Mutex<BTreeSet<u32>>,
}

impl Ledger {
    fn put(&self, database: &impl Database) -> Result<(), String> {
        let row = self.asked.fetch_add(1, Ordering::Relaxed);
        database.put(row)?;
        self.acknowledged.lock().expect("no panic").insert(row);
        Ok(())
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().expect("no panic").len()
    }

    /// Clients write until each is refused, which what is done meanwhile leads to.
    fn load(&self, database: &impl Database, meanwhile: impl FnOnce()) {
        let before = self.count();
        let refused = Mutex::new(Vec::new());
        let began = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    let refusal = loop {
                        assert!(began.elapsed() < 2 * PATIENCE, "no client is refused");
                        if let Err(refusal) = self.put(database) {
                            break refusal;
                        }
                    };
                    refused.lock().expect("no panic").push(refusal);
                });
            }
            wait_for("rows", PATIENCE, || {
                let refused = refused.lock().expect("no panic").clone();
                assert!(refused.is_empty(), "{refused:?}\n{}", database.server().log());
                self.count() >= before + ROWS
            });
            meanwhile();
        });
    }

    /// What was acknowledged is there, and nothing that nobody asked for.
    fn holds(&self, rows: &BTreeSet<u32>) {
        let acknowledged = self.acknowledged.lock().expect("no panic");
        let lost: Vec<_> = acknowledged.difference(rows).collect();
        assert!(
            lost.is_empty(),
            "{} of {} rows are lost: {lost:?}",
            lost.len(),
            acknowledged.len()
        );
        let asked = self.asked.load(Ordering::Relaxed);
        assert!(rows.iter().all(|row| *row < asked), "a row that nobody wrote");
    }
}

/// What every database goes through, on a mount with a heartbeat of 2 s.
pub struct Trial<'a, D> {
    pub store: &'a Store,
    pub mount: &'a Mount<'a>,
    database: D,
    ledger: Ledger,
}

impl<'a, D: Database> Trial<'a, D> {
    pub fn new(store: &'a Store, mount: &'a Mount<'a>, mut database: D) -> Self {
        database.start();
        Self { store, mount, database, ledger: Ledger::default() }
    }

    /// It is killed under load, again and again.
    pub fn kill(&mut self) {
        for _ in 0..if full_size() { 20 } else { 2 } {
            let server = || self.database.server();
            self.ledger.load(&self.database, || server().signal(Signal::KILL));
            wait_for("its end, of a kill", PATIENCE, || server().has_ended());
            self.database.start();
            self.ledger.holds(&self.database.rows());
        }
    }

    /// Its key is disabled under load, and enabled again. It logs one of these lines.
    pub fn disable(&mut self, outcome: &Outcome, lines: &[&str]) {
        for _ in 0..if full_size() { 10 } else { 1 } {
            self.ledger.load(&self.database, || {
                self.store.key(&["disable", "alias/kmsfs"]);
                self.mount.wait_state("revoked", PATIENCE);
            });
            let server = || self.database.server();
            match outcome {
                // A server that has nothing to write may live on: MariaDB does when each of its
                // clients was refused while it read.
                Outcome::Ends => {
                    wait_for("its end, of a disabled key", PATIENCE, || {
                        let refused = self.ledger.put(&self.database);
                        assert!(refused.is_err(), "a row was written with the key disabled");
                        server().has_ended()
                    });
                }
                Outcome::GoesOn => assert!(!server().has_ended(), "{}", server().log()),
            }
            logs(&server().log(), lines);
            self.store.key(&["enable", "alias/kmsfs"]);
            self.mount.wait_state("open", PATIENCE);
            match outcome {
                Outcome::Ends => self.database.start(),
                Outcome::GoesOn => {
                    wait_for("a row", PATIENCE, || self.ledger.put(&self.database).is_ok());
                }
            }
            self.ledger.holds(&self.database.rows());
        }
    }

    /// Its own check finds nothing, and the rows are still there.
    pub fn check(mut self) {
        self.database.check();
        self.database.start();
        self.ledger.holds(&self.database.rows());
    }
}
