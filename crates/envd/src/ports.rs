//! `CONNECT localhost:PORT`: a connection to a port of this machine that only loopback reaches. For the host only.
//!
//! The host dials the machine's address itself and asks here when that is refused, for a request that it has. So
//! programs that listen on 127.0.0.1 or ::1 can be reached from the moment that they do, and nothing here looks for
//! them, or holds their port on another address, in the meantime.
//!
//! | answer | |
//! |---|---|
//! | 200 | what follows goes to the port and comes from it |
//! | 400 | the target is not `localhost:PORT` |
//! | 403 | the peer is not the host |
//! | 502 | nobody listens there |
//! | 500, 503, 504 | it cannot be told who listens; there is no socket; whoever listens takes no connection |
//!
//! Neither token nor user count: the host keeps everybody else from this method, as it does from `/init`, and has checked
//! what the port's own visitors need.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http::{StatusCode, Uri};
use model::GuestPort;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::error::HttpError;

/// How long whoever listens may take to accept, while his queue is full. Longer than the host waits.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// One look into the kernel's tables at a time: it takes longer the more memory the machine has, a millisecond with some
/// gigabytes, and strangers who ask for closed ports must not take all processors with it.
static LOOKING: Semaphore = Semaphore::const_new(1);

/// A connection to the port that the target of a `CONNECT` names.
pub(crate) async fn connect(target: &Uri, from_host: bool) -> Result<TcpStream, HttpError> {
    if !from_host {
        return Err(HttpError::new(
            StatusCode::FORBIDDEN,
            "only the host may ask for a connection to a port",
        ));
    }
    let port = target.authority().and_then(|authority| loopback::port_of(authority.as_str()));
    let port = port.ok_or_else(|| HttpError::bad_request("the target of CONNECT must be localhost:PORT"))?;
    let found = listener(port).await;
    let found =
        found.map_err(|error| HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let address = found.ok_or_else(|| closed(port))?;
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
    let stream = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(|error| {
        let status = match error.kind() {
            // It was there a moment ago.
            io::ErrorKind::ConnectionRefused => return closed(port),
            io::ErrorKind::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        HttpError::new(status, format!("connecting to {address}: {error}"))
    })?;
    // A failure leaves a default that works, only slower.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// Looks where the daemon's one thread does not wait for it.
async fn listener(port: GuestPort) -> io::Result<Option<SocketAddr>> {
    // Nobody closes it. Held until the look is over, whether somebody still waits for it or not.
    let turn = LOOKING.acquire().await.map_err(io::Error::other)?;
    let look = tokio::task::spawn_blocking(move || {
        let found = loopback::listener(port);
        drop(turn);
        found
    });
    look.await.map_err(io::Error::other)?
}

fn closed(port: GuestPort) -> HttpError {
    HttpError::new(StatusCode::BAD_GATEWAY, format!("nothing listens on port {port}"))
}
