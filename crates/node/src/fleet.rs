//! The node as the REST surface sees it.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use control::{Checkpoint, ClientError, Keep};
use model::{
    BuildId, Connected, CreateSandbox, Fleet, FleetError, LogEntry, LogQuery, MetricRange, MetricSample,
    PausedSandbox, SandboxId, SandboxRecord, SandboxState, Snapshotted, TeamId, WayBack,
};

use crate::entry::Entry;
use crate::node::Node;

/// A push takes microseconds; another change of the end time may hide ours, so it is not waited for without end.
pub(crate) const PUSH_PATIENCE: Duration = Duration::from_millis(500);

#[async_trait]
impl Fleet for Node {
    async fn create(&self, wanted: CreateSandbox) -> Result<SandboxRecord, FleetError> {
        let node = self.clone();
        // In a task of its own: a client that goes away must not leave half a sandbox.
        let create = async move {
            let Some(key) = wanted.idempotency_key.clone() else { return node.start_sandbox(wanted).await };
            let team = wanted.team.clone();
            let once = async {
                if let Some(earlier) = node.made_with(&wanted.team, &key) {
                    return earlier.started().await;
                }
                match node.paused_with(&wanted.team, &key) {
                    Some(earlier) => Ok(earlier),
                    None => node.start_sandbox(wanted).await,
                }
            };
            node.shared.repeats.once(team, key.clone(), once).await
        };
        tokio::spawn(create)
            .await
            .map_err(|error| FleetError::Internal(format!("starting the sandbox: {error}")))?
    }

    fn get(&self, team: &TeamId, id: &SandboxId) -> Result<SandboxRecord, FleetError> {
        if let Some(entry) = self.entry(id).filter(|entry| entry.spec.team == *team && entry.exists()) {
            return Ok(entry.record());
        }
        let paused = self.shared.paused.get(id).filter(|paused| paused.spec.team == *team);
        paused.map(|paused| self.record_of(&paused)).ok_or_else(|| FleetError::NotFound(id.clone()))
    }

    fn list(&self, team: &TeamId) -> Vec<SandboxRecord> {
        // The paused ones first: one that is resumed or paused in between is seen twice, and counts as what runs.
        let paused = self.shared.paused.all();
        let mut found: HashMap<SandboxId, SandboxRecord> = paused
            .iter()
            .filter(|paused| paused.spec.team == *team)
            .map(|paused| (paused.spec.id.clone(), self.record_of(paused)))
            .collect();
        let map = self.read();
        let exist = map.values().filter(|entry| entry.spec.team == *team && entry.exists());
        found.extend(exist.map(|entry| (entry.spec.id.clone(), entry.record())));
        found.into_values().collect()
    }

    async fn set_timeout(
        &self,
        team: &TeamId,
        id: &SandboxId,
        timeout: Duration,
        only_extend: bool,
    ) -> Result<SandboxRecord, FleetError> {
        let entry = self.running_of(team, id)?;
        self.move_end(&entry, timeout, only_extend, false).await
    }

    async fn pause(&self, team: &TeamId, id: &SandboxId, memory: bool) -> Result<(), FleetError> {
        let entry = self.running_of(team, id)?;
        detached(id, async move {
            // Its supervisor has committed it then. Whoever follows it enters it into the catalog and releases what it
            // held, which nobody needs to wait for: until then, whoever wants to use the sandbox waits for that.
            entry.client.pause(keep(memory)).await.map_err(|error| asked(&entry, &error))?;
            // What the supervisor pushes may come later than its answer.
            let mut seen = entry.view.clone();
            let arrived = seen.wait_for(|view| view.pausing || view.ended.is_some());
            let _ = tokio::time::timeout(PUSH_PATIENCE, arrived).await;
            Ok(())
        })
        .await
    }

    async fn snapshot(&self, team: &TeamId, id: &SandboxId, memory: bool) -> Result<Snapshotted, FleetError> {
        let entry = self.running_of(team, id)?;
        let node = self.clone();
        detached(id, async move { node.snapshot_of(&entry, keep(memory)).await }).await
    }

    async fn forget(&self, build: &BuildId) {
        // One that was made beside this server may not have been heard of.
        self.finds(build).await;
        let kept = self.shared.kept().remove(build);
        drop(kept);
        self.shared.paused.references().collect().await;
    }

    async fn connect(
        &self,
        team: &TeamId,
        id: &SandboxId,
        timeout: Duration,
        way: WayBack,
    ) -> Result<Connected, FleetError> {
        let (node, team, name) = (self.clone(), team.clone(), id.clone());
        detached(id, async move { node.wake(&name, &team, timeout, way).await }).await
    }

    async fn resume(
        &self,
        team: &TeamId,
        id: &SandboxId,
        timeout: Duration,
        way: WayBack,
        auto_pause: Option<bool>,
    ) -> Result<SandboxRecord, FleetError> {
        let (node, team, name) = (self.clone(), team.clone(), id.clone());
        detached(id, async move { node.resume_now(&team, &name, timeout, way, auto_pause).await }).await
    }

    async fn kill(&self, team: &TeamId, id: &SandboxId) -> Result<(), FleetError> {
        self.get(team, id)?;
        let (node, name) = (self.clone(), id.clone());
        // In a task of its own: the client of a hung supervisor may lose patience before the force is used.
        detached(id, async move { node.kill_sandbox(&name).await }).await
    }

