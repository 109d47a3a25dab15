//! OpenBao, the real server, with TLS: unsealed, with Transit at `transit` and AppRole.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::port::free_port;
use super::server::tool;
use super::{PATIENCE, run, wait_for};

/// A running server, whose data outlive a stop.
pub struct Bao {
    child: Option<Child>,
    port: u16,
    plain_port: u16,
    folder: tempfile::TempDir,
    unseal_key: String,
    root: String,
}

/// An authority, and certificates of it for the server and for a client.
fn make_certificates(folder: &Path) {
    let script = "
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
            -subj '/CN=kmsfs test' -keyout ca.key -out ca.pem
        for who in server client; do
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
                -subj /CN=$who -keyout $who.key -out $who.csr
            printf '%s\n' 'subjectAltName=IP:127.0.0.1,DNS:localhost' 'basicConstraints=CA:FALSE' \
                'extendedKeyUsage=serverAuth,clientAuth' >$who.ext
            openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
                -extfile $who.ext -out $who.pem
        done";
    run(Command::new("sh").args(["-ec", script]).current_dir(folder));
}

impl Bao {
    /// A new one.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("kmsfs-bao-").tempdir().expect("a folder");
        make_certificates(folder.path());
        let [port, plain_port, cluster_port] = [(); 3].map(|()| free_port());
        fs::create_dir(folder.path().join("data")).expect("made");
        let config = format!(
            "storage \"raft\" {{
                path = \"data\"
                node_id = \"one\"
                performance_multiplier = 1
            }}
            api_addr = \"https://127.0.0.1:{port}\"
            cluster_addr = \"https://127.0.0.1:{cluster_port}\"
            listener \"tcp\" {{
                address = \"127.0.0.1:{port}\"
                tls_cert_file = \"server.pem\"
                tls_key_file = \"server.key\"
                tls_client_ca_file = \"ca.pem\"
            }}
            listener \"tcp\" {{
                address = \"127.0.0.1:{plain_port}\"
                tls_disable = true
            }}"
        );
        fs::write(folder.path().join("bao.hcl"), config).expect("written");
        let mut bao = Self {
            child: None,
            port,
            plain_port,
            folder,
            unseal_key: String::new(),
            root: String::new(),
        };
        bao.run_server();
        let made =
            bao.cli(&["operator", "init", "-key-shares=1", "-key-threshold=1", "-format=json"]);
        let made: serde_json::Value = serde_json::from_str(&made).expect("JSON");
        let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
        bao.unseal_key = text(&made["unseal_keys_b64"][0]);
        bao.root = text(&made["root_token"]);
        bao.unseal();
        bao.cli(&["secrets", "enable", "transit"]);
        bao.cli(&["auth", "enable", "approle"]);
        bao
    }

    fn run_server(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.at("log"));
        let child = Command::new(tool("openbao", "bao"))
            .args(["server", "-config=bao.hcl"])
            .current_dir(self.folder.path())
            .env("HOME", self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("a log"))
            .spawn();
        self.child = Some(child.expect("the server starts"));
        wait_for("OpenBao", PATIENCE, || {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            assert_eq!(ended, None, "{}", fs::read_to_string(self.at("log")).unwrap_or_default());
            // Sealed (2) is an answer too.
            let status = self.command(&["status"]).output().expect("started").status;
            matches!(status.code(), Some(0 | 2))
        });
    }

    /// A path in its folder: `ca.pem`, `client.pem`, `client.key`.
    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The port with TLS.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port without TLS, for a proxy to stand before it.
    pub fn plain_port(&self) -> u16 {
        self.plain_port
    }

    /// The root's token.
    pub fn root(&self) -> &str {
        &self.root
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(tool("openbao", "bao"));
        command.args(args).envs(self.env(&self.root)).stdin(Stdio::null());
        command
    }

    /// Runs `bao` as root, and answers its stdout.
    pub fn cli(&self, args: &[&str]) -> String {
        run(&mut self.command(args)).trim().to_owned()
    }

    /// Where a client finds it, and nothing that it is known by.
    pub fn place(&self) -> Vec<(String, String)> {
        [
            ("VAULT_ADDR", self.url()),
            ("VAULT_CACERT", self.at("ca.pem").display().to_string()),
            ("HOME", self.folder.path().display().to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    /// As [`Bao::place`], with a token.
    pub fn env(&self, token: &str) -> Vec<(String, String)> {
        let mut env = self.place();
        env.push(("VAULT_TOKEN".to_owned(), token.to_owned()));
        env
    }

    /// A policy for a mount under a key.
    pub fn allow(&self, policy: &str, key: &str) {
        let path = self.at(&format!("{policy}.hcl"));
        let rules = ["datakey/plaintext", "decrypt", "encrypt"].map(|call| {
            format!("path \"transit/{call}/{key}\" {{ capabilities = [\"update\"] }}\n")
        });
        fs::write(&path, rules.concat()).expect("written");
        self.cli(&["policy", "write", policy, path.to_str().expect("UTF-8")]);
    }

    /// A token under a policy.
    pub fn token(&self, policy: &str, ttl: &str) -> String {
        let [policy, ttl] = [format!("-policy={policy}"), format!("-ttl={ttl}")];
        self.cli(&["token", "create", &policy, &ttl, "-field=token"])
    }

    /// Kills it.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again, and unseals it.
    pub fn start_again(&mut self) {
        self.run_server();
        self.unseal();
    }

    /// Seals it.
    pub fn seal(&self) {
        self.cli(&["operator", "seal"]);
    }

    /// Unseals it.
    pub fn unseal(&self) {
        self.cli(&["operator", "unseal", &self.unseal_key]);
        wait_for("an active server", PATIENCE, || {
            self.command(&["token", "lookup"]).output().expect("started").status.success()
        });
    }
}

impl Drop for Bao {
    fn drop(&mut self) {
        self.stop();
    }
}
