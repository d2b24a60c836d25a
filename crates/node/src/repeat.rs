//! Creates that carry an idempotency key: however often one is repeated, there is one sandbox.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use model::{FleetError, SandboxRecord, TeamId};
use tokio::sync::OnceCell;

type Key = (TeamId, String);
type Outcome = Arc<OnceCell<Result<SandboxRecord, FleetError>>>;

/// Creates under way, by key. What is done is found in the node's map instead, also after a restart.
#[derive(Debug, Default)]
pub(crate) struct Repeats(Mutex<HashMap<Key, Outcome>>);

impl Repeats {
    /// Runs `create`, or waits for the run of it that is under way with the same key.
    pub(crate) async fn once<F>(
        &self,
        team: TeamId,
        key: String,
        create: F,
    ) -> Result<SandboxRecord, FleetError>
    where
        F: Future<Output = Result<SandboxRecord, FleetError>>,
    {
        let key = (team, key);
        let outcome = Arc::clone(self.lock().entry(key.clone()).or_default());
        let result = outcome.get_or_init(|| create).await.clone();
        let mut under_way = self.lock();
        if under_way.get(&key).is_some_and(|current| Arc::ptr_eq(current, &outcome)) {
            under_way.remove(&key);
        }
        result
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Outcome>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
