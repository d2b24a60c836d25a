//! Options that every TCP connection gets, on both sides.

use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpStream;

/// A silent peer is asked whether it lives after so long,
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// then every so often,
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// and counts as dead after so many unanswered questions.
const KEEPALIVE_PROBES: u32 = 6;

/// Small messages leave at once, and dead peers are noticed. A connection that was closed meanwhile takes no options;
/// reading from it will tell.
pub(crate) fn tune(stream: &TcpStream) {
    let tuned = stream.set_nodelay(true).and_then(|()| {
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
        sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
        sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
        Ok(())
    });
    if let Err(error) = tuned {
        tracing::debug!(%error, "setting options of a TCP connection failed");
    }
}
