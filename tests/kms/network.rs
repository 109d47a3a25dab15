//! AWS KMS as it is met in the field: behind a proxy, with a private authority's certificate, over
//! a slow line. The proxy is tinyproxy, TLS is stunnel's.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::demo::{Demo, assert_kept, assert_played};
use crate::support::port::free_port;
use crate::support::proxy::{Proxy, assert_more_time_helps};
use crate::support::server::{Rules, Server, credentials, new_key};
use crate::support::tinyproxy::Tinyproxy;
use crate::support::{PATIENCE, Store, fails, kmsfs, run, skipped, wait_for};

/// An authority, and a certificate of it for this machine.
const CERTIFICATES: &str = "
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj '/CN=kmsfs test' -keyout ca.key -out ca.pem
    openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout own.key -out own.csr
    printf '%s\\n' 'subjectAltName=DNS:localhost' 'basicConstraints=CA:FALSE' \
        'extendedKeyUsage=serverAuth' > own.ext
    openssl x509 -req -in own.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
        -extfile own.ext -out own.pem";

/// A KMS that is reached over TLS, and a proxy that leads there.
struct Field {
    server: Server,
    folder: tempfile::TempDir,
    tls: u16,
    proxy: Tinyproxy,
    stunnel: Child,
}

impl Field {
    fn new() -> Self {
        let server = Server::ministack(Rules::None);
        let folder = tempfile::Builder::new().prefix("kmsfs-field-").tempdir().expect("a folder");
        run(Command::new("sh").args(["-ec", CERTIFICATES]).current_dir(folder.path()));
        let tls = free_port();
        let text = format!(
            "foreground = yes\npid =\n[kms]\naccept = 127.0.0.1:{tls}\n\
             connect = 127.0.0.1:{}\ncert = own.pem\nkey = own.key\n",
            server.port()
        );
        fs::write(folder.path().join("stunnel.conf"), text).expect("written");
        let mut command = Command::new("stunnel");
        command.arg("stunnel.conf").current_dir(folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let stunnel = command.spawn().unwrap_or_else(|e| panic!("stunnel: {e}"));
        let field = Self { server, folder, tls, proxy: Tinyproxy::to(tls), stunnel };
        wait_for("stunnel", PATIENCE, || TcpStream::connect(("127.0.0.1", tls)).is_ok());
        field
    }

    fn authority(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.tls)
    }

    /// `kmsfs key list` there.
    fn list(&self) -> Command {
        let mut command = kmsfs();
        command.args(["key", "--kms", "aws", "--region", "eu-west-1", "--endpoint-url"]);
        command.arg(self.url()).arg("list").envs(credentials("test", "test"));
        // Calls pass through three servers, on a machine that does other things too.
        command.env_remove("AWS_CA_BUNDLE").env("KMSFS_KMS_TIMEOUT", "10s");
        command
    }
}

impl Drop for Field {
    fn drop(&mut self) {
        let _ = self.stunnel.kill();
        let _ = self.stunnel.wait();
    }
}

fn skip() -> bool {
    skipped("ministack") || skipped("network")
}

/// `AWS_CA_BUNDLE` and `ca_bundle` were passed over.
#[test]
fn a_private_authority_is_believed_where_it_is_named() {
    if skip() {
        return;
    }
    let field = Field::new();
    let said = fails(&mut field.list(), 6);
    assert!(said.to_lowercase().contains("certificate"), "{said}");
    run(field.list().env("AWS_CA_BUNDLE", field.authority()));
    let profile = field.folder.path().join("config");
    let text = format!("[profile own]\nca_bundle = {}\n", field.authority().display());
    fs::write(&profile, text).expect("written");
    run(field.list().env("AWS_CONFIG_FILE", &profile).args(["--profile", "own"]));
    let own = field.folder.path().join("own.pem");
    fails(field.list().env("AWS_CA_BUNDLE", &own), 6);
    let key = field.folder.path().join("own.key");
    let said = fails(field.list().env("AWS_CA_BUNDLE", &key), 4);
    assert!(said.contains("own.key") && said.contains("certificate"), "{said}");
    fails(field.list().env("AWS_CA_BUNDLE", Path::new("/nonexistent/ca.pem")), 4);
}

/// They were passed over: a machine that has no other way out could not mount.
#[test]
fn a_proxy_is_gone_through_where_one_is_named() {
    if skip() || skipped("fuse") {
        return;
    }
    let field = Field::new();
    let proxy = field.proxy.url();
    let bundle = field.authority().display().to_string();
    let list = || {
        let mut list = field.list();
        list.env("AWS_CA_BUNDLE", &bundle);
        list
    };
    run(list().env("HTTPS_PROXY", &proxy));
    assert!(field.proxy.led() > 0);
    let nobody = format!("http://127.0.0.1:{}", free_port());
    fails(list().env("HTTPS_PROXY", &nobody), 6);
    run(list().env("HTTPS_PROXY", &nobody).env("NO_PROXY", "example.org,localhost"));
    fails(list().env("HTTPS_PROXY", "ftp://::"), 4);

    let key = new_key(&field.server, "kmsfs");
    let mut env = credentials("test", "test");
    env.push(("AWS_CA_BUNDLE".to_owned(), bundle));
    env.push(("HTTPS_PROXY".to_owned(), proxy));
    env.push(("KMSFS_KMS_TIMEOUT".to_owned(), "10s".to_owned()));
    let store = Store::aws(&field.url(), &env, &["--master-key", &key]);
    let led = field.proxy.led();
    let mount = store.mount(&["--heartbeat", "1s"]);
    fs::write(mount.at("file"), b"content").expect("written");
    assert!(field.proxy.led() > led);
    store.key(&["disable", &key]);
    mount.wait_state("revoked", PATIENCE);
    store.key(&["enable", &key]);
    mount.wait_state("open", PATIENCE);
    assert_eq!(fs::read(mount.at("file")).expect("readable"), b"content");
}

/// The demo stands between the mount and the KMS as a proxy, and cuts that.
#[test]
fn the_demo_cuts_the_line_of_tls() {
    if skip() || skipped("fuse") {
        return;
    }
    let field = Field::new();
    new_key(&field.server, "shown");
    let demo = Demo::new();
    let mut command = demo.command(&["--kms", "aws", "--key", "alias/shown", "--also", "network"]);
    command.args(["--endpoint-url", &field.url(), "--heartbeat", "1s", "--seconds", "1"]);
    command.envs(credentials("test", "test")).env("AWS_CA_BUNDLE", field.authority());
    for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"] {
        command.env_remove(name);
    }
    let output = command.output().expect("started");
    assert_kept(&output, &demo.report());
    let promises: &[&str] =
        &["work on cached keys: ", "a file whose key is not cached: EKEYEXPIRED"];
    assert_played(&output, &demo.report(), &[("network", promises)]);
    demo.assert_gone();
}

/// With round trips of 300 ms no first call could end in time.
#[test]
fn a_slow_line_is_given_more_time() {
    if skip() || skipped("fuse") {
        return;
    }
    let server = Server::ministack(Rules::None);
    let key = new_key(&server, "kmsfs");
    let line = Proxy::before(server.port());
    let store = Store::aws(&line.url(), &credentials("test", "test"), &["--master-key", &key]);
    assert_more_time_helps(&line, &store);
    let mut wrong = store.kmsfs();
    wrong.args(["mount", "--kms-timeout", "11s"]).arg(store.path()).arg(store.mountpoint());
    assert!(fails(&mut wrong, 2).contains("from 1s to 10s"));
}
