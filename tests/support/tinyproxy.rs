//! tinyproxy, the real server, which leads to one port and writes down what it led to.

use std::fs;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use super::port::free_port;
use super::{PATIENCE, wait_for};

/// A running proxy, ended when dropped.
pub struct Tinyproxy {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Tinyproxy {
    /// One that leads to this port alone.
    pub fn to(target: u16) -> Self {
        let folder = tempfile::Builder::new().prefix("kmsfs-proxy-").tempdir().expect("a folder");
        let (port, log) = (free_port(), folder.path().join("log"));
        let text = format!(
            "Port {port}\nListen 127.0.0.1\nAllow 127.0.0.1\nConnectPort {target}\n\
             LogFile \"{}\"\nLogLevel Connect\n",
            log.display()
        );
        fs::write(folder.path().join("proxy.conf"), text).expect("written");
        let mut command = Command::new("tinyproxy");
        command.args(["-d", "-c", "proxy.conf"]).current_dir(folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|e| panic!("tinyproxy: {e}"));
        let proxy = Self { child, port, folder };
        wait_for("tinyproxy", PATIENCE, || TcpStream::connect(("127.0.0.1", port)).is_ok());
        proxy
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// How often it has led there.
    pub fn led(&self) -> usize {
        let log = fs::read_to_string(self.folder.path().join("log")).expect("a log");
        log.matches("CONNECT ").count()
    }
}

impl Drop for Tinyproxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
