//! A web server that serves files of a mount, with sendfile(2) and a cache of descriptors.

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::servers::{Server, logs};
use crate::support::{PATIENCE, Store, skipped};

/// More than fits into what the kernel holds of a connection.
const LARGE: usize = 20_000_000;

/// A request whose answer has not been read.
fn asked(socket: &Path, path: &str) -> std::io::Result<UnixStream> {
    let mut connection = UnixStream::connect(socket)?;
    connection.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    Ok(connection)
}

/// The status and the body.
fn answer(mut connection: UnixStream) -> std::io::Result<(String, Vec<u8>)> {
    let mut all = Vec::new();
    connection.read_to_end(&mut all)?;
    let end = all.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(all.len());
    let status = String::from_utf8_lossy(&all[..end]).split(' ').nth(1).unwrap_or("").to_owned();
    Ok((status, all.get(end + 4..).unwrap_or_default().to_vec()))
}

fn get(socket: &Path, path: &str) -> std::io::Result<(String, Vec<u8>)> {
    answer(asked(socket, path)?)
}

#[test]
fn nginx_serves_nothing_while_the_key_is_disabled_and_goes_on_then() {
    if skipped("fuse") || skipped("nginx") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&["--heartbeat", "2s"]);
    for folder in [store.mountpoint().parent().expect("a parent"), &mount.root()] {
        fs::set_permissions(folder, Permissions::from_mode(0o755)).expect("set");
    }
    for name in ["open", "other"] {
        fs::write(mount.at(name), name).expect("written");
    }
    let mut large = vec![0; LARGE];
    File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut large)).expect("random");
    fs::write(mount.at("large"), &large).expect("written");
    let (socket, log) = (store.outside("socket"), store.outside("log"));
    let server = nginx(&store, &mount.root(), &socket, &log);
    let is = |path: &str, body: &[u8]| {
        let (status, got) = get(&socket, path).expect("it answers");
        assert!(status == "200" && got == body, "{path}: {status}, {} bytes", got.len());
    };
    is("/open", b"open");
    is("/large", &large);

    let slow = asked(&socket, "/large").expect("it answers");
    store.key(&["disable", "alias/kmsfs"]);
    mount.wait_state("revoked", PATIENCE);
    // Its descriptor is in the server's cache, and so are its size and its status.
    let (status, body) = get(&socket, "/open").expect("it answers");
    assert_eq!((&*status, body.len()), ("200", 0));
    let (status, _) = get(&socket, "/other").expect("it answers");
    assert_eq!(status, "500");
    let (_, body) = answer(slow).expect("it answers");
    assert!(body.len() < LARGE && large.starts_with(&body), "{} bytes", body.len());
    let said = fs::read_to_string(&log).expect("a log");
    logs(&said, &["failed (128: Key has been revoked), client"]);
    logs(&said, &["sendfile() failed (128: Key has been revoked)"]);

    store.key(&["enable", "alias/kmsfs"]);
    mount.wait_state("open", PATIENCE);
    is("/open", b"open");
    is("/other", b"other");
    is("/large", &large);
    assert!(!server.has_ended());
}

/// In the foreground, on a socket; what it writes lies beside the store.
fn nginx(store: &Store, root: &Path, socket: &Path, log: &Path) -> Server {
    let folder = |name: &str| store.outside(name).display().to_string();
    let bodies: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {};", folder(kind)))
        .concat();
    let config = format!(
        "user nobody nogroup; worker_processes 1; daemon off; pid {}; error_log {};
        events {{ worker_connections 64; }}
        http {{ access_log off; sendfile on; open_file_cache max=100; {bodies}
            server {{ listen unix:{}; root {}; }} }}",
        folder("pid"),
        log.display(),
        socket.display(),
        root.display()
    );
    let at: PathBuf = store.outside("nginx.conf");
    fs::write(&at, config).expect("written");
    let mut command = Command::new("nginx");
    command.arg("-c").arg(at);
    Server::start(&mut command, &store.outside("said"), || get(socket, "/open").is_ok())
}
