//! Whether log lines are sent to the host, and how one batch is.
//!
//! ```text
//!          quiesce              finished, or too slow
//!   open ───────────> closing ────────────────────────> closed
//!    ^  exchanges       │  the one under way may finish    │  none
//!    └──────────────────┴──────────────────────────────────┘
//!                    reopen (/init, /health)
//! ```
//!
//! An exchange may be cut at any point: by the host's end, by the time limit, by a snapshot. Its batch is sent again until
//! the host has taken it, so a host may get lines twice, but none is lost between two hosts.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::{Mutex, watch};

use super::client::{self, PostError};
use super::queue::Batch;

/// How long a freeze of the machine may be held up by an exchange.
const FINISH_TIMEOUT: Duration = Duration::from_millis(500);
/// Between two attempts, at first and at most.
pub(super) const FIRST_RETRY: Duration = Duration::from_millis(10);
pub(super) const MAX_RETRY: Duration = Duration::from_secs(1);

/// Whether log lines are sent.
#[derive(Debug)]
pub(crate) struct Shipping {
    gate: watch::Sender<Gate>,
    /// Held during an exchange.
    exchange: Mutex<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    Open,
    Closing,
    Closed,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The host has it.
    Taken,
    /// The host does not want it.
    Refused,
}

impl Default for Shipping {
    fn default() -> Self {
        Self { gate: watch::Sender::new(Gate::Open), exchange: Mutex::default() }
    }
}

impl Shipping {
    /// Stops: when this returns, no exchange is under way and none begins, unless somebody opens again.
    pub(crate) async fn quiesce(&self) {
        self.change(&[Gate::Open], Gate::Closing);
        let _ = tokio::time::timeout(FINISH_TIMEOUT, self.exchange.lock()).await;
        self.change(&[Gate::Closing], Gate::Closed);
        // One that was too slow is dropped now.
        let _ = tokio::time::timeout(FINISH_TIMEOUT, self.exchange.lock()).await;
    }

    /// Goes on.
    pub(crate) fn reopen(&self) {
        self.change(&[Gate::Closing, Gate::Closed], Gate::Open);
    }

    fn change(&self, from: &[Gate], to: Gate) {
        self.gate.send_if_modified(|gate| {
            let changes = from.contains(gate);
            if changes {
                *gate = to;
            }
            changes
        });
    }

    /// Waits until it is so.
    async fn reaches(&self, wanted: Gate) {
        // The sender is ours.
        let _ = self.gate.subscribe().wait_for(|gate| *gate == wanted).await;
    }

    /// Sends a batch, again and again until there is an answer. What was begun before a resume has nobody on its other
    /// side any more and is begun anew at once.
    pub(super) async fn deliver(
        &self,
        host: SocketAddr,
        batch: &Batch,
        resumes: &mut watch::Receiver<u64>,
    ) -> Outcome {
        let mut pause = FIRST_RETRY;
        loop {
            self.reaches(Gate::Open).await;
            let exchange = self.exchange.lock().await;
            if *self.gate.borrow() != Gate::Open {
                continue;
            }
            resumes.mark_unchanged();
            let answer = tokio::select! {
                biased;
                answer = client::post(host, "/v1/logs", "application/x-ndjson", &batch.body) => Some(answer),
                () = self.reaches(Gate::Closed) => None,
                _ = resumes.changed() => None,
            };
            drop(exchange);
            match answer {
                Some(Ok(())) => return Outcome::Taken,
                Some(Err(PostError::Refused(_))) => return Outcome::Refused,
                Some(Err(PostError::Unreachable(_))) => {
                    tokio::select! {
                        () = tokio::time::sleep(pause) => pause = (pause * 2).min(MAX_RETRY),
                        _ = resumes.changed() => pause = FIRST_RETRY,
                    }
                }
                None => pause = FIRST_RETRY,
            }
        }
    }
}
