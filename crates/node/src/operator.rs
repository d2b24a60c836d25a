//! Machines for whoever works on builds, without the REST surface between.
//!
//! A node that is told of no builds that are kept ([`Node::keep_only`]) deletes none: it may work on the store of another one,
//! beside it, with a directory and a tag of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use artifacts::{LocalStore, Store};
use control::{BuildFiles, Goal, Start};
use model::{BuildId, FleetError, SandboxId, SandboxRecord, SandboxSpec, WayBack};

use crate::entry::Entry;
use crate::node::Node;

/// From a supervisor's last word until its node has heard it.
const LAST_WORDS: Duration = Duration::from_secs(3);

impl Node {
    /// Whether a build that has a name is in the store. One that was made beside this node is kept from here on, like those
    /// that it was told of.
    pub(crate) async fn finds(&self, build: &BuildId) -> bool {
        let references = self.shared.paused.references();
        if references.knows(build) {
            return true;
        }
        let (store, name) = (self.shared.config.store.clone(), build.clone());
        let there = tokio::task::spawn_blocking(move || {
            LocalStore::open(&store).and_then(|store| store.contains(&name))
        });
        if !matches!(there.await, Ok(Ok(true))) {
            return false;
        }
        let hold = references.enter(build).await;
        self.shared.kept().insert(build.clone(), hold);
        true
    }

    /// Starts a machine that goes on from a build, or boots from the disk of it, and waits until it runs.
    ///
    /// # Errors
    /// As [`model::Fleet::create`].
    pub async fn start_build(
        &self,
        spec: SandboxSpec,
        build: &BuildId,
        way: WayBack,
    ) -> Result<SandboxRecord, FleetError> {
        self.start_from(spec, build, way).await
    }

    /// Starts a machine that boots from these files, and waits until it runs.
    ///
    /// # Errors
    /// As [`model::Fleet::create`].
    pub async fn boot(&self, spec: SandboxSpec, files: BuildFiles) -> Result<SandboxRecord, FleetError> {
        self.start_specified(spec, Start::Boot(files)).await
    }

    /// Starts a machine that is held as it was in a build until a debugger has come and has left. Does not wait for it: its
    /// supervisor answers ([`control::Client`]) when this returns.
    ///
    /// # Errors
    /// When its supervisor cannot be started.
    pub async fn hold_build(&self, spec: SandboxSpec, build: &BuildId) -> Result<Held, FleetError> {
        let beginning = self.begin(spec, Start::Resume(build.clone()), Goal::Debug).await?;
        Ok(Held { entry: Arc::clone(&beginning.entry) })
    }
}

/// A machine that is held for a debugger.
#[derive(Debug)]
pub struct Held {
    entry: Arc<Entry>,
}

impl Held {
    /// What it is called.
    #[must_use]
    pub fn id(&self) -> &SandboxId {
        &self.entry.spec.id
    }

    /// Where its supervisor answers.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.entry.dir
    }

    /// Why there is no machine, for whoever has just heard that there is none.
    pub async fn why_not(&self) -> Option<FleetError> {
        tokio::time::timeout(LAST_WORDS, self.entry.started()).await.ok()?.err()
    }
}
