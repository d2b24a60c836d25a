//! What a sandbox is asked to be, and what is known of it while it lives.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{BuildId, MiB, SandboxId, Secret, TeamId, TemplateId, VcpuCount};

/// The machine a sandbox gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Virtual processors.
    pub vcpus: VcpuCount,
    /// Guest memory.
    pub memory: MiB,
    /// Size of the root disk.
    pub disk: MiB,
}

/// What a sandbox may reach. The seam for the policy engine: more fields come, the default stays "nothing".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPolicy {
    /// Whether connections to the public internet are let out.
    pub allow_internet: bool,
    /// Whether ports other than the guest daemon's are reachable without [`SandboxSpec::traffic_token`].
    pub allow_public_traffic: bool,
    /// Replaces the `Host` header of requests to the sandbox's ports; `${PORT}` stands for the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask_request_host: Option<String>,
}

/// What happens at a sandbox's end time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnTimeout {
    /// It is killed.
    #[default]
    Kill,
    /// It is paused.
    Pause,
}

/// Everything a supervisor needs to run one sandbox. Written once, by the node, to a private file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Its name in the world.
    pub id: SandboxId,
    /// Whose it is.
    pub team: TeamId,
    /// The template it was made from.
    pub template: TemplateId,
    /// The alias that the template was asked for by, if it was.
    pub alias: Option<String>,
    /// The build of that template.
    pub build: BuildId,
    /// The machine.
    pub shape: Shape,
    /// What clients said about it; opaque.
    pub metadata: BTreeMap<String, String>,
    /// Environment of every process started in it.
    pub env: BTreeMap<String, String>,
    /// What it may reach and who may reach it.
    pub network: NetworkPolicy,
    /// What happens at its end time.
    pub on_timeout: OnTimeout,
    /// Whether a pause at its end time keeps its memory, or only its disk.
    #[serde(default = "with_memory")]
    pub auto_pause_memory: bool,
    /// Whether a request to one of its ports resumes it when it is paused.
    #[serde(default)]
    pub auto_resume: bool,
    /// Whether such a request may boot it from its disk, when there is no memory to go on with.
    #[serde(default)]
    pub auto_resume_reboots: bool,
    /// The life it was made with, in seconds; what a resume by traffic gives it again. Zero in a specification that was
    /// written before this was kept.
    #[serde(default)]
    pub timeout_secs: u64,
    /// Needed by clients of the guest daemon; `None` leaves it open.
    pub envd_token: Option<Secret>,
    /// Needed by clients of other ports when these are not public.
    pub traffic_token: Option<Secret>,
    /// When it was asked for.
    pub started_at: Timestamp,
    /// When it ends unless somebody moves the time.
    pub end_at: Timestamp,
    /// The client's key that makes a repeated create return this sandbox instead of another.
    #[serde(default)]
    pub idempotency_key: Option<String>,
}

impl SandboxSpec {
    /// A machine by itself, under a new name: it may reach nothing, nobody needs a token to reach it, and its end time is now.
    #[must_use]
    pub fn new(team: TeamId, template: TemplateId, build: BuildId, shape: Shape) -> Self {
        let now = Timestamp::now();
        Self {
            id: SandboxId::random(),
            team,
            template,
            alias: None,
            build,
            shape,
            metadata: BTreeMap::new(),
            env: BTreeMap::new(),
            network: NetworkPolicy::default(),
            on_timeout: OnTimeout::Kill,
            auto_pause_memory: true,
            auto_resume: false,
            auto_resume_reboots: false,
            timeout_secs: 0,
            envd_token: None,
            traffic_token: None,
            started_at: now,
            end_at: now,
            idempotency_key: None,
        }
    }
}

/// As it was before there was a choice.
const fn with_memory() -> bool {
    true
}

/// Whether a sandbox's processes run. What is on its way from one state to the other counts as what it will be: one
/// that is being paused is paused, one that is being resumed is running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SandboxState {
    /// They run.
    Running,
    /// They are held in a snapshot, and use neither processor nor memory.
    Paused,
}

impl SandboxState {
    /// The word that clients know.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
        }
    }
}

/// A sandbox as its node sees it.
#[derive(Debug, Clone)]
pub struct SandboxRecord {
    /// What it was asked to be.
    pub spec: SandboxSpec,
    /// Whether it runs.
    pub state: SandboxState,
    /// The current end time; of a paused one, when it was paused.
    pub end_at: Timestamp,
    /// When a running one began to: its start or its last resume. A team's longest life of a sandbox counts from here.
    pub running_since: Timestamp,
    /// Version of its guest daemon.
    pub envd_version: String,
    /// Why a new kernel was booted from its disk when it was last started, if that was done instead of going on with its
    /// memory.
    pub rebooted: Option<String>,
    /// Its private directory on this host.
    pub dir: PathBuf,
}

/// Why a sandbox is no more.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "reason", content = "detail", rename_all = "snake_case")]
pub enum EndReason {
    /// A client asked for it.
    Killed,
    /// Its end time came.
    TimedOut,
    /// The guest powered itself off.
    GuestExited,
    /// It never became ready.
    StartFailed(String),
    /// Its virtual machine monitor died.
    VmmDied(String),
    /// The memory that it was to go on with, or went on with so far, is damaged; the detail names the object.
    MemoryUnusable(String),
    /// Its supervisor died.
    SupervisorDied,
    /// It was paused: this build holds its disk and, unless that was not wanted, its memory.
    Paused(BuildId),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_specification_from_before_sandboxes_paused_is_read() {
        let old = r#"{"id":"i1","team":"t1","template":"base","alias":null,"build":"b1",
            "shape":{"vcpus":1,"memory":512,"disk":4096},"metadata":{},"env":{},
            "network":{"allow_internet":false,"allow_public_traffic":true},"on_timeout":"pause",
            "envd_token":null,"traffic_token":null,"started_at":"2026-01-02T03:04:05Z",
            "end_at":"2026-01-02T03:09:05Z"}"#;
        let spec: SandboxSpec = serde_json::from_str(old).unwrap();
        assert_eq!(spec.on_timeout, OnTimeout::Pause);
        assert!(!spec.auto_resume && !spec.auto_resume_reboots && spec.auto_pause_memory);
        assert_eq!(spec.timeout_secs, 0);
    }

    #[test]
    fn a_state_is_stored_as_the_word_that_clients_know() {
        for state in [SandboxState::Running, SandboxState::Paused] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }
}
