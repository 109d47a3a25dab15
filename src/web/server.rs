//! A small HTTP server: one thread, a bounded number of connections, and nothing but GET.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;

use super::figures::Figures;
use super::{page, prometheus, snapshot};
use crate::threads::{Role, spawn};

/// Connections at a time. Each costs the daemon a descriptor, and anybody may connect.
pub const MOST_CONNECTIONS: usize = 16;
/// How long one may take, from its beginning to its end.
const LONGEST: Duration = Duration::from_secs(10);
/// How long is waited after a connection that could not be taken.
const BACK_OFF: Duration = Duration::from_millis(200);

/// Where the figures come from.
pub trait Source: Send + Sync + 'static {
    /// They; `None` while the mount ends.
    fn figures(&self) -> Option<Figures>;
    /// The mountpoint, as people are shown it.
    fn name(&self) -> String;
}

/// A socket that listens, and answers nobody yet.
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Listens at an address.
    ///
    /// # Errors
    /// Of bind(2) and listen(2).
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = TcpListener::bind(address)?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// Where it listens: with the port that the system chose, where it was asked for port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers on a thread of its own, for as long as the process lives.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn serve(self, source: Arc<dyn Source>) -> io::Result<()> {
        spawn(Role::Web, move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(self.accept(&source)),
                Err(e) => log::error!("metrics are not served: {e}"),
            }
        })
        .map(drop)
    }

    async fn accept(self, source: &Arc<dyn Source>) {
        let listener = match tokio::net::TcpListener::from_std(self.socket) {
            Ok(listener) => listener,
            Err(e) => return log::error!("metrics are not served: {e}"),
        };
        let host = Host::of(self.address.ip());
        let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        loop {
            let taken = room.clone().acquire_owned().await.expect("it is never closed");
            match listener.accept().await {
                Ok((stream, _)) => {
                    let source = source.clone();
                    tokio::spawn(async move {
                        let answer = service_fn(move |request| {
                            let response = respond(&request, host, &*source);
                            async move { Ok::<_, Infallible>(response) }
                        });
                        let connection = http1::Builder::new()
                            .timer(TokioTimer::new())
                            .keep_alive(false)
                            .max_buf_size(8192)
                            .serve_connection(TokioIo::new(stream), answer);
                        // Who is slow, or says what is no HTTP, is hung up on.
                        let _ = tokio::time::timeout(LONGEST, connection).await;
                        drop(taken);
                    });
                }
                Err(e) => {
                    // Without a descriptor to spare (EMFILE), it would fail again at once.
                    log::warn!("cannot accept connections for metrics for now: {e}");
                    tokio::time::sleep(BACK_OFF).await;
                }
            }
        }
    }
}

/// What a request may call this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Host {
    /// It listens at a loopback address: a page of somebody else's, whose name was made to lead
    /// there, is not to read it in the browser of who looks at it (DNS rebinding).
    Loopback,
    /// Anything.
    Any,
}

impl Host {
    fn of(address: IpAddr) -> Self {
        if address.is_loopback() { Self::Loopback } else { Self::Any }
    }

    fn admits(self, headers: &HeaderMap) -> bool {
        let Self::Loopback = self else { return true };
        let Some(name) = headers.get(header::HOST).and_then(|name| name.to_str().ok()) else {
            return false;
        };
        let is_port = |text: &str| text.chars().all(|c| c.is_ascii_digit());
        let name = match name.rsplit_once(':') {
            Some((name, port)) if is_port(port) && (!name.contains(':') || name.ends_with(']')) => {
                name
            }
            _ => name,
        };
        let bare = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
        bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

fn respond(request: &Request<Incoming>, host: Host, source: &dyn Source) -> Response<Full<Bytes>> {
    if !host.admits(request.headers()) {
        let why = "ask by address: http://127.0.0.1 or http://localhost\n";
        return plain(StatusCode::MISDIRECTED_REQUEST, why);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD alone\n");
    }
    let figures = || source.figures();
    match request.uri().path() {
        "/" => ok("text/html; charset=utf-8", page::html(&source.name())),
        "/metrics" => match figures() {
            Some(figures) => ok(prometheus::CONTENT_TYPE, prometheus::exposition(figures)),
            None => ending(),
        },
        "/status.json" => match figures() {
            Some(figures) => ok("application/json", snapshot::json(&figures)),
            None => ending(),
        },
        _ => plain(StatusCode::NOT_FOUND, "there are /, /metrics and /status.json\n"),
    }
}

fn ending() -> Response<Full<Bytes>> {
    plain(StatusCode::SERVICE_UNAVAILABLE, "it is being unmounted\n")
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = ok("text/plain; charset=utf-8", text.to_owned());
    *response.status_mut() = status;
    response
}

fn ok(kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, page::POLICY),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loopback_server_answers_to_loopback_names_alone() {
        let admits = |host: Host, name: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_str(name).expect("a value"));
            host.admits(&headers)
        };
        for name in ["localhost", "localhost:9464", "127.0.0.1:80", "127.9.9.9", "[::1]:1", "[::1]"]
        {
            assert!(admits(Host::Loopback, name), "{name}");
        }
        for name in ["evil.example", "evil.example:9464", "10.0.0.1", "localhost.evil.example", ""]
        {
            assert!(!admits(Host::Loopback, name), "{name}");
        }
        assert!(!Host::Loopback.admits(&HeaderMap::new()));
        assert!(admits(Host::of(IpAddr::from([10, 0, 0, 1])), "server.example:9464"));
        assert_eq!(Host::of(IpAddr::from([127, 0, 0, 2])), Host::Loopback);
    }
}
