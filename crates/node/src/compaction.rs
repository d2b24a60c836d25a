//! Builds of paused sandboxes are made again, in the background, before they become many or full of dead pages.
//!
//! ```text
//! paused, released ─> waiting ─> worth it? ─> the new build is written ─> turn of the sandbox ─> record ─> the rest is collected
//!                                   │ no          │ resumed, killed          │ resumed, killed
//!                                   v             v                          v
//!                                 as it is      nothing is left           the new build is collected
//! ```
//!
//! Whoever wants the sandbox meanwhile never waits for this. The record names the old build, with everything that it needs,
//! until the catalog has the new one durably; that is the moment, and it takes as long as writing one row. Whatever
//! crashes before it leaves a build that nobody names, and after it the old one is that: both are collected at the next start.
//!
//! One is made at a time, by a thread that uses processors and disks only as far as nobody else wants them.
//!
//! The builds of templates and snapshots stay as they are. They are named by clients, and do not grow.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use artifacts::{ArtifactError, Compacted, Compaction, LocalStore};
use model::{BuildId, SandboxId};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use crate::node::Node;
use crate::paused::Paused;

/// The paused sandboxes whose builds are to be looked at. Each is here once, so they are never more than there are.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    sandboxes: Mutex<BTreeSet<SandboxId>>,
    more: Notify,
}

impl Waiting {
    /// Has the build of a paused sandbox looked at, some time.
    pub(crate) fn tell(&self, id: &SandboxId) {
        self.sandboxes().insert(id.clone());
        self.more.notify_one();
    }

    async fn next(&self) -> SandboxId {
        loop {
            if let Some(id) = self.sandboxes().pop_first() {
                return id;
            }
            self.more.notified().await;
        }
    }

    // Nothing panics while it holds the lock.
    fn sandboxes(&self) -> MutexGuard<'_, BTreeSet<SandboxId>> {
        self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The sandbox has a new build now.
    Committed {
        /// How many bytes of pages were written again.
        copied: u64,
    },
    /// Somebody else was faster: the sandbox runs, is gone, or is something else by now.
    Overtaken,
}

/// Whether a sandbox still stands where it stood. Asked often, by another thread.
pub(crate) type Idle = Arc<dyn Fn() -> bool + Send + Sync>;

/// Looks at builds until `stop`.
pub(crate) async fn keep_compact(node: Node, stop: CancellationToken) {
    loop {
        let id = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            id = node.shared.waiting.next() => id,
        };
        match node.look_at(&id, &stop).await {
            Ok(None) => {}
            Ok(Some(outcome)) => {
                node.shared.metrics.compacted(outcome);
                tracing::info!(sandbox = %id, ?outcome, "compacted the build of a paused sandbox");
            }
            // It stays as it is, and is looked at again when it was paused the next time.
            Err(error) => {
                node.shared.metrics.compaction_failed();
                tracing::warn!(sandbox = %id, error, "compacting the build of a paused sandbox failed");
            }
        }
    }
}

