//! Requests for sandboxes that are asleep: they wait for the resume.

use model::{GuestPort, SandboxId};

use crate::config::MAX_WAKES;
use crate::edge::Edge;
use crate::link::Link;
use crate::refusal::Refusal;
use crate::sandboxes::{ConnectError, WakeError};

/// Waits until a sandbox that is asleep runs.
pub(crate) async fn wake(edge: &Edge, id: &SandboxId) -> Result<(), Refusal> {
    let limit = edge.config().timeouts.wake;
    match tokio::time::timeout(limit, edge.sandboxes().wake(id)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(WakeError::NotFound)) => Err(Refusal::NotFound(id.clone())),
        Ok(Err(error @ WakeError::NoRoom(_))) => {
            tracing::info!(sandbox = %id, %error, "a request did not wake its sandbox");
            Err(Refusal::NoRoom(id.clone()))
        }
        Ok(Err(error @ WakeError::NeedsReboot(_))) => {
            tracing::info!(sandbox = %id, %error, "a request did not wake its sandbox");
            Err(Refusal::NeedsReboot(id.clone()))
        }
        Ok(Err(error @ WakeError::Failed(_))) => {
            tracing::warn!(sandbox = %id, %error, "a request did not wake its sandbox");
            Err(Refusal::NotResumed(id.clone()))
        }
        Err(_) => {
            tracing::warn!(sandbox = %id, seconds = limit.as_secs(), "a sandbox was not resumed in time");
            Err(Refusal::WakeTimedOut(id.clone()))
        }
    }
}

/// A fresh connection to a port. Nothing of a request has been sent yet, so a sandbox that was paused after the
/// request was let in is woken, and the connection made again.
pub(crate) async fn connect(edge: &Edge, id: &SandboxId, port: GuestPort) -> Result<Link, Refusal> {
    let mut wakes = 0;
    loop {
        // Asked for anew each time: a pause ends what is known of the connections before it.
        let guest = edge.guests().of(id);
        let error = match guest.connect(edge.sandboxes(), port, &edge.config().timeouts).await {
            Ok(link) => return Ok(link),
            Err(error) => error,
        };
        let asleep = || edge.sandboxes().lookup(id).is_some_and(|target| target.asleep);
        match error {
            ConnectError::NotFound if wakes < MAX_WAKES && asleep() => {
                wakes += 1;
                wake(edge, id).await?;
            }
            ConnectError::NotFound => return Err(Refusal::NotFound(id.clone())),
            ConnectError::Refused => return Err(Refusal::PortClosed(id.clone(), port)),
            ConnectError::TimedOut => return Err(Refusal::TimedOut(id.clone(), port)),
            ConnectError::Io(error) => {
                tracing::warn!(sandbox = %id, %port, %error, "connecting into a sandbox failed");
                return Err(Refusal::Unreachable(id.clone(), port));
            }
        }
    }
}
