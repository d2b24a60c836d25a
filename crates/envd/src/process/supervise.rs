//! Stays with a process until its end.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::join_all;
use rustix::process::Signal;

use super::exit::Exit;
use super::output::Output;
use super::registry::Registry;
use super::running::Process;
use crate::push::{LineLog, LogQueue};

/// Passes its output on, kills it at the deadline, and when it has ended, tells everybody.
pub(super) async fn supervise(
    process: Arc<Process>,
    outputs: Vec<Output>,
    deadline: Option<Instant>,
    registry: Arc<Registry>,
    log: &Arc<LogQueue>,
) {
    let hub = process.hub();
    // Its own token, not `ending`: until the process has ended, there is more output to wait for.
    let drain = tokio_util::sync::CancellationToken::new();
    let command = process.command();
    let pump = |output: Output| {
        let lines = LineLog::new(Arc::clone(log), process.pid(), output.source.as_str(), &command);
        output.pump(hub, lines, &drain)
    };
    let mut pumps = std::pin::pin!(join_all(outputs.into_iter().map(pump)));
    let mut outputs_at_end = false;
    let kill_at_deadline = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
            None => std::future::pending().await,
        }
        // When it has ended in this moment, there is nothing left to do.
        let _ = process.signal(Signal::KILL);
        std::future::pending::<()>().await;
    };
    {
        let mut kill_at_deadline = std::pin::pin!(kill_at_deadline);
        tokio::select! {
            () = process.ended() => {}
            () = &mut kill_at_deadline => {}
            () = async { (&mut pumps).await; outputs_at_end = true; std::future::pending().await } => {}
        }
        if !outputs_at_end {
            tokio::select! {
                _ = &mut pumps => outputs_at_end = true,
                () = process.ending().cancelled() => {}
                () = &mut kill_at_deadline => {}
            }
        }
    }
    if !outputs_at_end {
        drain.cancel();
        pumps.await;
    }
    // Without a status somebody else has reaped it.
    let exit = process.reap().as_ref().map_or(Exit::Unknown, Exit::from);
    registry.retire(&process, exit);
    hub.finish(exit);
}
