use std::sync::Arc;
use std::time::Duration;

use catalog::{Catalog, Team};
use model::Fleet;
use tokio::sync::Semaphore;

use crate::ApiConfig;
use crate::pending::PendingStarts;

/// What the handlers share. Cheap to clone.
#[derive(Clone)]
pub struct ApiState(Arc<Shared>);

struct Shared {
    catalog: Arc<Catalog>,
    fleet: Arc<dyn Fleet>,
    config: ApiConfig,
    creates: Arc<Semaphore>,
    requests: Arc<Semaphore>,
    pending: Arc<PendingStarts>,
}

impl ApiState {
    /// Puts together what the handlers need.
    #[must_use]
    pub fn new(catalog: Arc<Catalog>, fleet: Arc<dyn Fleet>, config: ApiConfig) -> Self {
        let permits = |n: usize| Arc::new(Semaphore::new(n.min(Semaphore::MAX_PERMITS)));
        Self(Arc::new(Shared {
            catalog,
            fleet,
            creates: permits(config.max_creates),
            requests: permits(config.max_requests),
            pending: Arc::default(),
            config,
        }))
    }

    pub(crate) fn catalog(&self) -> &Catalog {
        &self.0.catalog
    }

    pub(crate) fn fleet(&self) -> &Arc<dyn Fleet> {
        &self.0.fleet
    }

    pub(crate) fn config(&self) -> &ApiConfig {
        &self.0.config
    }

    /// One permit per create under way.
    pub(crate) fn creates(&self) -> &Arc<Semaphore> {
        &self.0.creates
    }

    /// One permit per request under way.
    pub(crate) fn requests(&self) -> &Arc<Semaphore> {
        &self.0.requests
    }

    pub(crate) fn pending(&self) -> &Arc<PendingStarts> {
        &self.0.pending
    }

    /// The longest that a sandbox of this team may run, from its start or its last resume.
    pub(crate) fn max_life(&self, team: &Team) -> Duration {
        self.config().max_timeout.min(Duration::from_secs(u64::from(team.limits.max_hours) * 3600))
    }
}
