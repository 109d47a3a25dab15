//! Real programs, living in a mount: git, cargo, SQLite, PostgreSQL.

mod attackers;
#[path = "../support/mod.rs"]
mod support;

mod backup;
mod nfs;
mod podman;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Mount, PATIENCE, Store, run, skipped};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn git(at: &Path) -> Command {
    let mut command = Command::new("git");
    command.args(["-c", "safe.directory=*"]).current_dir(at);
    command
}

/// A local clone hard-links its objects, which encrypting filesystems are known to fail at.
#[test]
fn git_clones_with_hard_links_and_finds_nothing_wrong() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    run(git(&mount.root()).args(["clone", "-q", "--no-hardlinks"]).arg(root()).arg("one"));
    run(git(&mount.root()).args(["clone", "-q", "--local", "one", "two"]));
    for clone in ["one", "two"] {
        run(git(&mount.at(clone)).args(["fsck", "--full", "--strict"]));
        assert_eq!(run(git(&mount.at(clone)).args(["status", "--porcelain"])), "");
    }
    let pack = fs::read_dir(mount.at("two/.git/objects/pack")).expect("listed").flatten().next();
    if let Some(pack) = pack {
        use std::os::unix::fs::MetadataExt;
        assert_eq!(pack.metadata().expect("there").nlink(), 2, "the clone is hard-linked");
    }
    run(git(&mount.at("two")).args(["gc", "-q"]));
    run(git(&mount.at("two")).args(["fsck", "--full"]));
}

#[test]
fn cargo_builds_a_crate_with_a_dependency() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    let write = |path: &str, text: &str| {
        let path = mount.at(path);
        fs::create_dir_all(path.parent().expect("in a folder")).expect("made");
        fs::write(path, text).expect("written");
    };
    let manifest = |name: &str, more: &str| {
        format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n{more}")
    };
    write("dep/Cargo.toml", &manifest("dep", ""));
    write("dep/src/lib.rs", "pub fn answer() -> u32 { 42 }");
    write("app/Cargo.toml", &manifest("app", "[dependencies]\ndep = { path = \"../dep\" }\n"));
    write("app/src/main.rs", "fn main() { println!(\"{}\", dep::answer()); }");
    let cargo = |verb: &str| {
        let mut command = Command::new(env!("CARGO"));
        command.args([verb, "-q", "--offline"]).current_dir(mount.at("app"));
        command.env("CARGO_TARGET_DIR", mount.at("app/target"));
        command
    };
    assert_eq!(run(&mut cargo("run")), "42\n");
    // The second build finds the first one's times unchanged.
    assert_eq!(run(&mut cargo("run")), "42\n");
}

#[test]
fn sqlite_in_wal_mode_keeps_every_row_of_concurrent_writers() {
    if skipped("fuse") {
        return;
    }
    const WRITERS: usize = 4;
    const ROWS: usize = 100;
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    let sqlite = |sql: &str| {
        let mut command = Command::new("sqlite3");
        command.arg("-cmd").arg(".timeout 20000").arg(mount.at("db")).arg(sql);
        command
    };
    run(&mut sqlite("PRAGMA journal_mode=WAL; CREATE TABLE t(writer INT, n INT);"));
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let sqlite = &sqlite;
            scope.spawn(move || {
                let rows = (0..ROWS).map(|n| format!("INSERT INTO t VALUES({writer},{n});"));
                run(&mut sqlite(&rows.collect::<String>()));
            });
        }
    });
    let count = run(&mut sqlite("SELECT count(*) FROM t; PRAGMA integrity_check;"));
    assert_eq!(count, format!("{}\nok\n", WRITERS * ROWS));
}

/// A PostgreSQL server whose data lies in a mount, stopped when dropped.
struct Postgres<'a> {
    mount: &'a Mount<'a>,
    sockets: tempfile::TempDir,
}

/// A program of the newest PostgreSQL that is installed.
fn pg(program: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed");
    let numbers = versions.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let newest = numbers.max().expect("PostgreSQL is installed");
    PathBuf::from(format!("/usr/lib/postgresql/{newest}/bin")).join(program)
}

fn as_postgres(program: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups"]);
    command.arg(program).args(args).current_dir("/");
    command
}

impl<'a> Postgres<'a> {
    fn start(mount: &'a Mount<'a>) -> Self {
        let sockets = tempfile::tempdir().expect("a folder");
        run(Command::new("chown").arg("postgres:").arg(sockets.path()));
        let server = Self { mount, sockets };
        server.control("start");
        server
    }

    fn data(&self) -> String {
        self.mount.at("pg").display().to_string()
    }

    fn control(&self, verb: &str) {
        let options = format!("-c listen_addresses= -k {}", self.socket());
        let log = format!("{}/log", self.socket());
        let data = self.data();
        let mut args = vec!["-D", &data, "-w", "-t", "60", verb];
        if verb == "start" {
            args.extend(["-o", &options, "-l", &log]);
        } else {
            args.extend(["-m", "immediate"]);
        }
        let status = as_postgres(&pg("pg_ctl"), &args).stdout(std::process::Stdio::null()).status();
        let told = fs::read_to_string(&log).unwrap_or_default();
        assert!(status.is_ok_and(|s| s.success()) || verb == "stop", "pg_ctl {verb}: {told}");
    }

    fn socket(&self) -> String {
        self.sockets.path().display().to_string()
    }

    fn client(&self, program: &str, args: &[&str]) -> Command {
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

fn initdb(mount: &Mount<'_>) {
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
    let mount = store.mount(&["--heartbeat", "1s"]);
    initdb(&mount);
    let server = Postgres::start(&mount);
    run(&mut server.client("psql", &["-c", "CREATE TABLE t(n int)"]));
    let mut committed = 0;
    store.key(&["disable", "alias/kmsfs"]);
    loop {
        let sql = format!("INSERT INTO t VALUES({committed})");
        let done = server.client("psql", &["-q", "-c", &sql]).output().expect("started");
        if !done.status.success() {
            break;
        }
        committed += 1;
    }
    mount.wait_state("revoked", PATIENCE);
    store.key(&["enable", "alias/kmsfs"]);
    mount.wait_state("open", PATIENCE);
    server.control("stop");
    server.control("start");
    let rows = run(&mut server.client("psql", &["-At", "-c", "SELECT count(DISTINCT n) FROM t"]));
    let rows: i32 = rows.trim().parse().expect("a number");
    // The insert that failed may have been committed before its answer was lost.
    assert!(rows == committed || rows == committed + 1, "{rows} of {committed} rows");
}
