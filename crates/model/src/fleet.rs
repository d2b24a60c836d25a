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
    pub auto_pause_memory: bool,
    pub auto_resume: bool,
    pub auto_resume_reboots: bool,
    pub envd_token: Option<Secret>,
    pub traffic_token: Option<Secret>,
    /// From now until the sandbox ends by itself. Becomes [`SandboxSpec::timeout_secs`](crate::SandboxSpec::timeout_secs).
    pub timeout: Duration,
    pub idempotency_key: Option<String>,
}

/// A sandbox that a client may talk to.
#[derive(Debug, Clone)]
pub struct Connected {
    /// The sandbox, running.
    pub record: SandboxRecord,
    /// Whether it was paused before.
    pub resumed: bool,
}

/// How a paused sandbox comes back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WayBack {
    /// With its memory. Where none was kept, or what was kept is damaged, a new kernel boots from its disk.
    #[default]
    Best,
    /// A new kernel boots from its disk, whatever there is of its memory.
    Reboot,
    /// With its memory or not at all: nobody who could be told of a reboot asks for it.
    WithMemory,
}

/// What a running sandbox was at one moment, kept.
#[derive(Debug, Clone)]
pub struct Snapshotted {
    /// Sandboxes start from it.
    pub build: BuildId,
    /// The machine.
    pub shape: Shape,
    /// Version of the guest daemon in it.
    pub envd_version: String,
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
    /// The sandbox has no memory to go on with, and a reboot was not wanted. It is still paused.
    #[error("{0}")]
    NeedsReboot(String),
    /// The sandbox could not be started or resumed. A paused one is still paused.
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
    /// the sandbox that the first call made, even if it is paused by now.
    async fn create(&self, wanted: CreateSandbox) -> Result<SandboxRecord, FleetError>;

    /// One sandbox of a team, running or paused.
    fn get(&self, team: &TeamId, id: &SandboxId) -> Result<SandboxRecord, FleetError>;

    /// Every sandbox of a team, running or paused, in no order.
    fn list(&self, team: &TeamId) -> Vec<SandboxRecord>;

    /// Moves the end time to `timeout` from now. With `only_extend`, never to an earlier moment than it has. Durable
    /// when it returns. [`FleetError::Conflict`] when the sandbox does not run.
    async fn set_timeout(
        &self,
        team: &TeamId,
        id: &SandboxId,
        timeout: Duration,
        only_extend: bool,
    ) -> Result<SandboxRecord, FleetError>;

    /// Pauses a sandbox: with its memory, or with its disk alone, to which its guest has written everything. When it
    /// returns, the pause survives a power cut; processors and memory are given back next.
    /// [`FleetError::Conflict`] when it is paused already or being paused; after every other error it runs on.
    async fn pause(&self, team: &TeamId, id: &SandboxId, memory: bool) -> Result<(), FleetError>;

    /// Makes a build of what a running sandbox is now, with its memory or of its disk alone; the sandbox runs on. When it
    /// returns, the build survives a power cut, and [`Fleet::create`] takes it. It is kept until [`Fleet::forget`].
    /// [`FleetError::Conflict`] when the sandbox is paused.
    async fn snapshot(&self, team: &TeamId, id: &SandboxId, memory: bool) -> Result<Snapshotted, FleetError>;

    /// Nobody makes sandboxes from this build any more: it is deleted as soon as nothing reads from it. Returns when what
    /// can be deleted now is.
    async fn forget(&self, build: &BuildId);

    /// Makes sure that a sandbox runs. A running one lives at least `timeout` from now, never shorter than before; a
    /// paused one comes back as `way` says and lives `timeout` from now. Calls for the same sandbox at once resume it
    /// once, and one that comes while it is being paused or resumed waits for that.
    async fn connect(
        &self,
        team: &TeamId,
        id: &SandboxId,
        timeout: Duration,
        way: WayBack,
    ) -> Result<Connected, FleetError>;

    /// Resumes a paused sandbox, which then lives `timeout` from now. `auto_pause` changes what happens at its end
    /// time, from now on. [`FleetError::Conflict`] when it runs.
    async fn resume(
        &self,
        team: &TeamId,
        id: &SandboxId,
        timeout: Duration,
        way: WayBack,
        auto_pause: Option<bool>,
    ) -> Result<SandboxRecord, FleetError>;

    /// Ends a sandbox, running or paused; when it returns, everything the sandbox held is released.
    async fn kill(&self, team: &TeamId, id: &SandboxId) -> Result<(), FleetError>;

    /// Samples of a sandbox, oldest first. [`FleetError::Conflict`] when it is paused and none are kept.
    async fn metrics(
        &self,
        team: &TeamId,
        id: &SandboxId,
        range: MetricRange,
    ) -> Result<Vec<MetricSample>, FleetError>;

    /// Lines of a sandbox, oldest first unless the query says otherwise. [`FleetError::Conflict`] when it is paused and
    /// none are kept.
    async fn logs(&self, team: &TeamId, id: &SandboxId, query: LogQuery)
    -> Result<Vec<LogEntry>, FleetError>;
}
