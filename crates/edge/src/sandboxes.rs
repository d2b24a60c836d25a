//! What the edge asks of whoever runs the sandboxes.

use std::io;

use async_trait::async_trait;
use model::{GuestPort, NetworkPolicy, SandboxId, Secret};
use tokio::net::TcpStream;

/// What decides whether a request may reach a sandbox.
#[derive(Debug, Clone)]
pub struct Target {
    /// The token that the guest daemon asks for. The edge never checks it; it only finds the sandbox of a signed URL by it.
    pub envd_token: Option<Secret>,
    /// Needed in [`TRAFFIC_TOKEN_HEADER`](crate::TRAFFIC_TOKEN_HEADER) for ports that are not public.
    pub traffic_token: Option<Secret>,
    /// Whether ports are public, and which `Host` they see.
    pub policy: NetworkPolicy,
}

/// Why there is no connection to a port of a sandbox.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The sandbox ended before, or while, the connection was made.
    #[error("the sandbox was not found")]
    NotFound,
    /// Nothing listens on that port in the guest.
    #[error("the port is closed")]
    Refused,
    /// The guest did not answer in time.
    #[error("the guest did not answer in time")]
    TimedOut,
    /// The host could not make the connection.
    #[error("connecting into the sandbox failed: {0}")]
    Io(#[from] io::Error),
}

/// The live sandboxes and the way into them.
#[async_trait]
pub trait Sandboxes: Send + Sync + 'static {
    /// What is known of a live sandbox; `None` for one that is dead or never was. Called for every request: no I/O.
    fn lookup(&self, id: &SandboxId) -> Option<Target>;

    /// The first live sandbox whose [`Target::envd_token`] satisfies `matches`; sandboxes without one are skipped.
    /// Called for signed URLs that name no sandbox. `matches` costs about a microsecond and stops being satisfiable
    /// after a bounded number of calls.
    fn find_by_envd_token(&self, matches: &mut dyn FnMut(&Secret) -> bool) -> Option<SandboxId>;

    /// A TCP connection straight to `port` in the guest. A closed port is an error at once. The edge puts a deadline
    /// on the call and drops it when the client goes away.
    async fn connect(&self, id: &SandboxId, port: GuestPort) -> Result<TcpStream, ConnectError>;
}
