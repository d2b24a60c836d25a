//! Giving back everything a sandbox held, whatever of it there is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cgroup::{Hierarchy, Removal};
use model::SandboxId;
use tokio_util::sync::CancellationToken;

use crate::metrics::NodeMetrics;
use crate::process::SupervisorProcess;
use crate::slots::Slots;

/// A supervisor that has said its last word, or whose socket closed, exits at once; a hung one is killed after this.
const EXIT_PATIENCE: Duration = Duration::from_secs(3);
/// A killed process is gone at once, unless the kernel holds it in a call that cannot be interrupted.
const KILL_PATIENCE: Duration = Duration::from_secs(2);

/// How a supervisor leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    /// By itself, soon.
    Willing,
    /// It does not do what it was told, or not in time.
    Forced,
}

/// What one sandbox holds on this host.
#[derive(Debug)]
pub(crate) struct Holdings {
    pub(crate) id: SandboxId,
    pub(crate) process: Option<SupervisorProcess>,
    /// Relative to the hierarchy's root.
    pub(crate) cgroup: PathBuf,
    pub(crate) slot: Option<u16>,
    pub(crate) dir: PathBuf,
}

/// What releasing needs of the node.
#[derive(Debug, Clone)]
pub(crate) struct Releaser {
    pub(crate) hierarchy: Hierarchy,
    pub(crate) slots: std::sync::Arc<Slots>,
    pub(crate) metrics: NodeMetrics,
}

impl Releaser {
    /// Releases in the order in which one thing uses the other: process, group, network, files. A step that fails is
    /// logged and the next one is done all the same; what is left is reclaimed at the next start.
    pub(crate) async fn release(&self, mut holdings: Holdings, leave: Leave) {
        let id = &holdings.id;
        if let Some(process) = holdings.process.take() {
            self.see_off(id, process, &holdings.cgroup, leave).await;
        }
        self.remove_group(id, &holdings.cgroup).await;
        if let Some(slot) = holdings.slot
            && let Err(error) = self.slots.destroy(slot).await
        {
            tracing::error!(sandbox = %id, slot, %error, "destroying the network slot failed");
        }
        remove_dir(id, &holdings.dir);
    }

    /// Waits for the supervisor's end and brings it about if it does not come.
    async fn see_off(&self, id: &SandboxId, mut process: SupervisorProcess, cgroup: &Path, leave: Leave) {
        let pid = process.pid();
        let exited =
            leave == Leave::Willing && tokio::time::timeout(EXIT_PATIENCE, process.gone()).await.is_ok();
        if exited {
            return;
        }
        tracing::warn!(sandbox = %id, pid, ?leave, "the supervisor did not exit: killing it");
        process.kill();
        self.kill_group(id, cgroup);
        if tokio::time::timeout(KILL_PATIENCE, process.gone()).await.is_err() {
            tracing::error!(sandbox = %id, pid, "the killed supervisor is not gone after {KILL_PATIENCE:?}");
            // It is reaped when it is.
            tokio::spawn(async move { process.gone().await });
        }
    }

    fn kill_group(&self, id: &SandboxId, relative: &Path) {
        let killed =
            self.hierarchy.open(relative).map_err(std::io::Error::other).and_then(|group| group.kill());
        if let Err(error) = killed {
            tracing::warn!(sandbox = %id, %error, "killing the control group");
        }
    }

    /// A supervisor that was killed leaves its VMM to die with it; either may still be on its way out, and whatever
    /// else is in the group is killed with it.
    async fn remove_group(&self, id: &SandboxId, relative: &Path) {
        match remove_group(&self.hierarchy, id.as_str(), relative).await {
            Ok(Removal::Clean) => {}
            Ok(Removal::Forced { .. }) => self.metrics.cgroup_forced(),
            Err(error) => tracing::error!(sandbox = %id, %error, "removing the control group failed"),
        }
    }
}

/// Removes a group and those below it, whoever is in them.
pub(crate) async fn remove_group(
    hierarchy: &Hierarchy,
    owner: &str,
    relative: &Path,
) -> Result<Removal, cgroup::CgroupError> {
    hierarchy.open(relative)?.remove(owner, &CancellationToken::new()).await
}

fn remove_dir(id: &SandboxId, dir: &Path) {
    match std::fs::remove_dir_all(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            tracing::error!(sandbox = %id, %error, dir = %dir.display(), "removing the sandbox's files failed")
        }
    }
}
