//! The accept loop.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{Method, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tower::Service as _;
use upload::Upload;

use super::activity::Activity;
use super::moments::Moment;
use super::tunnel::Tunnels;
use crate::state::Envd;

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
/// How long a peer may take nothing of what is sent to it, in milliseconds, before the kernel gives it up. The usual
/// quarter of an hour would keep what is queued for peers that are gone. Not shorter than the most patient reader: one
/// that does not read for a while looks the same.
const PEER_TIMEOUT_MS: u32 = 300_000;
/// A connection that carries nothing for so long is closed when the machine comes to rest for a snapshot, in which there
/// would be nobody on its other side. Longer than the edge keeps one for the next request: that may come in this moment,
/// and would be lost.
const IDLE_AT_REST: Duration = Duration::from_secs(30);
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
pub(crate) async fn serve(listener: TcpListener, routes: Router, envd: Arc<Envd>) {
    let open = Arc::<OpenConnections>::default();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (open, routes, peer) = (open.enter(), routes.clone(), Peer(peer.ip()));
                let moments = envd.moments().of(peer.0);
                let tunnels = Tunnels::of(envd.options().is_host(peer.0));
                tokio::spawn(async move {
                    connection(stream, peer, routes, tunnels, moments).await;
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

/// Who is on the other side of a request's connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// Serves one connection, as HTTP and then as the tunnel that it may have become, until a moment comes at which it has
/// nobody on its other side.
async fn connection(
    stream: TcpStream,
    peer: Peer,
    routes: Router,
    tunnels: Tunnels,
    (mut rests, mut resumes): (Moment, Moment),
) {
    // Failures leave defaults that work, only slower.
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(&stream, true);
    let _ = sockopt::set_tcp_keepidle(&stream, KEEPALIVE_IDLE);
    let _ = sockopt::set_tcp_keepintvl(&stream, KEEPALIVE_INTERVAL);
    let _ = sockopt::set_tcp_keepcnt(&stream, KEEPALIVE_PROBES);
    let _ = sockopt::set_tcp_user_timeout(&stream, PEER_TIMEOUT_MS);
    match tokio::time::timeout(FIRST_BYTE_TIMEOUT, stream.readable()).await {
        Ok(Ok(())) => {}
        _ => return,
    }
    let activity = Activity::new();
    let service = service_fn(|mut request: Request<Incoming>| {
        let (mut routes, tunnels) = (routes.clone(), &tunnels);
        let busy = activity.begin();
        request.extensions_mut().insert(peer);
        async move {
            let response = if request.method() == Method::CONNECT {
                tunnels.open(request).await
            } else {
                route(&mut routes, Upload::of(request)).await
            };
            Ok::<_, Infallible>(response.map(|body| busy.until_the_end_of(body)))
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut served = std::pin::pin!(served);
    // An error here is the client's: it hung up, or sent something that is not HTTP and has been told so.
    loop {
        tokio::select! {
            _ = served.as_mut() => break,
            () = resumes.comes() => {
                served.as_mut().graceful_shutdown();
                let _ = tokio::time::timeout(RESUME_GRACE, served).await;
                return;
            }
            () = rests.comes() => {
                if activity.is_idle(IDLE_AT_REST) {
                    served.as_mut().graceful_shutdown();
                }
            }
        }
    }
    tokio::select! {
        () = tunnels.run() => {}
        () = resumes.comes() => {}
    }
}

async fn route(routes: &mut Router, request: Request<Upload>) -> http::Response<Body> {
    match routes.call(request.map(Body::new)).await {
        Ok(response) => response,
        Err(infallible) => match infallible {},
    }
}

#[cfg(test)]
mod tests;
