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
    pub(crate) async fn release(&self, mut holdings: Holdings) {
        let id = &holdings.id;
        if let Some(process) = &mut holdings.process
            && tokio::time::timeout(EXIT_PATIENCE, process.gone()).await.is_err()
        {
            tracing::warn!(sandbox = %id, pid = process.pid(), "the supervisor did not exit within {EXIT_PATIENCE:?}: killing it");
            self.kill_group(id, &holdings.cgroup);
            if let Err(error) = process.gone().await {
                tracing::warn!(sandbox = %id, %error, "waiting for the killed supervisor");
            }
        }
        self.remove_group(id, &holdings.cgroup).await;
        if let Some(slot) = holdings.slot
            && let Err(error) = self.slots.destroy(slot).await
        {
            tracing::error!(sandbox = %id, slot, %error, "destroying the network slot failed");
        }
        remove_dir(id, &holdings.dir);
    }

    fn kill_group(&self, id: &SandboxId, relative: &Path) {
        for leaf in ["supervisor", "vmm"] {
            let killed = self.hierarchy.open(&relative.join(leaf)).map_err(std::io::Error::other).and_then(|g| g.kill());
            if let Err(error) = killed {
                tracing::warn!(sandbox = %id, %error, "killing the control group");
            }
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
        Err(error) => tracing::error!(sandbox = %id, %error, dir = %dir.display(), "removing the sandbox's files failed"),
    }
}
