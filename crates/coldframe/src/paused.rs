//! Paused sandboxes in the catalog.

use std::sync::Arc;

use async_trait::async_trait;
use catalog::Catalog;
use model::{PausedSandbox, SandboxId};

/// The node's records of paused sandboxes, kept by the catalog.
#[derive(Debug)]
pub(crate) struct CatalogRecords(pub(crate) Arc<Catalog>);

#[async_trait]
impl node::Records for CatalogRecords {
    async fn all(&self) -> Result<Vec<PausedSandbox>, String> {
        self.0.paused().await.map_err(|error| error.to_string())
    }

    async fn put(&self, paused: &PausedSandbox) -> Result<(), String> {
        self.0.put_paused(paused).await.map_err(|error| error.to_string())
    }

    async fn remove(&self, id: &SandboxId) -> Result<(), String> {
        self.0.remove_paused(id).await.map(drop).map_err(|error| error.to_string())
    }
}
