//! Asking the metadata service again after each `/init`, until it says whose sandbox this is.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::LogLevel;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior};

use super::apply;
use super::metadata::{Facts, Metadata};
use crate::state::Envd;

/// How often it is asked, and for how long.
const INTERVAL: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(60);

/// Follows what the service says.
#[derive(Debug)]
pub(crate) struct Follower {
    service: Metadata,
    asking: Mutex<Option<AbortHandle>>,
}

impl Follower {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { service: Metadata::new(address), asking: Mutex::default() }
    }

    /// What it says now; nothing when it does not answer.
    pub(super) async fn facts(&self, envd: &Envd) -> Option<Facts> {
        match self.service.facts().await {
            Ok(facts) => Some(facts),
            Err(error) => {
                envd.log().say(LogLevel::Warn, format!("the metadata service does not answer: {error}"));
                None
            }
        }
    }

    /// Begins to ask. Whoever still asks for an earlier `/init` no longer needs to.
    pub(super) fn follow(&self, envd: &Arc<Envd>) {
        let task = tokio::spawn(ask(self.service, Arc::clone(envd))).abort_handle();
        let before = self.asking.lock().unwrap_or_else(PoisonError::into_inner).replace(task);
        if let Some(before) = before {
            before.abort();
        }
    }
}

async fn ask(service: Metadata, envd: Arc<Envd>) {
    let deadline = Instant::now() + PATIENCE;
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while Instant::now() < deadline {
        ticks.tick().await;
        let Ok(facts) = service.facts().await else { continue };
        if facts.sandbox_id.is_empty() {
            continue;
        }
        let Facts { sandbox_id, template_id, .. } = facts;
        envd.settings_mut()
            .describe([("E2B_SANDBOX_ID", Some(sandbox_id)), ("E2B_TEMPLATE_ID", Some(template_id))]);
        apply::describe(&envd).await;
        return;
    }
    let text = format!("the metadata service did not say within {PATIENCE:?} whose sandbox this is");
    envd.log().say(LogLevel::Warn, text);
}
