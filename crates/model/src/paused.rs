//! A sandbox that is paused.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{BuildId, SandboxSpec};

/// What is known of a paused sandbox: everything that resuming it takes. Durable, in the catalog.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PausedSandbox {
    /// What it was asked to be.
    pub spec: SandboxSpec,
    /// The build that holds its disk and, if it was kept, its memory.
    pub build: BuildId,
    /// When it was paused.
    pub paused_at: Timestamp,
    /// Version of its guest daemon.
    pub envd_version: String,
}
