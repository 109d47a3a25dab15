//! PostgreSQL, with its data in a mount.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::servers::logs;
use crate::support::{Mount, PATIENCE, Store, run, skipped, wait_for};

/// Of pgbench, where the key is disabled.
const CLIENTS: usize = 4;

/// A PostgreSQL server whose data lies in a mount, stopped when dropped.
pub struct Postgres<'a> {
    mount: &'a Mount<'a>,
    sockets: tempfile::TempDir,
}

/// A program of the newest PostgreSQL that is installed.
pub fn pg(program: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed");
    let numbers = versions.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let newest = numbers.max().expect("PostgreSQL is installed");
    PathBuf::from(format!("/usr/lib/postgresql/{newest}/bin")).join(program)
}

pub fn as_postgres(program: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups"]);
    command.arg(program).args(args).current_dir("/");
    command
}

impl<'a> Postgres<'a> {
    pub fn start(mount: &'a Mount<'a>) -> Self {
        let sockets = tempfile::tempdir().expect("a folder");
        run(Command::new("chown").arg("postgres:").arg(sockets.path()));
        let server = Self { mount, sockets };
        server.control("start");
        server
    }

    pub fn data(&self) -> String {
        self.mount.at("pg").display().to_string()
    }

    pub fn control(&self, verb: &str) {
        let options = format!("-c listen_addresses= -k {}", self.socket());
        let log = format!("{}/log", self.socket());
        let data = self.data();
        let mut args = vec!["-D", &data, "-w", "-t", "60", verb];
        if verb == "start" {
            args.extend(["-o", &options, "-l", &log]);
        } else {
            args.extend(["-m", "immediate"]);
        }
        let mut control = as_postgres(&pg("pg_ctl"), &args);
        // What it says of a server that is gone is what was to be expected.
        control.stdout(Stdio::null()).stderr(Stdio::null());
        let status = control.status();
        let told = fs::read_to_string(&log).unwrap_or_default();
        assert!(status.is_ok_and(|s| s.success()) || verb == "stop", "pg_ctl {verb}: {told}");
    }

    fn log(&self) -> String {
        fs::read_to_string(self.sockets.path().join("log")).unwrap_or_default()
    }

    fn socket(&self) -> String {
        self.sockets.path().display().to_string()
    }

    pub fn client(&self, program: &str, args: &[&str]) -> Command {
        let mut command = as_postgres(&pg(program), args);
        command.env("PGHOST", self.socket()).env("PGDATABASE", "postgres");
        command
    }
}

impl Drop for Postgres<'_> {
    fn drop(&mut self) {
        let data = self.data();
        let _ =
            as_postgres(&pg("pg_ctl"), &["-D", &data, "-m", "immediate", "-w", "stop"]).output();
    }
}

pub fn initdb(mount: &Mount<'_>) {
    let parent = mount.root().parent().expect("a parent").to_owned();
    run(Command::new("chmod").arg("755").arg(parent).arg(mount.root()));
    fs::create_dir(mount.at("pg")).expect("made");
    run(Command::new("chown").arg("postgres:").arg(mount.at("pg")));
    let data = mount.at("pg").display().to_string();
    run(&mut as_postgres(&pg("initdb"), &["-D", &data, "--data-checksums", "-A", "trust"]));
}

/// How long pgbench runs: seconds; `scripts/acceptance` asks for a minute.
fn pgbench_seconds() -> String {
    std::env::var("KMSFS_PGBENCH_SECONDS").unwrap_or_else(|_| "5".to_owned())
}

#[test]
fn postgresql_runs_pgbench_and_its_checks_are_clean() {
    if skipped("fuse") || skipped("postgres") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    initdb(&mount);
    let server = Postgres::start(&mount);
    run(&mut server.client("pgbench", &["-i", "-q", "-s", "2"]));
    run(&mut server.client("pgbench", &["-c", "4", "-T", &pgbench_seconds()]));
    run(&mut server.client("pg_amcheck", &["--install-missing", "--heapallindexed"]));
    server.control("stop");
    server.control("start");
    let data = server.data();
    run(&mut as_postgres(&pg("pg_ctl"), &["-D", &data, "-m", "fast", "-w", "stop"]));
    run(&mut as_postgres(&pg("pg_checksums"), &["--check", "-D", &data]));
}

/// RDS with a disabled key: the database is unusable; with the key back and the server started
/// again, every committed row is there.
#[test]
fn postgresql_loses_no_committed_row_to_a_disabled_key() {
    if skipped("fuse") || skipped("postgres") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&["--heartbeat", "2s"]);
    initdb(&mount);
    let server = Postgres::start(&mount);
    run(&mut server.client("pgbench", &["-i", "-q", "-s", "1"]));
    let seconds = PATIENCE.as_secs().to_string();
    let mut bench = server.client("pgbench", &["-n", "-c", &CLIENTS.to_string(), "-T", &seconds]);
    bench.stdout(Stdio::piped()).stderr(Stdio::piped());
    let bench = bench.spawn().expect("started");
    let count = ["-At", "-c", "SELECT count(*) FROM pgbench_history"];
    let rows = |told: &str| told.trim().parse::<usize>().expect("a number");
    wait_for("rows", PATIENCE, || rows(&run(&mut server.client("psql", &count))) > 100);
    store.key(&["disable", "alias/kmsfs"]);
    mount.wait_state("revoked", PATIENCE);
    let told = bench.wait_with_output().expect("it is ours");
    let said = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(!told.status.success(), "{said}");
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let acknowledged =
        told.lines().find_map(|l| l.strip_prefix("number of transactions actually processed: "));
    let acknowledged = rows(acknowledged.unwrap_or_else(|| panic!("{told}{said}")));
    let refused = server.client("psql", &count).output().expect("started");
    assert!(!refused.status.success());
    logs(
        &server.log(),
        &[
            "PANIC:  could not write to log file",
            "ERROR:  could not seek to end of file",
            "FATAL:  could not open file",
        ],
    );
    store.key(&["enable", "alias/kmsfs"]);
    mount.wait_state("open", PATIENCE);
    server.control("stop");
    server.control("start");
    let found = rows(&run(&mut server.client("psql", &count)));
    // What failed may have been committed before its answer was lost.
    let possible = acknowledged..=acknowledged + CLIENTS;
    assert!(possible.contains(&found), "{found} of {acknowledged} rows");
    run(&mut server.client("pg_amcheck", &["--install-missing", "--heapallindexed"]));
}
