//! A forwarder of TCP connections on loopback, which can stop to forward.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use crate::threads::{Role, spawn};

/// Where connections lead.
#[derive(Clone)]
pub(super) enum Upstream {
    /// To this host and port.
    Fixed(String),
    /// To where each asks for, as of an HTTP proxy: CONNECT.
    Asked,
}

/// What a proxy is asked has no more bytes.
const LONGEST: usize = 8 << 10;
/// How long one may take to ask, and a server to accept.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connections that are open, and whether new ones are forwarded.
struct Line {
    state: State,
    open: Vec<TcpStream>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Whole,
    Cut,
    Ended,
}

/// A running one; it ends when dropped.
pub(super) struct Forwarder {
    port: u16,
    line: Arc<Mutex<Line>>,
    thread: Option<JoinHandle<()>>,
}

impl Forwarder {
    /// On a free port of loopback.
    ///
    /// # Errors
    /// When none can be had, or no thread.
    pub(super) fn start(upstream: Upstream) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let line = Arc::new(Mutex::new(Line { state: State::Whole, open: Vec::new() }));
        let thread = spawn(Role::Demo, {
            let line = line.clone();
            move || accept(&listener, &upstream, &line)
        })?;
        Ok(Self { port, line, thread: Some(thread) })
    }

    /// Where it listens: a host and a port.
    pub(super) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Ends each connection, and forwards none from now on.
    pub(super) fn cut(&self) {
        self.set(State::Cut);
    }

    /// Forwards again.
    pub(super) fn mend(&self) {
        self.set(State::Whole);
    }

    fn set(&self, state: State) {
        let mut line = self.line.lock();
        line.state = state;
        if state != State::Whole {
            line.open.drain(..).for_each(|stream| end(&stream));
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.set(State::Ended);
        // It waits for a connection.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn end(stream: &TcpStream) {
    // It may have ended by itself.
    let _ = stream.shutdown(Shutdown::Both);
}

fn accept(listener: &TcpListener, upstream: &Upstream, line: &Arc<Mutex<Line>>) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    for client in listener.incoming() {
        let Ok(client) = client else { continue };
        match line.lock().state {
            State::Ended => break,
            State::Cut => continue,
            State::Whole => {}
        }
        threads.retain(|thread| !thread.is_finished());
        let (upstream, line) = (upstream.clone(), line.clone());
        // A connection that cannot be forwarded is closed.
        threads.extend(spawn(Role::Demo, move || drop(forward(client, &upstream, &line))));
    }
    for thread in threads {
        let _ = thread.join();
    }
}

fn forward(mut client: TcpStream, upstream: &Upstream, line: &Mutex<Line>) -> io::Result<()> {
    let mut server = match upstream {
        Upstream::Fixed(address) => dial(address)?,
        Upstream::Asked => connect(&mut client)?,
    };
    {
        let mut line = line.lock();
        if line.state != State::Whole {
            return Ok(());
        }
        line.open.retain(|stream| stream.peer_addr().is_ok());
        line.open.extend([client.try_clone()?, server.try_clone()?]);
    }
    let (mut back_from, mut back_to) = (server.try_clone()?, client.try_clone()?);
    let back = spawn(Role::Demo, move || {
        // Whichever side ends ends both.
        let _ = io::copy(&mut back_from, &mut back_to);
        end(&back_to);
    })?;
    let _ = io::copy(&mut client, &mut server);
    end(&server);
    let _ = back.join();
    Ok(())
}

fn dial(address: &str) -> io::Result<TcpStream> {
    let mut outcome = Err(io::ErrorKind::NotFound.into());
    for place in address.to_socket_addrs()? {
        outcome = TcpStream::connect_timeout(&place, PATIENCE);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// Connects to where a client asks for, and tells it so.
fn connect(client: &mut TcpStream) -> io::Result<TcpStream> {
    client.set_read_timeout(Some(PATIENCE))?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte)?;
        head.extend(byte);
        if head.len() > LONGEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    client.set_read_timeout(None)?;
    let address = asked(&head).ok_or(io::ErrorKind::InvalidData)?;
    let server = dial(address)?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    Ok(server)
}

/// The host and port of `CONNECT host:port HTTP/1.1`.
fn asked(head: &[u8]) -> Option<&str> {
    let line = std::str::from_utf8(head).ok()?.lines().next()?;
    let (address, version) = line.strip_prefix("CONNECT ")?.split_once(' ')?;
    version.starts_with("HTTP/").then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers each connection's bytes with the same.
    fn echo() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        // It ends with the tests.
        let serve = move || {
            for stream in listener.incoming().flatten() {
                let mut back = stream.try_clone().expect("cloned");
                let echo = move || drop(io::copy(&mut &stream, &mut back));
                spawn(Role::Demo, echo).expect("a thread");
            }
        };
        spawn(Role::Demo, serve).expect("a thread");
        address
    }

    fn answer(stream: &mut TcpStream) -> io::Result<[u8; 4]> {
        stream.write_all(b"ping")?;
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn a_line_that_is_cut_ends_connections_and_takes_none_until_it_is_mended() {
        let forwarder = Forwarder::start(Upstream::Fixed(echo())).expect("started");
        let connect = || TcpStream::connect(forwarder.address());
        let mut first = connect().expect("connected");
        assert_eq!(answer(&mut first).expect("answered"), *b"ping");
        forwarder.cut();
        assert!(answer(&mut first).is_err());
        assert!(connect().and_then(|mut stream| answer(&mut stream)).is_err());
        forwarder.mend();
        assert_eq!(connect().and_then(|mut s| answer(&mut s)).expect("answered"), *b"ping");
    }

    #[test]
    fn a_proxy_leads_where_it_is_asked_to() {
        let forwarder = Forwarder::start(Upstream::Asked).expect("started");
        let mut stream = TcpStream::connect(forwarder.address()).expect("connected");
        write!(stream, "CONNECT {} HTTP/1.1\r\nHost: x\r\n\r\n", echo()).expect("written");
        let mut told = [0; 39];
        stream.read_exact(&mut told).expect("answered");
        assert!(told.starts_with(b"HTTP/1.1 200 ") && told.ends_with(b"\r\n\r\n"));
        assert_eq!(answer(&mut stream).expect("answered"), *b"ping");
        for head in ["GET / HTTP/1.1", "CONNECT a:1", "CONNECT a:1 x", ""] {
            assert_eq!(asked(head.as_bytes()), None, "{head}");
        }
    }
}
