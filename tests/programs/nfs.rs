//! A mount, exported by Debian's user-space NFS server, which finds files by their handles alone.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::port::free_port;
use crate::support::{Mount, Store, run, skipped, wait_for};

/// nfs-ganesha in the foreground, killed when dropped.
struct Server {
    process: Child,
    port: u16,
    log: PathBuf,
}

impl Server {
    /// Exports the mount as `/export`, over NFS version 4.
    fn new(store: &Store, mount: &Mount<'_>) -> Self {
        let port = free_port();
        let (config, log) = (store.outside("ganesha.conf"), store.outside("ganesha.log"));
        let text = format!(
            "NFS_CORE_PARAM {{ NFS_Port = {port}; Protocols = 4; Bind_addr = 127.0.0.1; \
               Enable_NLM = false; Enable_RQUOTA = false; }}
            NFSv4 {{ Graceless = true; RecoveryBackend = fs; }}
            NFS_KRB5 {{ Active_krb5 = false; }}
            EXPORT {{ Export_Id = 1; Path = {}; Pseudo = /export; Access_Type = RW; \
               Squash = No_root_squash; SecType = sys; Filesystem_id = 7.7; FSAL {{ Name = VFS; }} }}",
            mount.root().display()
        );
        fs::write(&config, text).expect("written");
        fs::create_dir_all("/var/run/ganesha").expect("made");
        let process = Command::new("ganesha.nfsd")
            .arg("-F")
            .args(["-f", config.to_str().expect("a plain path")])
            .args(["-L", log.to_str().expect("a plain path")])
            .args(["-p", store.outside("ganesha.pid").to_str().expect("a plain path")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let mut server =
            Self { process: process.expect("nfs-ganesha is installed"), port, log: log.clone() };
        wait_for("the NFS server", Duration::from_secs(60), || {
            let ended = server.process.try_wait().expect("it is ours");
            assert!(ended.is_none(), "{}", fs::read_to_string(&log).unwrap_or_default());
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        server
    }

    /// A client of libnfs, on a path of the export.
    fn client(&self, program: &str, path: &str) -> Command {
        let mut command = Command::new(program);
        command.arg(format!("nfs://127.0.0.1/export{path}?version=4&nfsport={}", self.port));
        command
    }

    fn read(&self, path: &str) -> String {
        let output = self.client("nfs-cat", path).output().expect("libnfs-utils is installed");
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{path}: {said}\n{log}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The kernel forgets inodes and names that nobody uses (proc_sys_vm(5)).
fn forget() {
    File::options()
        .write(true)
        .open("/proc/sys/vm/drop_caches")
        .and_then(|mut file| file.write_all(b"2"))
        .expect("root may");
}

/// The server's handles were stale as soon as the kernel had forgotten what they named.
#[test]
fn a_mount_is_exported_by_a_user_space_nfs_server() {
    if skipped("fuse") || skipped("nfs") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    let all = |path: &str, mode| {
        fs::set_permissions(mount.at(path), Permissions::from_mode(mode)).expect("changed");
    };
    fs::create_dir_all(mount.at("a/b/c")).expect("made");
    for n in 0..50 {
        fs::write(mount.at(&format!("a/b/c/file-{n}")), n.to_string()).expect("written");
    }
    let large = vec![7; 3_000_000];
    fs::write(mount.at("a/b/c/large"), &large).expect("written");
    ["", "a", "a/b", "a/b/c"].iter().for_each(|folder| all(folder, 0o777));
    let server = Server::new(&store, &mount);
    let list = |path: &str| run(&mut server.client("nfs-ls", path)).lines().count();
    assert_eq!(list("/a/b/c"), 51);
    for n in 0..4 {
        forget();
        assert_eq!(server.read(&format!("/a/b/c/file-{n}")), n.to_string());
        assert_eq!(list("/a/b/c"), 51);
    }
    // libnfs 4.0 writes nothing over NFS version 4, whatever it is that is exported.
    let copy = store.outside("copy");
    run(server.client("nfs-cp", "/a/b/c/large").arg(&copy));
    assert!(fs::read(copy).expect("readable") == large);
    fs::rename(mount.at("a/b/c"), mount.at("moved")).expect("moved");
    forget();
    assert_eq!(list("/moved"), 51);
    assert_eq!(server.read("/moved/file-9"), "9");
    drop(server);
}
