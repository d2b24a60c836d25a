//! What QEMU says of itself without being asked, as far as we care.

use serde_json::Value;
use tokio::sync::watch;

use super::lines::printable;

/// What QEMU has said of itself so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    /// Why the machine ends: `guest-shutdown`, `guest-reset`, `host-qmp-quit`, …
    pub(crate) shutdown: Option<String>,
    /// The virtual processors do not run, and nobody asked for that.
    pub(crate) stopped: bool,
    /// We want the virtual processors not to run, so that they do not is no news.
    pub(crate) held: bool,
    /// How the transfer of device state that was begun last has ended. None while it goes on.
    pub(crate) transfer: Option<Transfer>,
    /// Nothing more will come.
    pub(crate) closed: bool,
}

/// How a transfer of device state, which QEMU calls a migration, has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transfer {
    Completed,
    Failed,
    Cancelled,
}

impl Transfer {
    /// None for a state that is not an end.
    fn ended(status: &str) -> Option<Self> {
        match status {
            "completed" => Some(Self::Completed),
            "failed" => Some(Self::Failed),
            "cancelled" => Some(Self::Cancelled),
            _ => None,
        }
    }
}

/// Takes note of an event.
pub(super) fn note(event: &str, data: &Value, observe: &watch::Sender<Observed>) {
    match event {
        "SHUTDOWN" => {
            let reason = printable(data["reason"].as_str().unwrap_or("unknown"));
            observe.send_modify(|observed| observed.shutdown = Some(reason));
        }
        "STOP" => observe.send_modify(|observed| observed.stopped = !observed.held),
        "RESUME" => observe.send_modify(|observed| observed.stopped = false),
        "MIGRATION" => {
            if let Some(end) = data["status"].as_str().and_then(Transfer::ended) {
                observe.send_modify(|observed| observed.transfer = Some(end));
            }
        }
        _ => {}
    }
}