impl Node {
    /// Compacts the build of a paused sandbox if that is worth it. `None`: it is not.
    async fn look_at(&self, id: &SandboxId, stop: &CancellationToken) -> Result<Option<Outcome>, String> {
        let Some(record) = self.shared.paused.get(id).filter(|_| self.entry(id).is_none()) else {
            return Ok(None);
        };
        let idle: Idle = {
            let (node, stop, id, from) = (self.clone(), stop.clone(), id.clone(), record.build.clone());
            Arc::new(move || {
                let stands = node.shared.paused.get(&id).is_some_and(|now| now.build == from);
                stands && node.entry(&id).is_none() && !stop.is_cancelled()
            })
        };
        match worth_it(&self.shared.paused, &record.build).await {
            Ok(without) if without.is_empty() => Ok(None),
            Ok(without) => make_again(&self.shared.paused, id, &record.build, without, idle).await.map(Some),
            // It was deleted while it was looked at.
            Err(_) if !idle() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The sources that a build should do without.
async fn worth_it(paused: &Paused, build: &BuildId) -> Result<BTreeSet<BuildId>, String> {
    let alone = paused.references().only_for(build);
    let (store, build) = (paused.store().to_owned(), build.clone());
    in_background(move || {
        let usage = artifacts::usage(&LocalStore::open(&store)?, &build)?;
        Ok(artifacts::plan(&build, &usage, |source| alone.contains(source)))
    })
    .await
}

/// Makes the build of a paused sandbox again, without some of its sources, and has its record name the new one.
pub(crate) async fn make_again(
    paused: &Paused,
    id: &SandboxId,
    from: &BuildId,
    without: BTreeSet<BuildId>,
    idle: Idle,
) -> Result<Outcome, String> {
    let into = BuildId::random();
    let writing = Writing {
        store: paused.store().to_owned(),
        from: from.clone(),
        into: into.clone(),
        without,
        idle: Arc::clone(&idle),
    };
    let copied = match in_background(move || writing.run()).await {
        Ok(Compacted::Published { copied }) => copied,
        Ok(Compacted::GivenUp) => return Ok(Outcome::Overtaken),
        // What is read from is deleted with the sandbox.
        Err(_) if !idle() => return Ok(Outcome::Overtaken),
        Err(error) => return Err(error),
    };
    let new = paused.references().enter(&into).await;
    let committed = {
        let turn = paused.transition(id).await;
        // From here on nobody can begin to use the sandbox; whoever began before is seen.
        if idle() {
            paused.exchange(&turn, id, from, new).await
        } else {
            drop(new);
            Ok(false)
        }
    };
    paused.references().collect().await;
    Ok(if committed? { Outcome::Committed { copied } } else { Outcome::Overtaken })
}

/// What the thread needs that writes a new build.
struct Writing {
    store: PathBuf,
    from: BuildId,
    into: BuildId,
    without: BTreeSet<BuildId>,
    idle: Idle,
}

impl Writing {
    fn run(&self) -> Result<Compacted, ArtifactError> {
        let store = LocalStore::open(&self.store)?;
        let Self { from, into, without, .. } = self;
        Compaction { store: &store, from, into, without, wanted: &*self.idle }.run()
    }
}

/// Runs `work` in a thread of its own: the priority of one cannot be raised again.
async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ArtifactError> + Send + 'static,
) -> Result<T, String> {
    let (sender, result) = oneshot::channel();
    let run = move || {
        if let Err(error) = sys::background::this_thread() {
            tracing::warn!(%error, "compaction has the priority of everything else");
        }
        // Whoever does not wait for it any more needs no answer.
        let _ = sender.send(work().map_err(|error| error.to_string()));
    };
    std::thread::Builder::new().name("compaction".into()).spawn(run).map_err(|error| error.to_string())?;
    result.await.map_err(|_| "its thread panicked".to_owned())?
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use artifacts::Store;
    use async_trait::async_trait;
    use model::PausedSandbox;

    use super::*;
    use crate::paused::Records;
    use crate::power_cut::builds::Pause;

    const FIRST: Pause = Pause { sandbox: "one", number: 1, needs: &[] };
    const SECOND: Pause = Pause { sandbox: "one", number: 2, needs: &[1] };

    #[derive(Default)]
    struct Rows {
        rows: Mutex<HashMap<SandboxId, PausedSandbox>>,
        full: AtomicBool,
    }

    #[async_trait]
    impl Records for Rows {
        async fn all(&self) -> Result<Vec<PausedSandbox>, String> {
            Ok(self.rows.lock().unwrap().values().cloned().collect())
        }

        async fn put(&self, paused: &PausedSandbox) -> Result<(), String> {
            if self.full.load(Ordering::Relaxed) {
                return Err("the disk is full".into());
            }
            self.rows.lock().unwrap().insert(paused.spec.id.clone(), paused.clone());
            Ok(())
        }

        async fn remove(&self, id: &SandboxId) -> Result<(), String> {
            self.rows.lock().unwrap().remove(id);
            Ok(())
        }
    }

    /// A sandbox that was paused twice.
    struct Scene {
        directory: tempfile::TempDir,
        rows: Arc<Rows>,
        paused: Paused,
    }

    impl Scene {
        async fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let (path, rows) = (directory.path(), Arc::new(Rows::default()));
            std::fs::create_dir(path.join("sandboxes")).unwrap();
            let store = LocalStore::open(&path.join("store")).unwrap();
            for pause in [FIRST, SECOND] {
                let (staged, manifest) = pause.stage(&store);
                staged.publish(&manifest).unwrap();
            }
            let records = Arc::clone(&rows) as Arc<dyn Records>;
            let paused = Paused::load(records, &path.join("store"), &path.join("sandboxes")).await.unwrap();
            paused.references().complete();
            paused.record(SECOND.record()).await.unwrap();
            Self { directory, rows, paused }
        }

        async fn compact(&self, idle: impl Fn() -> bool + Send + Sync + 'static) -> Result<Outcome, String> {
            let without = [FIRST.build()].into();
            make_again(&self.paused, &id(), &SECOND.build(), without, Arc::new(idle)).await
        }

        fn store(&self) -> LocalStore {
            LocalStore::open(self.paused.store()).unwrap()
        }

        /// What there is in the store, finished or not.
        fn left(&self) -> Vec<String> {
            let entries = std::fs::read_dir(self.paused.store()).unwrap();
            let mut left: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            left.sort();
            left
        }

        /// It is as if nobody had tried.
        fn is_as_before(&self) {
            assert_eq!(self.left(), ["one1", "one2"]);
            assert_eq!(self.paused.get(&id()).unwrap().build, SECOND.build());
            assert_eq!(self.rows.rows.lock().unwrap()[&id()].build, SECOND.build());
            SECOND.is_whole(&self.store()).unwrap();
        }
    }

    fn id() -> SandboxId {
        "one".parse().unwrap()
    }

    #[tokio::test]
    async fn the_sandbox_has_a_new_build_and_the_old_ones_go() {
        let scene = Scene::new().await;
        let outcome = scene.compact(|| true).await.unwrap();
        // What the second pause wrote is the same, and it has all of the first now.
        assert_eq!(outcome, Outcome::Committed { copied: (5 + 3) * build::PAGE_BYTES });
        let now = scene.paused.get(&id()).unwrap();
        assert_eq!(scene.left(), [now.build.to_string()]);
        assert_eq!(scene.rows.rows.lock().unwrap()[&id()].build, now.build);
        SECOND.is_whole_in(&scene.store(), &now.build).unwrap();
    }

    #[tokio::test]
    async fn whoever_wants_the_sandbox_wins_at_any_moment() {
        let scene = Scene::new().await;
        for patience in 0.. {
            let asked = AtomicUsize::new(0);
            let idle = move || asked.fetch_add(1, Ordering::Relaxed) < patience;
            match scene.compact(idle).await.unwrap() {
                Outcome::Overtaken => scene.is_as_before(),
                Outcome::Committed { .. } => {
                    assert!(
                        patience > 3,
                        "it was asked while writing, before publishing and before the commit"
                    );
                    break;
                }
            }
        }
    }

    #[tokio::test]
    async fn a_record_of_something_else_stays() {
        let scene = Scene::new().await;
        // Nobody tells that the sandbox was resumed and paused meanwhile.
        let mut record = SECOND.record();
        record.build = FIRST.build();
        let second = scene.paused.references().hold(&SECOND.build());
        scene.paused.record(record).await.unwrap();
        assert_eq!(scene.compact(|| true).await.unwrap(), Outcome::Overtaken);
        assert_eq!(scene.left(), ["one1", "one2"]);
        drop(second);
        assert!(scene.paused.forget(&id()).await.unwrap());
        assert_eq!(scene.left(), [""; 0]);
        assert_eq!(scene.compact(|| false).await.unwrap(), Outcome::Overtaken);
        assert_eq!(scene.left(), [""; 0]);
    }

    #[tokio::test]
    async fn a_directory_that_may_hold_the_pause_is_waited_for() {
        let scene = Scene::new().await;
        let dir = scene.directory.path().join("sandboxes/one");
        std::fs::create_dir(&dir).unwrap();
        assert_eq!(scene.compact(|| true).await.unwrap(), Outcome::Overtaken);
        scene.is_as_before();
        std::fs::remove_dir(&dir).unwrap();
        assert!(matches!(scene.compact(|| true).await.unwrap(), Outcome::Committed { .. }));
    }

    #[tokio::test]
    async fn both_builds_stay_when_it_cannot_be_told_which_is_named() {
        let scene = Scene::new().await;
        scene.rows.full.store(true, Ordering::Relaxed);
        let error = scene.compact(|| true).await.unwrap_err();
        assert!(error.contains("the disk is full"), "{error}");
        assert_eq!(scene.left().len(), 3);
        SECOND.is_whole(&scene.store()).unwrap();

        // The next server asks the catalog.
        let Scene { directory, rows, .. } = scene;
        let (store, sandboxes) = (directory.path().join("store"), directory.path().join("sandboxes"));
        let paused = Paused::load(rows, &store, &sandboxes).await.unwrap();
        paused.references().complete();
        paused.references().collect().await;
        let left = LocalStore::open(&store).unwrap().list().unwrap();
        assert_eq!(left, [FIRST.build(), SECOND.build()]);
    }

    #[tokio::test]
    async fn damage_leaves_everything_as_it_is() {
        let scene = Scene::new().await;
        let data = scene.paused.store().join("one1/memory.data");
        let mut bytes = std::fs::read(&data).unwrap();
        bytes[5000] ^= 1;
        std::fs::remove_file(&data).unwrap();
        std::fs::write(&data, bytes).unwrap();
        let error = scene.compact(|| true).await.unwrap_err();
        assert!(error.contains("memory.data of build one1"), "{error}");
        assert_eq!(scene.left(), ["one1", "one2"]);
        assert_eq!(scene.paused.get(&id()).unwrap().build, SECOND.build());
    }

    #[tokio::test]
    async fn a_sandbox_waits_once() {
        let waiting = Waiting::default();
        waiting.tell(&id());
        waiting.tell(&id());
        assert_eq!(waiting.next().await, id());
        let more = tokio::time::timeout(std::time::Duration::from_millis(50), waiting.next()).await;
        assert!(more.is_err());
    }
}
