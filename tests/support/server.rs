//! Servers of the KMS API, on loopback, ended when dropped.
//!
//! `scripts/lib/common` (`kms_servers`) installs them into `target/tools`. What each does wrong,
//! compared with AWS: ministack has no ReEncrypt and no rotation, ignores the demanded key, and
//! does not authenticate its ciphertext; LocalStack takes no policies.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use super::port::free_port;
use super::{PATIENCE, kmsfs, run, wait_for};

/// The region that every test uses.
pub const REGION: &str = "us-east-1";

/// Whether a server enforces policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// Everyone may do everything.
    None,
    /// IAM and key policies hold; `test` is the account's root.
    Enforced,
}

/// A running server.
pub struct Server {
    child: Child,
    port: u16,
    tool: &'static str,
    _folder: tempfile::TempDir,
}

pub(super) fn tool(name: &str, program: &str) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("target/tools").join(name).join("bin").join(program);
    assert!(
        path.exists(),
        "{} is missing: bash -c '. scripts/lib/common; kms_servers', or KMSFS_SKIP={name}",
        path.display()
    );
    path
}

impl Server {
    /// ministack: fast, and with [`Rules::Enforced`] it checks policies.
    pub fn ministack(rules: Rules) -> Self {
        let port = free_port();
        let mut command = Command::new(tool("ministack", "ministack"));
        command
            .env("GATEWAY_PORT", port.to_string())
            .env("BIND_HOST", "127.0.0.1")
            .env("SERVICES", "kms,iam,sts")
            .env("AUTH", (rules == Rules::Enforced).to_string());
        Self::start(command, port, "ministack")
    }

    /// LocalStack: slower; it has ReEncrypt, rotation and IncorrectKeyException.
    pub fn localstack() -> Self {
        let port = free_port();
        let mut command = Command::new(tool("localstack", "python"));
        command
            .args(["-m", "localstack.runtime.main"])
            .env("GATEWAY_LISTEN", format!("127.0.0.1:{port}"))
            .env("SERVICES", "kms,iam,sts")
            .env("DISABLE_EVENTS", "1")
            .env("SKIP_SSL_CERT_DOWNLOAD", "1")
            .env("DNS_ADDRESS", "0");
        Self::start(command, port, "localstack")
    }

    fn start(mut command: Command, port: u16, tool: &'static str) -> Self {
        let folder = tempfile::Builder::new().prefix("kmsfs-kms-").tempdir().expect("a folder");
        let child = command
            .env_remove("AWS_ACCESS_KEY_ID")
            .env_remove("AWS_SECRET_ACCESS_KEY")
            .env("HOME", folder.path())
            .env("LOCALSTACK_VOLUME_DIR", folder.path())
            .current_dir(folder.path())
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{tool}: {e}"));
        let server = Self { child, port, tool, _folder: folder };
        wait_for(tool, PATIENCE, || server.answers());
        server
    }

    /// Whether it lists keys.
    fn answers(&self) -> bool {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nX-Amz-Target: TrentService.ListKeys\r\n\
             Content-Type: application/x-amz-json-1.1\r\nContent-Length: 2\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=test/20260101/{REGION}/kms/aws4_request, \
             SignedHeaders=host, Signature=0\r\nConnection: close\r\n\r\n{{}}",
            self.port
        );
        let ask = || -> std::io::Result<Vec<u8>> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(request.as_bytes())?;
            let mut head = vec![0; 12];
            stream.read_exact(&mut head)?;
            Ok(head)
        };
        // With policies enforced, this unsigned request is refused, which is an answer too.
        ask().is_ok_and(|head| head.starts_with(b"HTTP/1.1 2") || head.starts_with(b"HTTP/1.1 4"))
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Runs Python with `kms` and `iam`, clients of this server as the account's root.
    pub fn python(&self, program: &str) -> String {
        let mut command = Command::new(tool(self.tool, "python"));
        run(command.arg("-c").arg(self.with_clients(program)).stdin(Stdio::null()))
            .trim()
            .to_owned()
    }

    /// The same as a command of the shell; the program lies in `file`.
    pub fn shell_line(&self, file: &Path, program: &str) -> String {
        std::fs::write(file, self.with_clients(program)).expect("written");
        format!("'{}' '{}'", tool(self.tool, "python").display(), file.display())
    }

    fn with_clients(&self, program: &str) -> String {
        let prelude = format!(
            "import json, botocore.session\n\
             def client(name, key='test', secret='test'):\n\
             \x20   return botocore.session.Session().create_client(name, region_name='{REGION}',\n\
             \x20       endpoint_url='{}', aws_access_key_id=key, aws_secret_access_key=secret)\n\
             kms, iam = client('kms'), client('iam')\n",
            self.url()
        );
        prelude + program
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// The environment of a client with these credentials, and nothing else of the machine's.
pub fn credentials(key: &str, secret: &str) -> Vec<(String, String)> {
    [
        ("AWS_ACCESS_KEY_ID", key),
        ("AWS_SECRET_ACCESS_KEY", secret),
        ("AWS_REGION", REGION),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("AWS_CONFIG_FILE", "/dev/null"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .to_vec()
}

/// `kmsfs key` on a server, as the account's root.
pub fn key(server: &Server) -> Command {
    let mut command = kmsfs();
    command
        .arg("key")
        .args(["--kms", "aws", "--endpoint-url", &server.url()])
        .envs(credentials("test", "test"));
    command
}

/// A new key of the server with this alias: its id.
pub fn new_key(server: &Server, alias: &str) -> String {
    run(key(server).args(["create", "--alias", alias])).trim().to_owned()
}
