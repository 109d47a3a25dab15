//! MariaDB, its data in a mount: pages with O_DIRECT and asynchronous I/O, and a pool so small that
//! they are read again and written all the time.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::servers::{Database, Outcome, Server, Trial, nobodys, nobodys_folder, outcome};
use crate::support::{Mount, Store, files, nobody, run, skipped};

/// Rows of the load that belong to each row that is counted.
const PARTS: usize = 20;
/// The doublewrite buffer lies in these pages of ibdata1: copies of pages, torn by a kill, which
/// the server repairs others from. innochecksum knows nothing of that.
const DOUBLEWRITE: [u32; 2] = [64, 191];

struct MariaDb {
    data: PathBuf,
    run: PathBuf,
    server: Option<Server>,
}

impl MariaDb {
    fn new(store: &Store, mount: &Mount<'_>) -> Self {
        let data = nobodys_folder(mount, "mariadb");
        let mut install = nobody();
        install.args(["mariadb-install-db", "--no-defaults", "--skip-name-resolve"]);
        install.args(["--skip-test-db", "--auth-root-authentication-method=normal"]);
        run(install.arg(option("datadir", &data)).current_dir("/"));
        let mut database = Self { data, run: nobodys(&store.outside("run")), server: None };
        database.start();
        database.sql(
            "CREATE DATABASE d; CREATE TABLE d.rows(n INT PRIMARY KEY); \
             CREATE TABLE d.parts(n INT, part INT, text TEXT, PRIMARY KEY(n, part));",
        );
        let native = database.sql("SELECT @@innodb_use_native_aio, @@innodb_flush_method");
        assert_eq!(native, "1\tO_DIRECT\n");
        database
    }

    fn client(&self, program: &str) -> Command {
        let mut client = Command::new(program);
        client.args(["--no-defaults", "--user=root"]).arg(option("socket", &self.socket()));
        client
    }

    fn socket(&self) -> PathBuf {
        self.run.join("socket")
    }

    fn asked(&self, sql: &str) -> Command {
        let mut client = self.client("mariadb");
        client.args(["--batch", "--skip-column-names", "--execute", sql]);
        client
    }

    fn sql(&self, sql: &str) -> String {
        run(&mut self.asked(sql))
    }
}

fn option(name: &str, value: &Path) -> String {
    format!("--{name}={}", value.display())
}

impl Database for MariaDb {
    fn start(&mut self) {
        self.server = None;
        let mut server = nobody();
        server.args(["mariadbd", "--no-defaults", "--skip-networking"]);
        server.args([option("datadir", &self.data), option("socket", &self.socket())]);
        server.arg(option("pid-file", &self.run.join("pid")));
        server.args(["--innodb-flush-method=O_DIRECT", "--innodb-use-native-aio=1"]);
        server.args(["--innodb-buffer-pool-size=6M", "--innodb-log-file-size=8M"]);
        let log = self.run.join("log");
        let ready = || {
            self.client("mariadb")
                .args(["-e", "SELECT 1"])
                .output()
                .is_ok_and(|o| o.status.success())
        };
        self.server = Some(Server::start(&mut server, &log, ready));
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("it was started")
    }

    fn put(&self, row: u32) -> Result<(), String> {
        let sql = format!(
            "BEGIN; INSERT INTO d.rows VALUES({row}); INSERT INTO d.parts SELECT {row}, seq, \
             REPEAT(CHAR(97 + {row} % 26), 3000) FROM d.seq_1_to_{PARTS}; COMMIT"
        );
        outcome(&mut self.asked(&sql))
    }

    fn rows(&self) -> BTreeSet<u32> {
        let told = self.sql(&format!(
            "SELECT n FROM d.parts WHERE text = REPEAT(CHAR(97 + n % 26), 3000) \
             GROUP BY n HAVING COUNT(*) = {PARTS}"
        ));
        let whole: BTreeSet<u32> = told.lines().map(|n| n.parse().expect("a number")).collect();
        let counts = self.sql("SELECT (SELECT COUNT(*) FROM d.rows), COUNT(*) FROM d.parts");
        assert_eq!(counts, format!("{}\t{}\n", whole.len(), whole.len() * PARTS));
        whole
    }

    fn check(&mut self) {
        let told = run(self.client("mariadb-check").args(["--all-databases", "--extended"]));
        assert!(told.contains("d.parts"), "{told}");
        assert!(told.lines().all(|line| line.ends_with(" OK")), "{told}");
        self.server().stop();
        let checked = |file: &Path, pages: &[String]| {
            run(Command::new("innochecksum").args(pages).arg(file));
        };
        let mut tables = 0;
        for file in files(&self.data) {
            let name = file.file_name().expect("a file").to_string_lossy().into_owned();
            if name == "ibdata1" {
                checked(&file, &[format!("--end-page={}", DOUBLEWRITE[0] - 1)]);
                checked(&file, &[format!("--start-page={}", DOUBLEWRITE[1] + 1)]);
            } else if name.ends_with(".ibd") || name.starts_with("undo") {
                checked(&file, &[]);
                tables += 1;
            }
        }
        assert!(tables > 2, "{tables}");
    }
}

#[test]
fn mariadb_loses_no_transaction_to_a_kill_or_a_disabled_key() {
    if skipped("fuse") || skipped("mariadb") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&["--heartbeat", "2s"]);
    let mut trial = Trial::new(&store, &mount, MariaDb::new(&store, &mount));
    trial.kill();
    // Which it is depends on what is wanted first: the log, more room for a table, or a page.
    let ends = ["operating system error 128", "failed with error 128", "mariadbd got signal 11"];
    trial.disable(&Outcome::Ends, &ends);
    trial.check();
}
