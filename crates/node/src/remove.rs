//! Removing everything an instance made, for `coldframe down`.

use std::path::Path;
use std::time::Duration;

use cgroup::Hierarchy;
use control::Client;
use futures_util::future::join_all;
use network::{Host, InstanceTag};

use crate::metrics::NodeMetrics;
use crate::node::NodeError;

/// A supervisor that was asked to end its sandbox is gone within this time, or ended by force.
const PATIENCE: Duration = Duration::from_secs(5);

/// Ends every sandbox below `sandboxes` and removes what the instance `tag` made on this host: control groups,
/// namespaces, links, filters. No server of the instance may run.
///
/// # Errors
/// When the network's part could not be removed. Everything else that fails is logged.
pub async fn remove_everything(sandboxes: &Path, tag: InstanceTag) -> Result<(), NodeError> {
    let directory = |source| NodeError::Directory { path: sandboxes.display().to_string(), source };
    let survivors = crate::adopt::survivors(sandboxes).await.map_err(directory)?;
    join_all(survivors.into_iter().map(|mut survivor| async move {
        let id = survivor.launch.spec.id.clone();
        if let Err(error) = Client::new(&survivor.dir).kill().await {
            tracing::warn!(sandbox = %id, %error, "asking the sandbox to end");
        }
        if tokio::time::timeout(PATIENCE, survivor.process.gone()).await.is_err() {
            tracing::warn!(sandbox = %id, "the supervisor did not exit within {PATIENCE:?}; it is ended by force");
        }
    }))
    .await;
    let hierarchy = Hierarchy::discover()?;
    let host = Host::prepare(tag, None).await?;
    crate::adopt::reclaim(sandboxes, tag, &hierarchy, &host, &[], &NodeMetrics::default()).await;
    let group = crate::start::instance_cgroup(tag);
    if let Err(error) = crate::release::remove_group(&hierarchy, "all", &group).await {
        tracing::error!(%error, "removing the instance's control group failed");
    }
    Ok(host.remove_all().await?)
}
