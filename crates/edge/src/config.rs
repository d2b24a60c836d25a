//! What an operator may turn, and the limits that hold when nobody does.

use std::time::Duration;

/// How the edge is set up.
#[derive(Debug, Clone)]
pub struct EdgeConfig {
    /// The domain under which `<port>-<id>.<domain>` names a sandbox, without a port. `None` takes any domain.
    pub domain: Option<String>,
    /// How many client connections are served at once; more wait in the kernel's accept queue.
    pub max_connections: usize,
    /// How long things may take.
    pub timeouts: Timeouts,
}

impl Default for EdgeConfig {
    fn default() -> Self {
        Self { domain: None, max_connections: 16_384, timeouts: Timeouts::default() }
    }
}

/// How long things may take before the edge gives up on them.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// From accepting a connection to its first complete request header, and for each slowly arriving header after it.
    pub header: Duration,
    /// A client's connection without a request on it. Longer than the 600 s after which common load balancers drop
    /// theirs, so that they never send into a connection that is just being closed.
    pub client_idle: Duration,
    /// The resume of a paused sandbox that a request waits for. A resume takes milliseconds when the machine is quiet; one
    /// that comes while the sandbox is still being written to disk waits for that first.
    pub wake: Duration,
    /// Reaching a port in a guest. Leaves room for two repeated SYNs when a burst overflows the guest's accept queue.
    pub connect: Duration,
    /// A connection to a guest without a request on it.
    pub pooled_idle: Duration,
    /// A request, response or tunnel on which no byte moves in either direction.
    pub exchange_idle: Duration,
    /// A request, response or tunnel altogether.
    pub exchange_total: Duration,
    /// What is under way when the server is told to stop.
    pub drain: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            header: Duration::from_secs(30),
            client_idle: Duration::from_secs(620),
            wake: Duration::from_secs(60),
            connect: Duration::from_secs(10),
            pooled_idle: Duration::from_secs(15),
            exchange_idle: Duration::from_secs(60 * 60),
            exchange_total: Duration::from_secs(24 * 60 * 60),
            drain: Duration::from_secs(10),
        }
    }
}

/// Largest request or response header block, in bytes; also the largest piece of a body read at once.
pub(crate) const MAX_HEADER_BYTES: usize = 128 << 10;

/// Requests under way on one HTTP/2 connection. One SDK process puts all its sandboxes on one connection.
pub(crate) const MAX_STREAMS: u32 = 512;

/// Streams that a client opened and reset before they were looked at. More in one go is the rapid reset attack.
pub(crate) const MAX_RESET_STREAMS: usize = 64;

/// Bytes that a client may have under way on one HTTP/2 stream.
pub(crate) const STREAM_WINDOW: u32 = 512 << 10;

/// Bytes that a client may have under way on one HTTP/2 connection.
pub(crate) const CONNECTION_WINDOW: u32 = 2 << 20;

/// Bytes of a response held for a slow reader of one HTTP/2 stream.
pub(crate) const STREAM_SEND_BUFFER: usize = 128 << 10;

/// An HTTP/2 client that moved nothing for so long is asked whether it lives.
pub(crate) const H2_PING_INTERVAL: Duration = Duration::from_secs(60);

/// It has so long to answer.
pub(crate) const H2_PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Idle connections kept per port of a sandbox.
pub(crate) const MAX_POOLED_PER_PORT: usize = 64;

/// Ports of one sandbox for which idle connections are kept, so that a scan of all ports keeps nothing.
pub(crate) const MAX_POOLED_PORTS: usize = 64;

/// How often one request wakes its sandbox; one that is paused again each time is not fought over for ever.
pub(crate) const MAX_WAKES: usize = 2;

/// Tokens tried for one signed URL.
pub(crate) const MAX_SIGNATURE_CANDIDATES: usize = 20_000;

/// Buffer per direction of a tunnel, in bytes.
pub(crate) const TUNNEL_BUFFER: usize = 32 << 10;
