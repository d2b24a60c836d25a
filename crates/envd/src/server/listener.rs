//! The accept loop.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tower::Service as _;
use upload::Upload;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// How long a new connection may stay silent.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection may be idle between requests. Longer than any client or proxy keeps one, so that it is never
/// us who closes a connection in the moment that it is used again.
const IDLE_TIMEOUT: Duration = Duration::from_secs(640);
/// How long a connection may carry nothing before the kernel asks whether the peer is still there, and how often and
/// how long it asks. After a resume on another host, peers are gone without a word.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 9;
/// How long a connection from before a resume may take for the request that it is in the middle of: the one that told us
/// of the resume ends in this time. All others have nobody on their other side.
const RESUME_GRACE: Duration = Duration::from_secs(5);
/// Most headers in a request.
const MAX_HEADERS: usize = 100;
/// This many connections at once leave a heap worth trimming.
const MANY_CONNECTIONS: usize = 32;
/// How long to wait when the process or the system is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Listens on this port on all IPv4 addresses.
pub(crate) fn bind(port: u16) -> io::Result<TcpListener> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    // A restarted daemon must get the port while connections of its predecessor linger.
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
    socket.listen(BACKLOG)
}

/// Accepts and serves connections, for ever.
pub(crate) async fn serve(listener: TcpListener, routes: Router, resumes: watch::Sender<u64>) {
    let open = Arc::<OpenConnections>::default();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (open, routes) = (open.enter(), routes.clone());
                let resumed = resumed(peer.ip(), &resumes);
                tokio::spawn(async move {
                    connection(stream, Peer(peer.ip()), routes, resumed).await;
                    drop(open);
                });
            }
            // The connection was gone before we came, or there are no descriptors: either passes.
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Counts connections, to give memory back after many at once: what the daemon holds is part of every snapshot.
#[derive(Debug, Default)]
struct OpenConnections {
    now: AtomicUsize,
    peak: AtomicUsize,
}

/// One of the connections that are open.
struct OpenConnection(Arc<OpenConnections>);

impl OpenConnections {
    fn enter(self: &Arc<Self>) -> OpenConnection {
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.peak.fetch_max(now, Ordering::Relaxed);
        OpenConnection(Arc::clone(self))
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let was_last = self.0.now.fetch_sub(1, Ordering::Relaxed) == 1;
        if was_last && self.0.peak.swap(0, Ordering::Relaxed) >= MANY_CONNECTIONS {
            sys::heap::trim();
        }
    }
}

/// Waits for the next resume from now on that takes this peer away.
fn resumed(peer: IpAddr, resumes: &watch::Sender<u64>) -> impl Future<Output = ()> + use<> {
    // Who is in this machine is resumed together with us.
    let mut resumes = (!peer.is_loopback()).then(|| resumes.subscribe());
    async move {
        match &mut resumes {
            // Without a sender the daemon ends.
            Some(resumes) => drop(resumes.changed().await),
            None => std::future::pending().await,
        }
    }
}

/// Who is on the other side of a request's connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// Serves one connection, and for a short time at most after `resumed`.
async fn connection(stream: TcpStream, peer: Peer, routes: Router, resumed: impl Future<Output = ()>) {
    // Failures leave defaults that work, only slower.
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(&stream, true);
    let _ = sockopt::set_tcp_keepidle(&stream, KEEPALIVE_IDLE);
    let _ = sockopt::set_tcp_keepintvl(&stream, KEEPALIVE_INTERVAL);
    let _ = sockopt::set_tcp_keepcnt(&stream, KEEPALIVE_PROBES);
    match tokio::time::timeout(FIRST_BYTE_TIMEOUT, stream.readable()).await {
        Ok(Ok(())) => {}
        _ => return,
    }
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = Upload::of(request);
        let mut routes = routes.clone();
        request.extensions_mut().insert(peer);
        async move { Ok::<_, Infallible>(route(&mut routes, request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    // An error here is the client's: it hung up, or sent something that is not HTTP and has been told so.
    tokio::select! {
        _ = served.as_mut() => {}
        () = resumed => {
            served.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(RESUME_GRACE, served).await;
        }
    }
}

async fn route(routes: &mut Router, request: Request<Upload>) -> http::Response<Body> {
    match routes.call(request.map(Body::new)).await {
        Ok(response) => response,
        Err(infallible) => match infallible {},
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 0, 22));
    const INSIDE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// A connection that is served as if it came from there.
    async fn connect(routes: &Router, peer: IpAddr, resumes: &watch::Sender<u64>) -> TcpStream {
        let listener = bind(0).unwrap();
        let port = listener.local_addr().unwrap().port();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        tokio::spawn(connection(accepted.unwrap().0, Peer(peer), routes.clone(), resumed(peer, resumes)));
        client.unwrap()
    }

    /// Everything that comes until the other side closes.
    async fn rest(stream: &mut TcpStream) -> String {
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text).await;
        text
    }

    #[tokio::test]
    async fn connections_from_before_a_resume_end() {
        let resumes = watch::Sender::new(0);
        let resume = resumes.clone();
        let routes = Router::new()
            .route("/quick", get(|| async { "quick" }))
            .route("/never", get(std::future::pending::<String>))
            .route("/resume", get(|| async move { resume.send_modify(|resumes| *resumes += 1) }));
        let mut idle = connect(&routes, OUTSIDE, &resumes).await;
        idle.write_all(b"GET /quick HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 512];
        assert!(idle.read(&mut answer).await.unwrap() > 0);
        let mut busy = connect(&routes, OUTSIDE, &resumes).await;
        busy.write_all(b"GET /never HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut half = connect(&routes, OUTSIDE, &resumes).await;
        half.write_all(b"GET /quick HT").await.unwrap();
        let mut messenger = connect(&routes, OUTSIDE, &resumes).await;
        let mut local = connect(&routes, INSIDE, &resumes).await;
        // So that all of them are being served.
        tokio::time::sleep(Duration::from_millis(50)).await;

        let begin = std::time::Instant::now();
        messenger.write_all(b"GET /resume HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert!(rest(&mut messenger).await.starts_with("HTTP/1.1 200"));
        assert_eq!(rest(&mut idle).await, "");
        assert!(begin.elapsed() < RESUME_GRACE, "{:?}", begin.elapsed());
        let (busy, half) = tokio::join!(rest(&mut busy), rest(&mut half));
        assert_eq!((busy.as_str(), half.as_str()), ("", ""));
        assert!(begin.elapsed() < RESUME_GRACE + Duration::from_secs(2), "{:?}", begin.elapsed());

        local.write_all(b"GET /quick HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        assert!(rest(&mut local).await.ends_with("quick"));
        let mut later = connect(&routes, OUTSIDE, &resumes).await;
        later.write_all(b"GET /quick HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        assert!(rest(&mut later).await.ends_with("quick"));
    }
}
