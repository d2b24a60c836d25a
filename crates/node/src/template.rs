//! Templates as builds: booted once, ahead of need, and from then on every sandbox goes on from there.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use control::{Goal, Start};
use model::{BuildId, EndReason, FleetError, SandboxSpec, Shape, TeamId, TemplateId};

use crate::node::Node;
use crate::references::Hold;

/// Whose the machines are that become templates: nobody's.
const NOBODY: &str = "nobody";

/// Which builds to go on from, by the build of the template.
#[derive(Debug, Default)]
pub(crate) struct Warm(RwLock<HashMap<BuildId, Hold>>);

impl Warm {
    pub(crate) fn of(&self, template: &BuildId) -> Option<BuildId> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(template).map(|hold| hold.build().clone())
    }

    /// The builds of the templates.
    pub(crate) fn templates(&self) -> Vec<BuildId> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }
}

impl Node {
    /// From now on, sandboxes of the template's build `template` go on from `snapshot`, which is in the store, and machines
    /// of its shape stand by.
    pub async fn use_snapshot(&self, template: BuildId, snapshot: BuildId, shape: Shape) {
        self.shared.machines.stand_by_for(shape);
        let snapshot = self.shared.paused.references().enter(&snapshot).await;
        self.shared.warm.0.write().unwrap_or_else(PoisonError::into_inner).insert(template, snapshot);
    }

    /// Sandboxes are made from these builds, until somebody says otherwise ([`Fleet::forget`](model::Fleet::forget)). All
    /// others that no sandbox needs are deleted: to be called once, when everything that is kept is known.
    pub async fn keep_only(&self, builds: Vec<BuildId>) {
        let references = self.shared.paused.references();
        self.shared.kept().extend(builds.iter().map(|build| (build.clone(), references.hold(build))));
        references.complete();
        references.collect().await;
        // A predecessor may have had no time for them.
        self.shared.paused.all().iter().for_each(|paused| self.shared.waiting.tell(&paused.spec.id));
    }

    /// Starts a machine and makes it the build `snapshot`, before anybody uses it, as soon as its guest daemon answers.
    ///
    /// # Errors
    /// When it does not start, or cannot be written.
    pub async fn make_snapshot(
        &self,
        template: &TemplateId,
        shape: Shape,
        start: Start,
        snapshot: &BuildId,
    ) -> Result<(), FleetError> {
        let nobody: TeamId = NOBODY.parse().map_err(|error| FleetError::Internal(format!("{error}")))?;
        let spec = SandboxSpec::new(nobody, template.clone(), snapshot.clone(), shape);
        let beginning = self.begin(spec, start, Goal::Snapshot(snapshot.clone())).await?;
        let entry = &beginning.entry;
        let mut view = entry.view.clone();
        let ended = view.wait_for(|view| view.ended.is_some()).await.map(|view| view.ended.clone());
        entry.released.cancelled().await;
        match ended {
            Ok(Some(EndReason::Paused(build))) if build == *snapshot => Ok(()),
            Ok(Some(
                EndReason::StartFailed(why) | EndReason::VmmDied(why) | EndReason::MemoryUnusable(why),
            )) => Err(FleetError::StartFailed(why)),
            other => Err(FleetError::StartFailed(format!("it ended before it was written: {other:?}"))),
        }
    }
}
