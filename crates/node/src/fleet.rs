//! The node as the REST surface sees it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use control::{ClientError, EndTime};
use jiff::{SignedDuration, Timestamp};
use model::{
    CreateSandbox, Fleet, FleetError, LogEntry, LogQuery, MetricRange, MetricSample, SandboxId,
    SandboxRecord, TeamId,
};

use crate::entry::Entry;
use crate::node::Node;

/// A push takes microseconds; another change of the end time may hide ours, so it is not waited for without end.
const PUSH_PATIENCE: Duration = Duration::from_millis(500);

#[async_trait]
impl Fleet for Node {
    async fn create(&self, wanted: CreateSandbox) -> Result<SandboxRecord, FleetError> {
        let node = self.clone();
        // In a task of its own: a client that goes away must not leave half a sandbox.
        let create = async move {
            let Some(key) = wanted.idempotency_key.clone() else { return node.start_sandbox(wanted).await };
            let team = wanted.team.clone();
            let once = async {
                match node.made_with(&wanted.team, &key) {
                    Some(earlier) => earlier.started().await,
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
        Ok(self.running_of(team, id)?.record())
    }

    fn list(&self, team: &TeamId) -> Vec<SandboxRecord> {
        self.read()
            .values()
            .filter(|entry| entry.spec.team == *team && entry.runs())
            .map(|e| e.record())
            .collect()
    }

    async fn set_timeout(
        &self,
        team: &TeamId,
        id: &SandboxId,
        timeout: Duration,
        only_extend: bool,
    ) -> Result<SandboxRecord, FleetError> {
        let entry = self.running_of(team, id)?;
        let timeout = SignedDuration::try_from(timeout).unwrap_or(SignedDuration::MAX);
        let end_at = Timestamp::now().saturating_add(timeout).unwrap_or(Timestamp::MAX);
        let status =
            entry.client.set_end(EndTime { end_at, only_extend }).await.map_err(|e| asked(&entry, &e))?;
        // The supervisor pushes the change; whoever asks after this call returned must not be told the old time.
        let mut seen = entry.view.clone();
        let arrived = seen.wait_for(|view| view.end_at == status.end_at || view.ended.is_some());
        let _ = tokio::time::timeout(PUSH_PATIENCE, arrived).await;
        Ok(SandboxRecord { end_at: status.end_at, ..entry.record() })
    }

    async fn kill(&self, team: &TeamId, id: &SandboxId) -> Result<(), FleetError> {
        let entry = self.running_of(team, id)?;
        // In a task of its own: the client of a hung supervisor may lose patience before the force is used.
        tokio::spawn(async move { entry.end().await })
            .await
            .map_err(|error| FleetError::Internal(format!("ending sandbox {id}: {error}")))
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
    fn running_of(&self, team: &TeamId, id: &SandboxId) -> Result<Arc<Entry>, FleetError> {
        self.entry(id)
            .filter(|entry| entry.spec.team == *team && entry.runs())
            .ok_or_else(|| FleetError::NotFound(id.clone()))
    }

    /// The sandbox that an earlier request with this key made and that is not ending.
    fn made_with(&self, team: &TeamId, key: &str) -> Option<Arc<Entry>> {
        let same = |entry: &&Arc<Entry>| {
            entry.spec.team == *team && entry.spec.idempotency_key.as_deref() == Some(key) && entry.lives()
        };
        self.read().values().find(same).cloned()
    }
}

/// What a client is told when a supervisor could not be asked.
fn asked(entry: &Entry, error: &ClientError) -> FleetError {
    let id = &entry.spec.id;
    match error {
        ClientError::Dead { .. } => FleetError::NotFound(id.clone()),
        ClientError::Refused { message, status, .. } if *status == 409 => {
            FleetError::Conflict(message.clone())
        }
        _ => {
            tracing::error!(sandbox = %id, %error, "asking the supervisor failed");
            FleetError::Internal(format!("sandbox {id} did not answer; see the server's log"))
        }
    }
}
