//! A PostgreSQL server whose data lies in the mount, and pgbench on it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::row::Row;
use super::timeline::{Event, Got};
use super::verdict::{Database, Sums};
use crate::clock::Moment;
use crate::console::failure::{Exit, Failure};
use crate::threads::{Role, spawn};

/// How long a server may take to start or to recover.
const START: Duration = Duration::from_secs(60);
/// How long one run of pgbench may take, which is told to take a second.
const RUN: Duration = Duration::from_secs(20);

/// How its programs are run: from where, as whom.
#[derive(Clone)]
struct Programs {
    folder: PathBuf,
    /// The server refuses to run as root.
    user: Option<(u32, u32)>,
    sockets: PathBuf,
}

impl Programs {
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.folder.join(program));
        command.process_group(0).current_dir("/").stdin(Stdio::null()).env("LC_ALL", "C");
        command.env("PGHOST", &self.sockets).env("PGDATABASE", "postgres");
        command.env("PGUSER", "postgres");
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn run(&self, command: &mut Command) -> Result<String, Failure> {
        let output = command.output().map_err(|e| Failure::io(&self.folder, &e))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(Failure::new(Exit::Failed, format!("PostgreSQL: {}", last_word(&output))))
    }

    fn ask(&self, sql: &str) -> Result<String, Failure> {
        self.run(self.command("psql").args(["-X", "-A", "-t", "-q", "-c", sql]))
    }
}

fn last_word(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines().rev().find(|l| !l.is_empty()).unwrap_or("it told nothing").to_owned()
}

/// The newest PostgreSQL that is installed.
fn find() -> Result<PathBuf, Failure> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let numbered = versions.filter_map(|e| {
        let version: u32 = e.file_name().to_str()?.parse().ok()?;
        let folder = e.path().join("bin");
        folder.join("pgbench").exists().then_some((version, folder))
    });
    numbered.max().map(|(_, folder)| folder).ok_or_else(|| {
        Failure::new(Exit::Config, "no PostgreSQL server and pgbench in /usr/lib/postgresql")
            .hint("install them: apt-get install postgresql")
    })
}

/// The user and group `postgres`, where this process may become them.
fn user() -> Result<Option<(u32, u32)>, Failure> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let path = Path::new("/etc/passwd");
    let text = fs::read_to_string(path).map_err(|e| Failure::io(path, &e))?;
    let entry = text.lines().find_map(|line| line.strip_prefix("postgres:"));
    let mut fields = entry.unwrap_or_default().split(':').skip(1).map(str::parse);
    match (fields.next(), fields.next()) {
        (Some(Ok(uid)), Some(Ok(gid))) => Ok(Some((uid, gid))),
        _ => Err(Failure::new(Exit::Config, "there is no user postgres to run the server as")
            .hint("install PostgreSQL: apt-get install postgresql")),
    }
}

/// A server; stopped when dropped.
pub struct Server {
    programs: Programs,
    data: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Server {
    /// Makes a cluster in `data` and starts its server, with pgbench's tables in it. `outside`,
    /// a folder to be made beside the mount, takes its socket and its log.
    ///
    /// # Errors
    /// When PostgreSQL is missing, or does not start.
    pub fn start(data: PathBuf, outside: &Path) -> Result<Self, Failure> {
        let programs = Programs { folder: find()?, user: user()?, sockets: outside.to_owned() };
        for path in [&data, outside] {
            fs::create_dir(path).map_err(|e| Failure::io(path, &e))?;
            if let Some((uid, gid)) = programs.user {
                chown(path, Some(uid), Some(gid)).map_err(|e| Failure::io(path, &e))?;
            }
        }
        let mut init = programs.command("initdb");
        init.args(["--locale=C", "--encoding=UTF8", "--auth=trust", "--data-checksums"]);
        programs.run(init.arg("--username=postgres").arg("-D").arg(&data))?;
        let log = outside.join("log");
        let mut server = Self { programs, data, log, child: None };
        server.restart()?;
        server.wait()?;
        server.programs.run(server.programs.command("pgbench").args(["-i", "-q", "-s", "2"]))?;
        Ok(server)
    }

    /// Starts the server, and ends the one before if it still runs: after a lock it has to be
    /// started by hand, as on RDS. Does not wait until it answers.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&mut self) -> Result<(), Failure> {
        self.stop();
        let log = fs::File::options().create(true).append(true).open(&self.log);
        let log = log.map_err(|e| Failure::io(&self.log, &e))?;
        let again = log.try_clone().map_err(|e| Failure::io(&self.log, &e))?;
        let mut command = self.programs.command("postgres");
        command.arg("-D").arg(&self.data).arg("-k").arg(&self.programs.sockets);
        command.args(["-c", "listen_addresses="]).stdout(log).stderr(again);
        let child = command.spawn().map_err(|e| Failure::io(&self.programs.folder, &e))?;
        self.child = Some(child);
        Ok(())
    }

