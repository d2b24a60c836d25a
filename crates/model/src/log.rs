//! One line of what a sandbox said.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How serious a line is. Ordered: a filter keeps a level and everything above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

impl LogLevel {
    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// Who said it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogSource {
    /// The guest's serial console: kernel and PID 1.
    Console,
    /// A process that envd started; its pid and stream are in the fields.
    Process,
    /// The guest daemon itself.
    Envd,
    /// The supervisor on the host.
    Supervisor,
}

impl LogSource {
    /// The name on the wire (`logger`).
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Console => "console",
            Self::Process => "process",
            Self::Envd => "envd",
            Self::Supervisor => "supervisor",
        }
    }
}

/// One line of output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// When it was said (guest clock for lines from the guest).
    pub timestamp: jiff::Timestamp,
    /// How serious it is.
    pub level: LogLevel,
    /// Who said it.
    pub source: LogSource,
    /// The line, without its line end. At most 64 KiB: whoever makes an entry cuts it there.
    pub message: String,
    /// What else is known: `pid`, `stream` (`stdout`, `stderr`, `pty`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, String>,
}
