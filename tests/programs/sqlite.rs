//! SQLite, with its database in a mount.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::Signal;

use crate::servers::logs;
use crate::support::{Mount, PATIENCE, Store, run, skipped, wait_for};

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

/// The shell of SQLite with a connection that stays open.
struct Shell {
    process: Child,
    answers: BufReader<ChildStdout>,
}

impl Shell {
    /// Its answers come line by line, its errors into a file.
    fn new(database: &Path, errors: &Path, pragmas: &str) -> Self {
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "sqlite3", "-batch"]).arg(database);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(File::create(errors).expect("made"));
        let mut process = command.spawn().expect("it is installed");
        let answers = BufReader::new(process.stdout.take().expect("a pipe"));
        let mut shell = Self { process, answers };
        assert!(shell.put(pragmas, 0), "{}", fs::read_to_string(errors).unwrap_or_default());
        shell
    }

    /// Adds a row; whether it was acknowledged.
    fn put(&mut self, before: &str, row: u32) -> bool {
        let sql = format!(
            "{before}INSERT INTO t VALUES({row});\nSELECT 'row', n FROM t WHERE n = {row};\n\
             .print end\n"
        );
        // A shell that was ended takes no more.
        let mut input = self.process.stdin.as_ref().expect("a pipe");
        let _ = input.write_all(sql.as_bytes());
        let lines = self.answers.by_ref().lines().map_while(Result::ok);
        let told: Vec<String> = lines.take_while(|line| line != "end").collect();
        told.contains(&format!("row|{row}"))
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A connection that stays open while the key is disabled.
struct Client {
    shell: Shell,
    database: PathBuf,
    errors: PathBuf,
    /// What its error says, or the signal that ends its process.
    outcome: Result<&'static str, i32>,
    acknowledged: u32,
}

impl Client {
    fn new(
        store: &Store,
        mount: &Mount<'_>,
        n: usize,
        case: (&str, Result<&'static str, i32>),
    ) -> Self {
        let database = mount.at(&format!("db{n}"));
        let errors = store.outside(&format!("errors{n}"));
        run(Command::new("sqlite3").arg(&database).arg("CREATE TABLE t(n INTEGER PRIMARY KEY)"));
        let shell = Shell::new(&database, &errors, case.0);
        Self { shell, database, errors, outcome: case.1, acknowledged: 1 }
    }

    /// Until it is refused.
    fn load(&mut self) {
        while self.shell.put("", self.acknowledged) {
            self.acknowledged += 1;
        }
    }

    fn is_refused(&mut self) {
        match self.outcome {
            Err(signal) => {
                let status = self.shell.process.wait().expect("it is ours");
                let said = fs::read_to_string(&self.errors).expect("readable");
                // The log's file may be refused before its map is touched. The wait ends its
                // input, and so itself.
                let is_told = status.code() == Some(1) && said.contains("disk I/O error (10)");
                let is_ended = status.signal() == Some(signal);
                assert!(is_ended || is_told, "{status}: {said}");
            }
            Ok(error) => {
                assert!(!self.shell.put("", self.acknowledged), "a row in a locked mount");
                logs(&fs::read_to_string(&self.errors).expect("readable"), &[error]);
            }
        }
    }

    fn goes_on(mut self) {
        let rows = self.acknowledged;
        if self.outcome.is_ok() {
            wait_for("a row", PATIENCE, || self.shell.put("", rows + 1));
        }
        drop(self.shell);
        let sql = format!("SELECT count(*) FROM t WHERE n < {rows}; PRAGMA integrity_check");
        let told = run(Command::new("sqlite3").arg(&self.database).arg(sql));
        assert_eq!(told, format!("{rows}\nok\n"));
    }
}

#[test]
fn sqlite_loses_no_row_to_a_disabled_key() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&["--heartbeat", "2s"]);
    let cases = [
        ("PRAGMA journal_mode=DELETE;\n", Ok("disk I/O error (10)")),
        // The index of the log is a map that connections share.
        ("PRAGMA journal_mode=WAL;\n", Err(Signal::BUS.as_raw())),
        ("PRAGMA locking_mode=EXCLUSIVE;\nPRAGMA journal_mode=WAL;\n", Ok("disk I/O error (10)")),
    ];
    let clients = cases.into_iter().enumerate();
    let mut clients: Vec<_> =
        clients.map(|(n, case)| Client::new(&store, &mount, n, case)).collect();
    std::thread::scope(|scope| {
        clients.iter_mut().for_each(|client| {
            scope.spawn(|| client.load());
        });
        store.key(&["disable", "alias/kmsfs"]);
        mount.wait_state("revoked", PATIENCE);
    });
    clients.iter_mut().for_each(Client::is_refused);
    store.key(&["enable", "alias/kmsfs"]);
    mount.wait_state("open", PATIENCE);
    clients.into_iter().for_each(Client::goes_on);
}
