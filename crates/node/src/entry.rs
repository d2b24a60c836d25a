//! One sandbox as its node sees it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use control::{Client, Keep, Phase, Start};
use jiff::Timestamp;
use model::{EndReason, FleetError, SandboxRecord, SandboxSpec, SandboxState};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::references::Hold;

/// A supervisor takes a kill in microseconds; one that is starved or stopped is not waited for longer.
const ASK_PATIENCE: Duration = Duration::from_secs(2);
/// From the kill that a supervisor took until nothing of its sandbox is left.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// What the supervisor last said.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) phase: Phase,
    pub(crate) end_at: Timestamp,
    pub(crate) envd_version: String,
    /// It is being paused, or the end that this led to is not known yet: to clients it is paused.
    pub(crate) pausing: bool,
    /// Set once; from then on the sandbox does not exist for clients, while its resources are being released.
    pub(crate) ended: Option<EndReason>,
}

/// One sandbox, from its admission until everything is released.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) spec: Arc<SandboxSpec>,
    /// When it was started or resumed.
    pub(crate) running_since: Timestamp,
    /// What it was started from.
    pub(crate) start: Start,
    /// Whether it goes on from a snapshot of its own.
    pub(crate) resumed: bool,
    pub(crate) dir: PathBuf,
    pub(crate) client: Client,
    pub(crate) netns: Arc<OwnedFd>,
    pub(crate) view: watch::Receiver<View>,
    /// Cancelled to end the sandbox without its supervisor's help.
    pub(crate) force: CancellationToken,
    /// Cancelled when nothing of the sandbox is left.
    pub(crate) released: CancellationToken,
    /// The builds that its supervisor reads from.
    pub(crate) needed: Mutex<Needed>,
}

/// Builds that are kept for a sandbox.
#[derive(Debug, Default)]
pub(crate) struct Needed {
    /// What it goes on from: pages of it come for as long as it runs.
    _origin: Vec<Hold>,
    /// The last snapshot of it, from which its next build's disk is a difference.
    disk: Option<Arc<Hold>>,
    /// The last one with its memory, from which the memory is.
    memory: Option<Arc<Hold>>,
}

impl Needed {
    /// Before any snapshot was made of it.
    pub(crate) fn first(origin: Vec<Hold>) -> Self {
        Self { _origin: origin, ..Self::default() }
    }
}

impl Entry {
    /// What it becomes next is a difference from what this snapshot kept, and no longer from one before.
    pub(crate) fn rebase(&self, snapshot: Hold, keep: Keep) {
        let (snapshot, mut needed) = (Arc::new(snapshot), self.needed());
        if keep == Keep::Everything {
            needed.memory = Some(Arc::clone(&snapshot));
        }
        needed.disk = Some(snapshot);
    }

    /// Nobody reads for it any more.
    pub(crate) fn let_go(&self) {
        *self.needed() = Needed::default();
    }

    fn needed(&self) -> MutexGuard<'_, Needed> {
        self.needed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether clients may see it: it runs, is being paused, or is being resumed.
    pub(crate) fn exists(&self) -> bool {
        let view = self.view.borrow();
        let visible = match view.phase {
            Phase::Running | Phase::Pausing => true,
            Phase::Starting => self.resumed,
            Phase::Ending => view.pausing,
        };
        visible && view.ended.is_none()
    }

    /// Whether it can be used.
    pub(crate) fn runs(&self) -> bool {
        let view = self.view.borrow();
        view.phase == Phase::Running && view.ended.is_none()
    }

    /// Whether it runs or is about to.
    pub(crate) fn lives(&self) -> bool {
        let view = self.view.borrow();
        view.phase != Phase::Ending && view.ended.is_none()
    }

    pub(crate) fn record(&self) -> SandboxRecord {
        let view = self.view.borrow();
        SandboxRecord {
            spec: SandboxSpec::clone(&self.spec),
            state: if view.pausing { SandboxState::Paused } else { SandboxState::Running },
            running_since: self.running_since,
            end_at: view.end_at,
            envd_version: view.envd_version.clone(),
            rebooted: match &self.start {
                Start::Reboot(reboot) => Some(reboot.why.clone()),
                Start::Boot(_) | Start::Resume(_) => None,
            },
            dir: self.dir.clone(),
        }
    }

    /// Ends the sandbox, by force when its supervisor does not do it in time, and waits until nothing is left of it.
    pub(crate) async fn end(&self) {
        let id = &self.spec.id;
        match tokio::time::timeout(ASK_PATIENCE, self.client.kill()).await {
            // A supervisor that cannot be reached is gone or going; whoever follows it notices.
            Ok(answer) => {
                if let Err(error) = answer {
                    tracing::info!(sandbox = %id, %error, "asking the sandbox to end");
                }
                if tokio::time::timeout(END_PATIENCE, self.released.cancelled()).await.is_ok() {
                    return;
                }
                tracing::warn!(sandbox = %id, "the sandbox did not end within {END_PATIENCE:?}");
            }
            Err(_) => tracing::warn!(sandbox = %id, "the supervisor did not answer within {ASK_PATIENCE:?}"),
        }
        self.force.cancel();
        self.released.cancelled().await;
    }

    /// Waits until the sandbox is over; false when it is not by then.
    pub(crate) async fn ended_within(&self, patience: Duration) -> bool {
        let mut view = self.view.clone();
        let ended = view.wait_for(|view| view.ended.is_some());
        matches!(tokio::time::timeout(patience, ended).await, Ok(Ok(_)))
    }

    /// Waits until the sandbox runs, or for why it does not.
    pub(crate) async fn started(&self) -> Result<SandboxRecord, FleetError> {
        let mut view = self.view.clone();
        let seen = view.wait_for(|view| view.phase == Phase::Running || view.ended.is_some()).await;
        let ended = match seen {
            Ok(view) => view.ended.clone(),
            Err(_) => Some(EndReason::SupervisorDied),
        };
        match ended {
            None => Ok(self.record()),
            Some(EndReason::Killed) => {
                Err(FleetError::Conflict(format!("sandbox {} was killed while it started", self.spec.id)))
            }
            Some(EndReason::StartFailed(why)) => {
                Err(FleetError::StartFailed(format!("sandbox {} did not start: {why}", self.spec.id)))
            }
            Some(other) => Err(FleetError::StartFailed(format!(
                "sandbox {} ended while it started: {other:?}",
                self.spec.id
            ))),
        }
    }
}
