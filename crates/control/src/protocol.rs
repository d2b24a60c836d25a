//! The messages on the control socket.

use jiff::Timestamp;
use model::{BuildId, EndReason, LogLevel, SandboxId};
use serde::{Deserialize, Serialize};

/// Where a sandbox is in its life. See the state diagram in `supervisor::lifecycle`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The guest boots, or its daemon is being told who it is.
    Starting,
    /// Commands can be run.
    Running,
    /// It is being written to a build. Unless somebody wakes it, it ends when that is done.
    Pausing,
    /// The VMM is being ended.
    Ending,
}

/// What a supervisor knows of its sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Which sandbox it is.
    pub id: SandboxId,
    /// Where it is in its life.
    pub phase: Phase,
    /// When it ends unless somebody moves the time.
    pub end_at: Timestamp,
    /// Version of the guest daemon; empty before the guest said it.
    pub envd_version: String,
    /// Process of the supervisor.
    pub supervisor_pid: i32,
    /// Process of the VMM, once it was started.
    pub vmm_pid: Option<i32>,
    /// Forced removals of the VMM's control group.
    pub cgroup_forced_removals: u64,
}

/// What is pushed to whoever listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Something of the status changed.
    Status(Status),
    /// The VMM is gone and what it held is released; the supervisor exits next.
    Ended {
        /// Why.
        why: EndReason,
        /// Whether the VMM's control group had to be removed by force.
        forced: bool,
    },
}

/// What a build keeps of a sandbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// Its memory, its disk and what its devices were doing: it goes on where it was.
    #[default]
    Everything,
    /// Its disk, after its guest has written everything to it: it boots from that.
    Disk,
}

/// A build that is to be made of a sandbox that runs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Its name.
    pub build: BuildId,
    /// What it keeps.
    pub keep: Keep,
}

/// A new end time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndTime {
    /// When the sandbox ends.
    pub end_at: Timestamp,
    /// Keep the end time it has when that is later.
    pub only_extend: bool,
    /// Whoever asks wants to use the sandbox: a pause that is under way is given up.
    #[serde(default)]
    pub wake: bool,
}

/// Which lines of the log are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are those of model::LogQuery")]
pub struct LogFilter {
    pub start: Option<Timestamp>,
    pub end: Option<Timestamp>,
    pub limit: Option<usize>,
    pub level: Option<LogLevel>,
    pub search: Option<String>,
    pub backward: bool,
}

impl From<model::LogQuery> for LogFilter {
    fn from(query: model::LogQuery) -> Self {
        let model::LogQuery { start, end, limit, level, search, backward } = query;
        Self { start, end, limit, level, search, backward }
    }
}
