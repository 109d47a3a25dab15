//! Redis, its append-only file and its snapshots in a mount.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;

use crate::servers::{Database, Outcome, Server, Trial, nobodys, nobodys_folder};
use crate::support::{Mount, Store, nobody, run, skipped};

struct Redis {
    data: PathBuf,
    run: PathBuf,
    /// `always` or `everysec`: what is acknowledged before it is synced.
    fsync: &'static str,
    server: Option<Server>,
}

impl Redis {
    fn new(store: &Store, mount: &Mount<'_>, fsync: &'static str) -> Self {
        let data = nobodys_folder(mount, "redis");
        Self { data, run: nobodys(&store.outside("run")), fsync, server: None }
    }

    fn client(&self, args: &[&str]) -> Command {
        let mut client = Command::new("redis-cli");
        client.arg("-s").arg(self.run.join("socket")).args(args);
        client
    }

    /// The first line of the answer to a command.
    fn ask(&self, command: &str) -> std::io::Result<String> {
        let mut socket = UnixStream::connect(self.run.join("socket"))?;
        socket.write_all(command.as_bytes())?;
        let mut answer = String::new();
        BufReader::new(socket).read_line(&mut answer)?;
        Ok(answer)
    }
}

impl Database for Redis {
    fn start(&mut self) {
        self.server = None;
        let mut server = nobody();
        server.args(["redis-server", "--port", "0", "--unixsocket"]).arg(self.run.join("socket"));
        server.args(["--appendonly", "yes", "--appendfsync", self.fsync, "--save", "1 20"]);
        server.arg("--dir").arg(&self.data);
        let log = self.run.join("log");
        let ready = || self.ask("PING\r\n").is_ok_and(|answer| answer == "+PONG\r\n");
        self.server = Some(Server::start(&mut server, &log, ready));
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("it was started")
    }

    fn put(&self, row: u32) -> Result<(), String> {
        let answer = self.ask(&format!("SET {row} {row}\r\n")).map_err(|e| e.to_string())?;
        if answer == "+OK\r\n" { Ok(()) } else { Err(answer) }
    }

    fn rows(&self) -> BTreeSet<u32> {
        let told = run(&mut self.client(&["--scan"]));
        let rows: BTreeSet<u32> = told.lines().map(|n| n.parse().expect("a number")).collect();
        for row in &rows {
            let value = row.to_string();
            let answer = self.ask(&format!("STRLEN {row}\r\n")).expect("it answers");
            assert_eq!(answer, format!(":{}\r\n", value.len()));
        }
        rows
    }

    fn check(&mut self) {
        assert_eq!(run(&mut self.client(&["save"])).trim(), "OK");
        let rows = self.rows().len();
        self.server().stop();
        let manifest = self.data.join("appendonlydir/appendonly.aof.manifest");
        let told = run(Command::new("redis-check-aof").arg(manifest));
        assert!(told.contains("All AOF files and manifest are valid"), "{told}");
        let told = run(Command::new("redis-check-rdb").arg(self.data.join("dump.rdb")));
        assert!(told.contains(&format!("{rows} keys read")), "{rows} keys: {told}");
    }
}

#[test]
fn redis_that_syncs_each_write_loses_no_key_to_a_kill_or_a_disabled_master_key() {
    if skipped("fuse") || skipped("redis") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&["--heartbeat", "2s"]);
    let mut trial = Trial::new(&store, &mount, Redis::new(&store, &mount, "always"));
    trial.kill();
    let line =
        "Can't recover from AOF write error when the AOF fsync policy is 'always'. Exiting...";
    trial.disable(&Outcome::Ends, &[line]);
    trial.check();
}

/// It promises nothing of the last second to who kills it.
#[test]
fn redis_that_syncs_each_second_goes_on_by_itself() {
    if skipped("fuse") || skipped("redis") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&["--heartbeat", "2s"]);
    let mut trial = Trial::new(&store, &mount, Redis::new(&store, &mount, "everysec"));
    trial.disable(&Outcome::GoesOn, &["Error writing to the AOF file: Key has been revoked"]);
    trial.check();
}
