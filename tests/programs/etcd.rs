//! etcd, one member of its own, its log and its database in a mount: the database is a memory map.
//! It takes seconds to start, so `scripts/acceptance programs` runs these.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::servers::{Database, Outcome, Server, Trial, logs, nobodys, nobodys_folder, outcome};
use crate::support::{Mount, PATIENCE, Store, nobody, run, wait_for};

/// Sockets in the folder that it runs in: etcd takes their names for hosts with ports.
const CLIENT: &str = "unix://client:0";
/// See [`CLIENT`].
const PEER: &str = "unix://peer:0";

/// What it logs that can write no more.
const WRITTEN: &str = "etcdserver: failed to save state and entries error: write";
/// It looks for what it can purge each half minute.
const PURGED: &str = "etcdserver: failed to purge wal file";

struct Etcd {
    data: PathBuf,
    run: PathBuf,
    server: Option<Server>,
}

impl Etcd {
    fn new(store: &Store, mount: &Mount<'_>) -> Self {
        let data = nobodys_folder(mount, "etcd").join("data");
        Self { data, run: nobodys(&store.outside("run")), server: None }
    }

    fn client(&self, args: &[&str]) -> Command {
        let mut client = Command::new("etcdctl");
        client.env("ETCDCTL_API", "3").current_dir(&self.run).args(["--endpoints", CLIENT]);
        client.args(["--command-timeout", "20s"]).args(args);
        client
    }

    /// The hash of all keys at all revisions.
    fn hash(&self) -> String {
        run(&mut self.client(&["endpoint", "hashkv"]))
    }
}

impl Database for Etcd {
    fn start(&mut self) {
        self.server = None;
        // It takes a socket that is left for one in use.
        for socket in [CLIENT, PEER].map(|url| url.trim_start_matches("unix://")) {
            let _ = fs::remove_file(self.run.join(socket));
        }
        let mut server = nobody();
        server.args(["etcd", "--name", "one", "--data-dir"]).arg(&self.data);
        for option in ["--listen-client-urls", "--advertise-client-urls"] {
            server.args([option, CLIENT]);
        }
        server.args(["--listen-peer-urls", PEER]);
        server.args(["--initial-advertise-peer-urls", "http://localhost:0"]);
        server.args(["--initial-cluster", "one=http://localhost:0"]);
        let log = self.run.join("log");
        let ready =
            || self.client(&["endpoint", "health"]).output().is_ok_and(|o| o.status.success());
        self.server = Some(Server::start(&mut server, &log, ready));
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("it was started")
    }

    fn put(&self, row: u32) -> Result<(), String> {
        let value = row.to_string();
        outcome(&mut self.client(&["put", "--", &format!("row/{row}"), &value]))
    }

    fn rows(&self) -> BTreeSet<u32> {
        let told = run(&mut self.client(&["get", "--prefix", "row/"]));
        let lines: Vec<_> = told.lines().collect();
        let pairs = lines.chunks(2).map(|pair| {
            assert_eq!(pair[0].strip_prefix("row/"), Some(pair[1]));
            pair[1].parse().expect("a number")
        });
        pairs.collect()
    }

    fn check(&mut self) {
        let hash = self.hash();
        let snapshot = self.run.join("snapshot");
        let path = snapshot.display().to_string();
        run(&mut self.client(&["snapshot", "save", &path]));
        run(&mut self.client(&["snapshot", "status", &path]));
        self.server().stop();
        self.start();
        assert_eq!(self.hash(), hash);
        self.server().stop();
    }
}

#[test]
#[ignore = "scripts/acceptance programs installs etcd and runs it"]
fn etcd_loses_no_key_to_a_kill_or_a_disabled_master_key() {
    let store = Store::new(&[]);
    let mount = store.mount(&["--heartbeat", "2s"]);
    let mut trial = Trial::new(&store, &mount, Etcd::new(&store, &mount));
    trial.kill();
    trial.disable(&Outcome::Ends, &[WRITTEN, PURGED]);
    trial.check();
}

/// It reads its database through a map, and Go ends a program at a SIGBUS. Without a read it ends
/// within half a minute.
#[test]
#[ignore = "scripts/acceptance programs installs etcd and runs it"]
fn etcd_that_is_only_read_ends_too() {
    let store = Store::new(&[]);
    let mount = store.mount(&["--heartbeat", "2s"]);
    let mut etcd = Etcd::new(&store, &mount);
    etcd.start();
    etcd.put(0).expect("acknowledged");
    // What it has written itself it has in its own memory.
    etcd.server().stop();
    etcd.start();
    store.key(&["disable", "alias/kmsfs"]);
    mount.wait_state("revoked", PATIENCE);
    let mut get = etcd.client(&["get", "row/0"]).spawn().expect("started");
    wait_for("its end", PATIENCE, || etcd.server().has_ended());
    let _ = get.kill().and_then(|()| get.wait());
    logs(&etcd.server().log(), &["[signal SIGBUS: bus error", PURGED]);
    store.key(&["enable", "alias/kmsfs"]);
    mount.wait_state("open", PATIENCE);
    etcd.start();
    assert_eq!(etcd.rows(), [0].into());
}
