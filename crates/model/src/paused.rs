//! A sandbox that is paused.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{BuildId, SandboxSpec};

/// What is known of a paused sandbox: everything that resuming it takes. Durable, in the catalog.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PausedSandbox {
    /// What it was asked to be.
    pub spec: SandboxSpec,
    /// The build that holds its memory and its disk.
    pub build: BuildId,
    /// The builds that were made for this sandbox alone and that `build` still reads from, itself included. They are
    /// deleted with the sandbox.
    pub builds: Vec<BuildId>,
    /// When it was paused.
    pub paused_at: Timestamp,
    /// Version of its guest daemon.
    pub envd_version: String,
}
