//! Identifiers, quantities and the records that cross crate boundaries.
//!
//! Nothing here does I/O. A value of one of these types has been checked: a [`SandboxId`] is well formed, a
//! [`GuestPort`] is not zero, a secret does not print itself.
#![forbid(unsafe_code)]

mod fleet;
mod id;
mod log;
mod metric;
mod paused;
mod quantity;
mod sandbox;
mod secret;

pub use fleet::{Connected, CreateSandbox, Fleet, FleetError, LogQuery, MetricRange, Snapshotted, WayBack};
pub use id::{BuildId, KeyId, ParseIdError, SandboxId, TeamId, TemplateId};
pub use log::{LogEntry, LogLevel, LogSource};
pub use metric::MetricSample;
pub use paused::PausedSandbox;
pub use quantity::{GuestPort, MiB, VcpuCount};
pub use sandbox::{EndReason, NetworkPolicy, OnTimeout, SandboxRecord, SandboxSpec, SandboxState, Shape};
pub use secret::Secret;

/// The version that the guest daemon reports and that clients use to decide what it can do.
pub const ENVD_VERSION: &str = "0.6.13";

/// The port on which the guest daemon listens inside every sandbox.
pub const ENVD_PORT: u16 = 49983;

/// The constant that E2B clients expect in `clientID`; nothing depends on its value.
pub const CLIENT_ID: &str = "6532622b";
