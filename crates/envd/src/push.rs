//! What the daemon tells the host of its own accord: that it is ready, and what processes print.
//!
//! Both go to a small HTTP server of the host, when the daemon was told of one. Log lines pass a queue that is bounded
//! in bytes and leave in batches, a few a second. When the queue is full, lines are dropped and counted, and the next
//! batch says how many: a log must never hold up the process that it is about.

mod client;
mod lines;
mod queue;

use std::sync::Arc;
use std::time::Duration;

use crate::state::Envd;

pub(crate) use lines::LineLog;
pub(crate) use queue::LogQueue;

/// Between two batches. With the size of the queue it limits what logging may cost: 2 MiB/s.
const BATCH_INTERVAL: Duration = Duration::from_millis(250);
/// Between two attempts to tell the host that we are ready, at first and at most.
const FIRST_RETRY: Duration = Duration::from_millis(10);
const MAX_RETRY: Duration = Duration::from_secs(1);

/// Tells the host that the daemon is ready, then sends it log lines, for ever. Returns when there is no host to talk to.
pub(crate) async fn run(envd: Arc<Envd>) {
    let Some(host) = envd.options().host else { return };
    let ready = format!(r#"{{"version":"{}"}}"#, model::ENVD_VERSION);
    let mut pause = FIRST_RETRY;
    while let Err(error) = client::post(host, "/v1/ready", "application/json", ready.as_bytes()).await {
        eprintln!("envd: cannot tell the host that we are ready: {error}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_RETRY);
    }
    loop {
        let batch = envd.log().next_batch().await;
        if client::post(host, "/v1/logs", "application/x-ndjson", &batch.body).await.is_err() {
            // A host that does not answer is not one to keep lines for: it will see the number.
            envd.log().count_dropped(batch.lines);
        }
        tokio::time::sleep(BATCH_INTERVAL).await;
    }
}