    async fn metrics(
        &self,
        team: &TeamId,
        id: &SandboxId,
        range: MetricRange,
    ) -> Result<Vec<MetricSample>, FleetError> {
        let entry = self.running_of(team, id)?;
        let mut samples = entry.client.metrics().await.map_err(|error| asked(&entry, &error))?;
        samples.retain(|sample| {
            range.start.is_none_or(|start| sample.timestamp >= start)
                && range.end.is_none_or(|end| sample.timestamp <= end)
        });
        Ok(samples)
    }

    async fn logs(
        &self,
        team: &TeamId,
        id: &SandboxId,
        query: LogQuery,
    ) -> Result<Vec<LogEntry>, FleetError> {
        let entry = self.running_of(team, id)?;
        entry.client.logs(&query.into()).await.map_err(|error| asked(&entry, &error))
    }
}

impl Node {
    /// Ends whatever runs of a sandbox, and then deletes what is kept of it. A resume that comes in between is ended too.
    async fn kill_sandbox(&self, id: &SandboxId) -> Result<(), FleetError> {
        loop {
            if let Some(entry) = self.entry(id) {
                entry.end().await;
            }
            let _transition = self.shared.paused.transition(id).await;
            if self.entry(id).is_some() {
                continue;
            }
            return match self.shared.paused.forget(id).await {
                Ok(_) => Ok(()),
                Err(error) => Err(FleetError::Internal(format!("deleting the paused sandbox {id}: {error}"))),
            };
        }
    }

    /// Has a build made of a sandbox that runs on, and keeps it.
    async fn snapshot_of(&self, entry: &Entry, keep: Keep) -> Result<Snapshotted, FleetError> {
        let references = self.shared.paused.references();
        let build = BuildId::random();
        // From before it exists.
        let hold = references.hold(&build);
        let wanted = Checkpoint { build: build.clone(), keep };
        entry.client.snapshot(&wanted).await.map_err(|error| asked(entry, &error))?;
        let kept = references.enter(&build).await;
        self.shared.kept().insert(build.clone(), kept);
        entry.rebase(hold, keep);
        let envd_version = entry.view.borrow().envd_version.clone();
        Ok(Snapshotted { build, shape: entry.spec.shape, envd_version })
    }

    fn record_of(&self, paused: &PausedSandbox) -> SandboxRecord {
        SandboxRecord {
            spec: paused.spec.clone(),
            state: SandboxState::Paused,
            end_at: paused.paused_at,
            running_since: paused.spec.started_at,
            envd_version: paused.envd_version.clone(),
            rebooted: None,
            dir: self.shared.config.sandboxes.join(paused.spec.id.as_str()),
        }
    }

    fn running_of(&self, team: &TeamId, id: &SandboxId) -> Result<Arc<Entry>, FleetError> {
        match self.entry(id).filter(|entry| entry.spec.team == *team && entry.exists()) {
            Some(entry) if entry.runs() => Ok(entry),
            Some(entry) if entry.view.borrow().pausing => {
                Err(FleetError::Conflict(format!("sandbox {id} is being paused")))
            }
            _ if self.shared.paused.get(id).is_some_and(|paused| paused.spec.team == *team) => {
                Err(FleetError::Conflict(format!("sandbox {id} is paused; connect to it to resume it")))
            }
            _ => Err(FleetError::NotFound(id.clone())),
        }
    }

    /// The sandbox that an earlier request with this key made and that is not ending.
    fn made_with(&self, team: &TeamId, key: &str) -> Option<Arc<Entry>> {
        let same = |entry: &&Arc<Entry>| {
            entry.spec.team == *team && entry.spec.idempotency_key.as_deref() == Some(key) && entry.lives()
        };
        self.read().values().find(same).cloned()
    }

    /// The same for one that is paused by now.
    fn paused_with(&self, team: &TeamId, key: &str) -> Option<SandboxRecord> {
        let all = self.shared.paused.all();
        let same = |paused: &&Arc<PausedSandbox>| {
            paused.spec.team == *team && paused.spec.idempotency_key.as_deref() == Some(key)
        };
        all.iter().find(same).map(|paused| self.record_of(paused))
    }
}

/// What a build with or without memory keeps.
const fn keep(memory: bool) -> Keep {
    if memory { Keep::Everything } else { Keep::Disk }
}

/// What a client is told when a supervisor could not be asked.
pub(crate) fn asked(entry: &Entry, error: &ClientError) -> FleetError {
    let id = &entry.spec.id;
    match error {
        ClientError::Dead { .. } => FleetError::NotFound(id.clone()),
        ClientError::Refused { message, status, .. } if *status == 409 => {
            FleetError::Conflict(message.clone())
        }
        ClientError::Refused { message, .. } => {
            tracing::error!(sandbox = %id, %error, "the supervisor refused");
            FleetError::Internal(format!("sandbox {id}: {message}"))
        }
        _ => {
            tracing::error!(sandbox = %id, %error, "asking the supervisor failed");
            FleetError::Internal(format!("sandbox {id} did not answer; see the server's log"))
        }
    }
}

/// Runs `work` in a task of its own: a client that goes away must not leave half of it done.
async fn detached<T: Send + 'static>(
    id: &SandboxId,
    work: impl Future<Output = Result<T, FleetError>> + Send + 'static,
) -> Result<T, FleetError> {
    tokio::spawn(work).await.map_err(|error| FleetError::Internal(format!("sandbox {id}: {error}")))?
}
