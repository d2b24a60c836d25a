//! The sandboxes that are paused.
//!
//! A paused sandbox is a record in the catalog and a build in the store. It stays a record while the sandbox runs again:
//! a sandbox whose supervisor, VMM or host dies is then back at the snapshot it was resumed from, and only a kill, or an
//! end that was meant, deletes it.
//!
//! One sandbox makes one transition at a time: whoever resumes, deletes or replaces a record holds its
//! [`Transition`].

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use artifacts::{LocalStore, Store};
use async_trait::async_trait;
use model::{BuildId, PausedSandbox, SandboxId};

/// Where the records are kept, durably.
#[async_trait]
pub trait Records: Send + Sync + 'static {
    /// Every record.
    async fn all(&self) -> Result<Vec<PausedSandbox>, String>;

    /// Writes a record in place of an older one of the same sandbox; it is on stable storage when this returns.
    async fn put(&self, paused: &PausedSandbox) -> Result<(), String>;

    /// Deletes a record, if there is one.
    async fn remove(&self, id: &SandboxId) -> Result<(), String>;
}

/// The right to change what a sandbox is; given back when dropped.
pub(crate) type Transition = tokio::sync::OwnedMutexGuard<()>;

/// All records of this node.
pub(crate) struct Paused {
    records: Arc<dyn Records>,
    store: PathBuf,
    map: RwLock<HashMap<SandboxId, Arc<PausedSandbox>>>,
    transitions: Mutex<HashMap<SandboxId, Weak<tokio::sync::Mutex<()>>>>,
}

impl Paused {
    /// Reads every record.
    pub(crate) async fn load(records: Arc<dyn Records>, store: &Path) -> Result<Self, String> {
        let map = records.all().await?.into_iter().map(|paused| (paused.spec.id.clone(), Arc::new(paused)));
        let map = RwLock::new(map.collect());
        Ok(Self { records, store: store.to_owned(), map, transitions: Mutex::default() })
    }

    pub(crate) fn get(&self, id: &SandboxId) -> Option<Arc<PausedSandbox>> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<PausedSandbox>> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Waits for the right to change what a sandbox is.
    pub(crate) async fn transition(&self, id: &SandboxId) -> Transition {
        let mutex = {
            let mut transitions = self.transitions.lock().unwrap_or_else(PoisonError::into_inner);
            transitions.retain(|_, mutex| mutex.strong_count() > 0);
            let known = transitions.get(id).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let mutex = Arc::default();
                transitions.insert(id.clone(), Arc::downgrade(&mutex));
                mutex
            })
        };
        mutex.lock_owned().await
    }

    /// Enters a pause that its supervisor has committed. Visible at once; durable when this returns without an error.
    /// Builds that only the record before it needed are deleted.
    pub(crate) async fn record(&self, paused: PausedSandbox) -> Result<(), String> {
        let paused = Arc::new(paused);
        let before = self
            .map
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(paused.spec.id.clone(), Arc::clone(&paused));
        self.records.put(&paused).await?;
        let unused =
            before.iter().flat_map(|before| &before.builds).filter(|build| !paused.builds.contains(build));
        self.delete(unused.cloned().collect()).await;
        Ok(())
    }

    /// Deletes a sandbox's record and its builds. Whether there was one.
    pub(crate) async fn forget(&self, id: &SandboxId) -> Result<bool, String> {
        // The record first: one without builds would be a promise that nobody can keep.
        let Some(paused) = self.get(id) else { return Ok(false) };
        self.records.remove(id).await?;
        self.map.write().unwrap_or_else(PoisonError::into_inner).remove(id);
        self.delete(paused.builds.clone()).await;
        Ok(true)
    }

    /// Removes what supervisors that died have begun to write. What a living one writes stays.
    pub(crate) async fn clean(&self) {
        let path = self.store.clone();
        let cleaned = tokio::task::spawn_blocking(move || LocalStore::open(&path)?.clean_staging()).await;
        let error = match cleaned {
            Ok(Ok(0)) => return,
            Ok(Ok(builds)) => return tracing::info!(builds, "removed builds that were never finished"),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::error!(error, "removing builds that were never finished failed");
    }

    async fn delete(&self, builds: Vec<BuildId>) {
        if builds.is_empty() {
            return;
        }
        let path = self.store.clone();
        let deleted = tokio::task::spawn_blocking(move || {
            let store = LocalStore::open(&path).map_err(io::Error::other)?;
            for build in &builds {
                if let Err(error) = store.remove(build) {
                    tracing::error!(%build, %error, "deleting a build that nobody needs failed");
                }
            }
            io::Result::Ok(())
        });
        if let Err(error) = deleted.await.map_err(io::Error::other).and_then(|deleted| deleted) {
            tracing::error!(%error, "deleting builds that nobody needs failed");
        }
    }
}
