//! What the REST surface asks of whoever runs sandboxes, on this machine or on many.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::{
    BuildId, LogEntry, LogLevel, MetricSample, NetworkPolicy, OnTimeout, SandboxId, SandboxRecord, Secret,
    Shape, TeamId, TemplateId,
};

/// A sandbox that somebody wants. Already checked by the REST surface against the team's limits.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the fields are those of SandboxSpec")]
pub struct CreateSandbox {
    pub team: TeamId,
    pub template: TemplateId,
    pub alias: Option<String>,
    pub build: BuildId,
    pub shape: Shape,
    pub metadata: BTreeMap<String, String>,
    pub env: BTreeMap<String, String>,
    pub network: NetworkPolicy,
    pub on_timeout: OnTimeout,
    pub envd_token: Option<Secret>,
    pub traffic_token: Option<Secret>,
    /// From now until the sandbox ends by itself.
    pub timeout: Duration,
    pub idempotency_key: Option<String>,
}

/// Which samples are wanted; both ends included, `None` is open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct MetricRange {
    pub start: Option<Timestamp>,
    pub end: Option<Timestamp>,
}

/// Which lines are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Only lines at or after this time.
    pub start: Option<Timestamp>,
    /// Only lines at or before this time.
    pub end: Option<Timestamp>,
    /// At most so many.
    pub limit: Option<usize>,
    /// Only lines at this level or above.
    pub level: Option<LogLevel>,
    /// Only lines that contain this text.
    pub search: Option<String>,
    /// Newest first.
    pub backward: bool,
}

/// Why a request about a sandbox was not carried out. The text is for the client.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FleetError {
    /// No sandbox of that team has this id (a foreign one looks the same).
    #[error("Sandbox \"{0}\" doesn't exist or you don't have access to it")]
    NotFound(SandboxId),
    /// The team may not have more sandboxes at once.
    #[error("{0}")]
    LimitReached(String),
    /// No room on this host now.
    #[error("{0}")]
    NoCapacity(String),
    /// The sandbox is in a state that does not allow the request.
    #[error("{0}")]
    Conflict(String),
    /// The sandbox could not be started.
    #[error("{0}")]
    StartFailed(String),
    /// Something on this host is broken; details are in the server's log.
    #[error("{0}")]
    Internal(String),
}

/// Runs sandboxes. Every call survives its caller: dropping the future does not undo half of the work.
#[async_trait]
pub trait Fleet: Send + Sync + 'static {
    /// Starts a sandbox and returns when its guest daemon answers. A repeated idempotency key of the same team gives
    /// the sandbox that the first call made.
    async fn create(&self, wanted: CreateSandbox) -> Result<SandboxRecord, FleetError>;

    /// One running sandbox of a team.
    fn get(&self, team: &TeamId, id: &SandboxId) -> Result<SandboxRecord, FleetError>;

    /// Every running sandbox of a team, in no order.
    fn list(&self, team: &TeamId) -> Vec<SandboxRecord>;

    /// Moves the end time to `timeout` from now. With `only_extend`, never to an earlier moment than it has. Durable
    /// when it returns.
    async fn set_timeout(
        &self,
        team: &TeamId,
        id: &SandboxId,
        timeout: Duration,
        only_extend: bool,
    ) -> Result<SandboxRecord, FleetError>;

    /// Ends a sandbox; when it returns, everything the sandbox held is released.
    async fn kill(&self, team: &TeamId, id: &SandboxId) -> Result<(), FleetError>;

    /// Samples of a running sandbox, oldest first.
    async fn metrics(
        &self,
        team: &TeamId,
        id: &SandboxId,
        range: MetricRange,
    ) -> Result<Vec<MetricSample>, FleetError>;

    /// Lines of a running sandbox, oldest first unless the query says otherwise.
    async fn logs(&self, team: &TeamId, id: &SandboxId, query: LogQuery)
    -> Result<Vec<LogEntry>, FleetError>;
}
