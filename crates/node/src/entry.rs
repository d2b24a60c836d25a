//! One sandbox as its node sees it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use control::{Client, Phase};
use jiff::Timestamp;
use model::{EndReason, FleetError, SandboxRecord, SandboxSpec};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What the supervisor last said.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) phase: Phase,
    pub(crate) end_at: Timestamp,
    pub(crate) envd_version: String,
    /// Set once; from then on the sandbox does not exist for clients, while its resources are being released.
    pub(crate) ended: Option<EndReason>,
}

/// One sandbox, from its admission until everything is released.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) spec: Arc<SandboxSpec>,
    pub(crate) dir: PathBuf,
    pub(crate) client: Client,
    pub(crate) netns: Arc<OwnedFd>,
    pub(crate) view: watch::Receiver<View>,
    /// Cancelled when nothing of the sandbox is left.
    pub(crate) released: CancellationToken,
}

impl Entry {
    /// Whether clients may see it.
    pub(crate) fn runs(&self) -> bool {
        let view = self.view.borrow();
        view.phase == Phase::Running && view.ended.is_none()
    }

    pub(crate) fn record(&self) -> SandboxRecord {
        let view = self.view.borrow();
        SandboxRecord {
            spec: SandboxSpec::clone(&self.spec),
            end_at: view.end_at,
            envd_version: view.envd_version.clone(),
            dir: self.dir.clone(),
        }
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
            Some(EndReason::Killed) => Err(FleetError::Conflict("the sandbox was killed while it started".into())),
            Some(EndReason::StartFailed(why)) => {
                Err(FleetError::StartFailed(format!("sandbox {} did not start: {why}", self.spec.id)))
            }
            Some(other) => {
                Err(FleetError::StartFailed(format!("sandbox {} ended while it started: {other:?}", self.spec.id)))
            }
        }
    }
}
