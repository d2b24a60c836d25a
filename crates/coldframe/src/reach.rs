//! The edge's way to sandboxes: a socket made inside the sandbox's namespace, straight to the guest. Where the guest's
//! address refuses, its daemon is asked for a port that listens only inside.

use std::io;
use std::net::SocketAddrV4;
use std::time::Duration;

use api::ApiState;
use async_trait::async_trait;
use edge::{ConnectError, Sandboxes, Target, WakeError};
use loopback::AskError;
use model::{FleetError, GuestPort, SandboxId, SandboxSpec, Secret};
use network::{Dialer, guest};
use node::{Node, Reachable};
use tokio::net::TcpStream;

/// A guest that is up answers a SYN at once; one that is starved of CPU takes a while. Covers everything, also asking its
/// daemon.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Finds and dials the sandboxes of one node.
pub(crate) struct Reach {
    node: Node,
    /// Resumes by traffic are within the limits of teams, which the REST surface knows; without it there are none.
    api: Option<ApiState>,
    dialer: Dialer,
}

impl Reach {
    pub(crate) fn new(node: Node, api: ApiState) -> io::Result<Self> {
        Ok(Self { node, api: Some(api), dialer: Dialer::new()? })
    }

    /// For a node without a REST surface: what is paused stays so.
    pub(crate) fn without_waking(node: Node) -> io::Result<Self> {
        Ok(Self { node, api: None, dialer: Dialer::new()? })
    }

    /// A connection to the guest's own address.
    async fn dial(&self, sandbox: &Reachable, port: GuestPort) -> Result<TcpStream, ConnectError> {
        let address = SocketAddrV4::new(guest::GUEST_IP, port.get());
        self.dialer.connect(&sandbox.netns, address, CONNECT_TIMEOUT).await.map_err(|error| {
            match error.kind() {
                io::ErrorKind::ConnectionRefused => ConnectError::Refused,
                io::ErrorKind::TimedOut => ConnectError::TimedOut,
                _ => ConnectError::Io(error),
            }
        })
    }

    /// A connection to a port, whatever address of the guest it is bound to.
    async fn reach(&self, sandbox: &Reachable, port: GuestPort) -> Result<TcpStream, ConnectError> {
        match self.dial(sandbox, port).await {
            Err(ConnectError::Refused) if port != GuestPort::ENVD => {}
            dialed => return dialed,
        }
        let mut daemon = self.dial(sandbox, GuestPort::ENVD).await?;
        match loopback::ask(&mut daemon, port).await {
            Ok(()) => Ok(daemon),
            Err(AskError::Refused) => Err(ConnectError::Refused),
            Err(error) => Err(ConnectError::Io(io::Error::other(error))),
        }
    }
}

fn target(spec: &SandboxSpec, asleep: bool) -> Target {
    Target {
        envd_token: spec.envd_token.clone(),
        traffic_token: spec.traffic_token.clone(),
        policy: spec.network.clone(),
        asleep,
    }
}

#[async_trait]
impl Sandboxes for Reach {
    fn lookup(&self, id: &SandboxId) -> Option<Target> {
        let awake = self.node.reach(id).map(|reachable| target(&reachable.spec, false));
        awake.or_else(|| self.node.asleep(id).map(|spec| target(&spec, true)))
    }

    fn find_by_envd_token(&self, matches: &mut dyn FnMut(&Secret) -> bool) -> Option<SandboxId> {
        let reachable = self.node.reachable();
        reachable
            .iter()
            .find(|spec| spec.envd_token.as_ref().is_some_and(&mut *matches))
            .map(|spec| spec.id.clone())
    }

    async fn wake(&self, id: &SandboxId) -> Result<(), WakeError> {
        let spec = self.node.asleep(id);
        let team = match (spec, self.node.reach(id)) {
            (Some(spec), _) => spec.team.clone(),
            // It is awake by now.
            (None, Some(_)) => return Ok(()),
            (None, None) => return Err(WakeError::NotFound),
        };
        let api = self.api.as_ref().ok_or(WakeError::NotFound)?;
        api.wake(&team, id).await.map_err(|error| match error {
            FleetError::NotFound(_) => WakeError::NotFound,
            FleetError::LimitReached(why) | FleetError::NoCapacity(why) => WakeError::NoRoom(why),
            FleetError::NeedsReboot(why) => WakeError::NeedsReboot(why),
            other => WakeError::Failed(other.to_string()),
        })
    }

    async fn connect(&self, id: &SandboxId, port: GuestPort) -> Result<TcpStream, ConnectError> {
        let reachable = self.node.reach(id).ok_or(ConnectError::NotFound)?;
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, self.reach(&reachable, port)).await;
        connected.unwrap_or(Err(ConnectError::TimedOut)).map_err(|error| {
            // Paused or ended meanwhile: whoever asks may wake it and come again.
            if self.node.reach(id).is_none() { ConnectError::NotFound } else { error }
        })
    }
}