    fn wait(&mut self) -> Result<(), Failure> {
        let start = Instant::now();
        while self.programs.ask("SELECT 1").is_err() {
            let ended = self.child.as_mut().is_none_or(|c| !matches!(c.try_wait(), Ok(None)));
            if ended || start.elapsed() > START {
                let told = fs::read_to_string(&self.log).unwrap_or_default();
                let told = told.lines().last().unwrap_or_default();
                return Err(Failure::new(
                    Exit::Failed,
                    format!("PostgreSQL did not start: {told}"),
                ));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Runs pgbench on it, on and on; what it does goes to `events`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn load(&self, events: Sender<Event>) -> Result<Load, Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        let committed = Arc::new(AtomicU64::new(0));
        let thread = spawn(Role::Demo, {
            let (programs, stop, committed) =
                (self.programs.clone(), stop.clone(), committed.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    for event in bench(&programs) {
                        if event.got == Got::Success {
                            committed.fetch_add(event.number, Ordering::Relaxed);
                        }
                        if events.send(event).is_err() {
                            return;
                        }
                    }
                }
            }
        });
        let thread = thread.map_err(|e| Failure::io(Path::new("threads"), &e))?;
        Ok(Load { stop, committed, thread: Some(thread) })
    }

    /// What is in it, of which pgbench was told that so many transactions are committed.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn examine(&self, committed: u64) -> Result<Database, Failure> {
        let sql = "SELECT (SELECT count(*) FROM pgbench_history), \
                   (SELECT coalesce(sum(delta), 0) FROM pgbench_history), \
                   (SELECT sum(abalance) FROM pgbench_accounts), \
                   (SELECT sum(tbalance) FROM pgbench_tellers), \
                   (SELECT sum(bbalance) FROM pgbench_branches)";
        let answer = self.programs.ask(sql)?;
        let numbers: Vec<i64> = answer.trim().split('|').flat_map(str::parse).collect();
        let [rows, delta, accounts, tellers, branches] = numbers[..] else {
            return Err(Failure::new(Exit::Failed, format!("PostgreSQL answered {answer:?}")));
        };
        let agree = [accounts, tellers, branches].iter().all(|sum| *sum == delta);
        let sums = if agree { Sums::Agree } else { Sums::Differ };
        Ok(Database { committed, rows: rows.unsigned_abs(), sums })
    }

    fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let (Ok(None), Some(pid)) = (child.try_wait(), pid) {
            // SIGQUIT is PostgreSQL's immediate shutdown: its children end before it.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        }
        let start = Instant::now();
        while matches!(child.try_wait(), Ok(None)) {
            if start.elapsed() > Duration::from_secs(10) {
                let _ = child.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// pgbench at work; ended when dropped.
pub struct Load {
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Ends it, and answers how many transactions were acknowledged.
    pub fn finish(mut self) -> u64 {
        self.end();
        self.committed.load(Ordering::Relaxed)
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

/// One second of pgbench: each transaction that it was told is committed, and what went wrong.
fn bench(programs: &Programs) -> Vec<Event> {
    let failure = |word: &str| Event {
        row: Row::Pgbench,
        at: Moment::now(),
        got: Got::Failure(word.to_owned()),
        number: 1,
    };
    let prefix = programs.sockets.join("transactions");
    let mut command = programs.command("pgbench");
    command.args(["-n", "-c", "2", "-T", "1", "-l"]).arg("--log-prefix").arg(&prefix);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let Ok(mut child) = child else { return vec![failure("no-program")] };
    let log = prefix.with_extension(child.id().to_string());
    let start = Instant::now();
    while matches!(child.try_wait(), Ok(None)) {
        if start.elapsed() > RUN {
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let Ok(output) = child.wait_with_output() else { return vec![failure("no-answer")] };
    // Absent where no connection was made.
    let text = fs::read_to_string(&log).unwrap_or_default();
    let _ = fs::remove_file(&log);
    let mut all = transactions(&text, wall_clock(), Moment::now());
    if !output.status.success() {
        all.push(failure(word_of(&String::from_utf8_lossy(&output.stderr))));
        // A connection that is refused is refused at once: not a thousand times a second.
        std::thread::sleep(Duration::from_millis(200));
    }
    all
}

fn wall_clock() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

/// The transactions of pgbench's log, those of a tenth of a second together, at the time of the
/// last. The log has the wall clock's time, which is `wall` at `now`.
fn transactions(log: &str, wall: Duration, now: Moment) -> Vec<Event> {
    let mut all: BTreeMap<u128, (Duration, u64)> = BTreeMap::new();
    for line in log.lines() {
        // client, number, latency (or a word), script, seconds, microseconds
        let fields: Vec<Option<u64>> = line.split(' ').map(|f| f.parse().ok()).collect();
        let [_, _, Some(_), _, Some(seconds), Some(micros), ..] = fields[..] else { continue };
        let at = Duration::from_secs(seconds) + Duration::from_micros(micros);
        let (last, count) = all.entry(at.as_millis() / 100).or_default();
        *last = at.max(*last);
        *count += 1;
    }
    let event = |(at, number): (Duration, u64)| Event {
        row: Row::Pgbench,
        at: now.before(wall.saturating_sub(at)),
        got: Got::Success,
        number,
    };
    all.into_values().map(event).collect()
}

/// One word for what went wrong.
fn word_of(stderr: &str) -> &'static str {
    let words = [
        ("Key has been revoked", "EKEYREVOKED"),
        ("Key has expired", "EKEYEXPIRED"),
        ("Required key not available", "ENOKEY"),
        ("Input/output error", "EIO"),
        ("starting up", "recovering"),
        ("recovery mode", "recovering"),
        ("connection to server", "server-down"),
        ("server closed the connection", "server-down"),
    ];
    words.iter().find(|(text, _)| stderr.contains(text)).map_or("aborted", |(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pgbench_tells_is_understood() {
        let log = "0 1 900 0 1000 100000\n1 1 900 0 1000 190000\n0 2 900 0 1000 300000\n\
                   1 2 failed 0 1000 400000\ntorn";
        let all = transactions(log, Duration::from_secs(1001), Moment(Duration::from_secs(50)));
        let told: Vec<_> = all.iter().map(|e| (e.at.0.as_millis(), e.number)).collect();
        assert_eq!(told, [(49_190, 2), (49_300, 1)]);
        assert_eq!(word_of("FATAL: could not open: Key has been revoked"), "EKEYREVOKED");
        assert_eq!(word_of("connection to server on socket failed"), "server-down");
        assert_eq!(word_of("?"), "aborted");
    }
}
