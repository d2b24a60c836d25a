//! Mounting volumes while nobody waits for it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::LogLevel;

use super::nfs;
use super::volumes::{Ledger, MAX_VOLUMES, Volume};
use crate::apart::Apart;
use crate::state::Envd;

/// How long it may take until a volume is given up; its thread may stay.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Network volumes.
#[derive(Debug)]
pub(crate) struct Volumes {
    ledger: Arc<Mutex<Ledger>>,
    apart: Arc<Apart>,
}

impl Default for Volumes {
    fn default() -> Self {
        Self { ledger: Arc::default(), apart: Arc::new(Apart::with_threads(MAX_VOLUMES)) }
    }
}

impl Volumes {
    /// Begins to mount those that are not, all at the same time. Outside a guest nothing is.
    pub(super) fn mount(&self, envd: &Arc<Envd>, volumes: &[Volume], lifecycle: Option<&str>) {
        if volumes.is_empty() {
            return;
        }
        if !envd.machine().is_guest() {
            let text = "volumes are not mounted: this machine is not a sandbox of its own".to_owned();
            envd.log().say(LogLevel::Warn, text);
            return;
        }
        let due = self.ledger.lock().unwrap_or_else(PoisonError::into_inner).due(volumes, lifecycle);
        for volume in due {
            let (envd, ledger, apart) = (Arc::clone(envd), Arc::clone(&self.ledger), Arc::clone(&self.apart));
            tokio::spawn(async move {
                let work = {
                    let volume = volume.clone();
                    move || nfs::replace(&volume).map_err(std::io::Error::other)
                };
                if let Err(error) = apart.run(TIMEOUT, work).await {
                    ledger.lock().unwrap_or_else(PoisonError::into_inner).forget(&volume);
                    let text = format!("volume {} for {}: {error}", volume.nfs_target, volume.path);
                    envd.log().say(LogLevel::Error, text);
                }
            });
        }
    }
}
