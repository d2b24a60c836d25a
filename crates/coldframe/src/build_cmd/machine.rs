//! A machine that an operator works with.

use std::future::Future;
use std::net::SocketAddrV4;
use std::path::Path;
use std::time::Duration;

use artifacts::{LocalStore, load_manifest};
use build::Manifest;
use model::{ENVD_PORT, Fleet, SandboxId, SandboxRecord};
use network::guest;
use tokio::net::TcpStream;

use super::workbench::Workbench;

/// A guest that is up answers at once; one that is starved takes a while.
const CONNECT: Duration = Duration::from_secs(10);

/// A machine that runs.
pub(super) struct Machine<'a> {
    bench: &'a Workbench,
    record: SandboxRecord,
}

impl<'a> Machine<'a> {
    pub(super) fn new(bench: &'a Workbench, record: SandboxRecord) -> Self {
        Self { bench, record }
    }

    pub(super) fn id(&self) -> &SandboxId {
        &self.record.spec.id
    }

    /// Where its supervisor's log is.
    pub(super) fn dir(&self) -> &Path {
        &self.record.dir
    }

    /// A connection to the guest's daemon.
    pub(super) async fn connect(&self) -> Result<TcpStream, String> {
        let reachable = self.bench.node.reach(self.id()).ok_or("the machine does not run any more")?;
        let address = SocketAddrV4::new(guest::GUEST_IP, ENVD_PORT);
        let connected = self.bench.dialer.connect(&reachable.netns, address, CONNECT).await;
        connected.map_err(|error| format!("connecting to the guest's daemon: {error}"))
    }

    /// Does something in it; its end is an error.
    pub(super) async fn unless_it_ends<T>(
        &self,
        work: impl Future<Output = Result<T, String>>,
    ) -> Result<T, String> {
        tokio::select! {
            outcome = work => outcome,
            () = self.ended() => Err("the machine has ended".into()),
        }
    }

    /// Returns when it has ended, whatever its end was.
    async fn ended(&self) {
        // From before the look.
        let mut ended = self.bench.node.ended();
        while self.bench.node.reach(self.id()).is_some() {
            // Missed or closed: the next look tells.
            let _ = ended.recv().await;
        }
    }

    /// Ends it and waits until nothing is left of it.
    pub(super) async fn kill(self) -> Result<(), String> {
        let spec = &self.record.spec;
        self.bench.node.kill(&spec.team, &spec.id).await.map_err(|error| error.to_string())
    }

    /// Pauses it. The build that it became is whole, and on stable storage.
    pub(super) async fn pause(self, memory: bool) -> Result<Manifest, String> {
        let spec = &self.record.spec;
        let mut paused = self.bench.paused.clone();
        self.bench.node.pause(&spec.team, &spec.id, memory).await.map_err(|error| error.to_string())?;
        let record = paused.wait_for(Option::is_some).await.map_err(|error| error.to_string())?.clone();
        let id = record.ok_or("there is no record of the pause")?.build;
        let store = LocalStore::open(&self.bench.store).map_err(|error| error.to_string())?;
        // A server may have deleted what it reads from: nobody told it that this one does.
        artifacts::check(&store, &id).map_err(|error| {
            format!("what it became cannot be used; was its build deleted meanwhile? {error}")
        })?;
        load_manifest(&store, &id).map_err(|error| error.to_string())
    }
}
