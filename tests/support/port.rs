//! Ports of loopback for the servers that tests start.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

/// Below the ports that the kernel gives to outgoing connections
/// (/proc/sys/net/ipv4/ip_local_port_range).
const FIRST: u16 = 10_000;
const COUNT: u16 = 20_000;

/// A port of loopback that nobody has. Another call does not return it while this process lives,
/// not in another process either: an abstract socket, which processes of one network namespace
/// share, stands for it.
pub fn free_port() -> u16 {
    static RESERVED: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let start = now.subsec_nanos() % u32::from(COUNT);
    for step in 0..u32::from(COUNT) {
        let offset = u16::try_from((start + step) % u32::from(COUNT)).expect("less than COUNT");
        let port = FIRST + offset;
        let name = SocketAddr::from_abstract_name(format!("kmsfs-test-port-{port}"));
        let Ok(reservation) = UnixListener::bind_addr(&name.expect("a short name")) else {
            continue;
        };
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            RESERVED.lock().expect("no thread panics with it").push(reservation);
            return port;
        }
    }
    panic!("no port of loopback is free")
}
