//! What the daemon tells the host of its own accord: that it is ready, and what processes print.
//!
//! Both go to a small HTTP server of the host, when the daemon was told of one. Log lines pass a queue that is bounded
//! in bytes and leave in batches, a few a second. When the queue is full, lines are dropped and counted, and the next
//! batch says how many: a log must never hold up the process that it is about.

mod client;
mod lines;
mod queue;
mod shipping;

use std::sync::Arc;
use std::time::Duration;

use crate::state::Envd;

pub(crate) use lines::LineLog;
pub(crate) use queue::LogQueue;
pub(crate) use shipping::Shipping;

use self::shipping::{FIRST_RETRY, MAX_RETRY, Outcome};

/// Between two batches. With the size of the queue it limits what logging may cost: 2 MiB/s.
const BATCH_INTERVAL: Duration = Duration::from_millis(250);

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
    let mut resumes = envd.resumes().subscribe();
    loop {
        let batch = envd.log().next_batch().await;
        if envd.shipping().deliver(host, &batch, &mut resumes).await == Outcome::Refused {
            // The host will see the number.
            envd.log().count_dropped(batch.lines);
        }
        drop(batch);
        tokio::time::sleep(BATCH_INTERVAL).await;
    }
}
