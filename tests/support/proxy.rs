//! A proxy in front of a KMS that does to each answer what a bad network or server would.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{PATIENCE, Store, fails, kmsfs, run};

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// It is read, and never answered.
    Hang,
    /// The connection is reset when it has been read.
    Reset,
    /// It is passed on, later.
    Latency(Duration),
    /// It is answered so, without asking the server: an HTTP status and a body.
    Answer(u16, String),
    /// It is passed on, and half of the answer comes back.
    Half,
    /// It is passed on, and the answer comes back a byte each 50 ms.
    Drip,
}

impl Fault {
    /// A fault of the server.
    pub fn server() -> Self {
        Self::Answer(500, r#"{"__type":"KMSInternalException"}"#.to_owned())
    }

    /// Too many requests.
    pub fn throttling() -> Self {
        Self::error("ThrottlingException", "Rate exceeded")
    }

    /// An error of the KMS.
    pub fn error(code: &str, message: &str) -> Self {
        Self::Answer(400, format!(r#"{{"__type":"{code}","message":"{message}"}}"#))
    }

    /// An answer that is no JSON.
    pub fn wrong_json() -> Self {
        Self::Answer(200, "<html>welcome</html>".to_owned())
    }
}

#[derive(Default)]
struct State {
    /// By operation; the empty name is every other one.
    faults: HashMap<String, Fault>,
    calls: HashMap<String, u64>,
    open: Vec<TcpStream>,
}

struct Shared {
    upstream: u16,
    state: Mutex<State>,
    changed: Condvar,
    stopping: AtomicBool,
}

/// A running proxy.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// In front of a server's port.
    pub fn before(upstream: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port of loopback");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared {
            upstream,
            state: Mutex::default(),
            changed: Condvar::new(),
            stopping: AtomicBool::new(false),
        });
        let for_thread = shared.clone();
        let thread = std::thread::spawn(move || accept(&listener, &for_thread));
        Self { port, shared, thread: Some(thread) }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on, every request meets this fault.
    pub fn set(&self, fault: Fault) {
        self.change(|faults| {
            faults.clear();
            faults.insert(String::new(), fault);
        });
    }

    /// From now on, requests of this operation do.
    pub fn set_for(&self, operation: &str, fault: Fault) {
        self.change(|faults| drop(faults.insert(operation.to_owned(), fault)));
    }

    fn change(&self, change: impl FnOnce(&mut HashMap<String, Fault>)) {
        change(&mut self.shared.state.lock().expect("no holder panics").faults);
        self.shared.changed.notify_all();
    }

    /// How many requests of an operation have come so far.
    pub fn calls(&self, operation: &str) -> u64 {
        let state = self.shared.state.lock().expect("no holder panics");
        state.calls.get(operation).copied().unwrap_or(0)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.changed.notify_all();
        // Wakes the accepting thread.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Ok(state) = self.shared.state.lock() {
            state.open.iter().for_each(|s| drop(s.shutdown(Shutdown::Both)));
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        if let Ok(copy) = stream.try_clone() {
            shared.state.lock().expect("no holder panics").open.push(copy);
        }
        let shared = shared.clone();
        std::thread::spawn(move || {
            // A client that goes away in the middle is what the tests are about.
            let _ = serve(&stream, &shared);
            let _ = stream.shutdown(Shutdown::Both);
        });
    }
}

fn serve(mut client: &TcpStream, shared: &Shared) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut upstream: Option<TcpStream> = None;
    while let Some(request) = message(&mut client)? {
        let fault = shared.fault_for(&operation(&request));
        match fault {
            Fault::None => client.write_all(&pass(&request, &mut upstream, shared)?)?,
            Fault::Hang => {
                shared.wait_while(&fault, &operation(&request));
                return Ok(());
            }
            Fault::Reset => {
                rustix::net::sockopt::set_socket_linger(client, Some(Duration::ZERO))?;
                return Ok(());
            }
            Fault::Latency(time) => {
                std::thread::sleep(time);
                client.write_all(&pass(&request, &mut upstream, shared)?)?;
            }
            Fault::Answer(status, body) => {
                let length = body.len();
                let head = format!(
                    "HTTP/1.1 {status} x\r\nContent-Type: application/x-amz-json-1.1\r\n\
                     Content-Length: {length}\r\n\r\n"
                );
                client.write_all((head + &body).as_bytes())?;
            }
            Fault::Half => {
                let answer = pass(&request, &mut upstream, shared)?;
                return client.write_all(&answer[..answer.len() - 60]);
            }
            Fault::Drip => {
                for byte in pass(&request, &mut upstream, shared)? {
                    client.write_all(&[byte])?;
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        }
    }
    Ok(())
}

impl Shared {
    fn fault_for(&self, operation: &str) -> Fault {
        let mut state = self.state.lock().expect("no holder panics");
        *state.calls.entry(operation.to_owned()).or_default() += 1;
        state.present(operation)
    }

    fn wait_while(&self, fault: &Fault, operation: &str) {
        let state = self.state.lock().expect("no holder panics");
        let hangs =
            |s: &mut State| s.present(operation) == *fault && !self.stopping.load(Ordering::SeqCst);
        drop(self.changed.wait_while(state, hangs).expect("no holder panics"));
    }
}

impl State {
    fn present(&self, operation: &str) -> Fault {
        let found = self.faults.get(operation).or_else(|| self.faults.get(""));
        found.cloned().unwrap_or(Fault::None)
    }
}

fn pass(request: &[u8], upstream: &mut Option<TcpStream>, shared: &Shared) -> io::Result<Vec<u8>> {
    let stream = match upstream {
        Some(stream) => stream,
        none => none.insert(TcpStream::connect(("127.0.0.1", shared.upstream))?),
    };
    stream.set_nodelay(true)?;
    stream.write_all(request)?;
    message(&mut &*stream)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// `Decrypt`, `GenerateDataKey`, …; of Transit `decrypt`, `datakey`, …; of tokens `login`,
/// `renew-self`, …
fn operation(request: &[u8]) -> String {
    let of_aws = header(request, "x-amz-target:");
    if let Some(operation) = of_aws.and_then(|v| v.split('.').nth(1).map(str::to_owned)) {
        return operation;
    }
    let line = String::from_utf8_lossy(request);
    let path = line.split(' ').nth(1).unwrap_or_default();
    let transit = path.strip_prefix("/v1/transit/").and_then(|rest| rest.split('/').next());
    let auth = path.strip_prefix("/v1/auth/").and_then(|rest| rest.rsplit('/').next());
    transit.or(auth).unwrap_or_default().to_owned()
}

fn header(message: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(message);
    let head = text.split("\r\n\r\n").next()?;
    let line = head.lines().find(|l| l.to_ascii_lowercase().starts_with(name))?;
    Some(line[name.len()..].trim().to_owned())
}

/// One HTTP message with a content length, or none at the end of the stream.
fn message(stream: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        match stream.read(&mut chunk)? {
            0 => return Ok(None),
            n => bytes.extend_from_slice(&chunk[..n]),
        }
    };
    let length = header(&bytes, "content-length:").and_then(|v| v.parse().ok()).unwrap_or(0);
    while bytes.len() < end + length {
        match stream.read(&mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => bytes.extend_from_slice(&chunk[..n]),
        }
    }
    Ok(Some(bytes))
}

/// That a mount of this store, over this line with round trips of a second, needs more time than
/// calls have, and works when it has it.
pub fn assert_more_time_helps(line: &Proxy, store: &Store) {
    line.set(Fault::Latency(Duration::from_millis(1000)));
    fails(store.kmsfs().arg("mount").arg(store.path()).arg(store.mountpoint()), 6);
    let mount = store.mount(&["--kms-timeout", "10s", "--heartbeat", "5s"]);
    std::fs::write(mount.at("file"), b"content").expect("written");
    run(kmsfs().arg("lock").arg(mount.root()));
    run(kmsfs().arg("unlock").arg(mount.root()));
    mount.wait_state("open", PATIENCE);
    assert_eq!(std::fs::read(mount.at("file")).expect("readable"), b"content");
}
