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
    /// Whether the sandbox is paused and [`Sandboxes::wake`] must come before [`Sandboxes::connect`].
    pub asleep: bool,
}

/// Why there is no connection to a port of a sandbox.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The sandbox ended or was paused before, or while, the connection was made.
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

/// Why a paused sandbox does not run.
#[derive(Debug, thiserror::Error)]
pub enum WakeError {
    /// The sandbox ended before, or while, it was resumed.
    #[error("the sandbox was not found")]
    NotFound,
    /// There is no room for it now: on this host, or in its team's limit. Trying again later is worth it.
    #[error("there is no room to resume the sandbox: {0}")]
    NoRoom(String),
    /// It has no memory to go on with, and a request does not boot it from its disk.
    #[error("the sandbox needs a reboot: {0}")]
    NeedsReboot(String),
    /// It could not be resumed. The reason is for the log, not for whoever sent the request.
    #[error("the sandbox could not be resumed: {0}")]
    Failed(String),
}

/// The sandboxes that traffic can reach, and the way into them: those that run, and those that are paused but resumed
/// by traffic.
#[async_trait]
pub trait Sandboxes: Send + Sync + 'static {
    /// What is known of a sandbox; `None` for one that is dead or never was, and for a paused one that traffic does not
    /// resume. One that is on its way into, or out of, a pause is [`asleep`](Target::asleep). Called for every request:
    /// no I/O.
    fn lookup(&self, id: &SandboxId) -> Option<Target>;

    /// Resumes a sandbox that is asleep and returns when [`Self::lookup`] says that it is not any more. Nothing is done
    /// for one that runs. Called by many requests at once, which must resume it once. The edge puts a deadline on the
    /// call and drops it when the client goes away: a resume that began goes on.
    async fn wake(&self, id: &SandboxId) -> Result<(), WakeError>;

    /// The first such sandbox whose [`Target::envd_token`] satisfies `matches`; sandboxes without one are skipped.
    /// Called for signed URLs that name no sandbox. `matches` costs about a microsecond and stops being satisfiable
    /// after a bounded number of calls.
    fn find_by_envd_token(&self, matches: &mut dyn FnMut(&Secret) -> bool) -> Option<SandboxId>;

    /// A TCP connection straight to `port` in the guest. A closed port is an error at once. The edge puts a deadline
    /// on the call and drops it when the client goes away.
    async fn connect(&self, id: &SandboxId, port: GuestPort) -> Result<TcpStream, ConnectError>;
}
