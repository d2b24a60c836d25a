//! Which builds are needed, and the end of those that are not.
//!
//! A build is needed while somebody holds it: a sandbox that runs from it, the record of one that is paused into it, a
//! template or a snapshot that sandboxes are made from. So is every build that a held one reads from, and no other: a header
//! is complete, so what those had been made of does not matter. Nothing else decides, so whoever stops needing a build lets
//! go of it and has the rest collected.
//!
//! Only builds that are known are collected. One becomes known when the server starts, or when it is entered by whoever
//! had it made and holds it: a build that is published at this moment, and that nobody has heard of, is safe. So is one that
//! a supervisor published before it died; it becomes known when the end of its sandbox is.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use artifacts::{ArtifactError, LocalStore, Store};
use model::{BuildId, SandboxId};

use crate::reboot::Cause;

/// The builds of a store.
#[derive(Debug)]
pub(crate) struct References {
    store: PathBuf,
    state: Mutex<State>,
    /// Whether everybody who needs a build from before this server has said so. Until then nothing is collected.
    complete: AtomicBool,
    /// Collections come one after the other.
    collecting: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<BuildId, Known>,
    /// How many hold it.
    held: HashMap<BuildId, usize>,
    /// Those whose memory turned out to be damaged, and how.
    damaged: HashMap<BuildId, String>,
}

/// What there is to know about a build.
#[derive(Debug)]
struct Known {
    /// The builds that its images read from; it may be one of them. `None`: that cannot be told.
    reads: Option<BTreeSet<BuildId>>,
    /// The sandbox that it was made of.
    owner: Option<SandboxId>,
    /// Whether it has a memory. Also when that cannot be told: whoever goes on from it finds out.
    memory: bool,
}

/// Keeps a build, and what it reads from, until it is dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    references: Arc<References>,
    build: BuildId,
}

impl Hold {
    pub(crate) fn build(&self) -> &BuildId {
        &self.build
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.references.state();
        if let Some(count) = state.held.get_mut(&self.build) {
            *count -= 1;
            if *count == 0 {
                state.held.remove(&self.build);
            }
        }
    }
}

impl References {
    /// Gets to know every build of the store.
    pub(crate) async fn load(store: &Path) -> Result<Arc<Self>, String> {
        let path = store.to_owned();
        let known = tokio::task::spawn_blocking(move || {
            let store = LocalStore::open(&path)?;
            let builds = store.list()?;
            Ok::<_, ArtifactError>(builds.into_iter().map(|build| known(&store, build)).collect())
        });
        let known = known.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let state = Mutex::new(State { known, ..State::default() });
        let (complete, collecting) = (AtomicBool::new(false), tokio::sync::Mutex::default());
        Ok(Arc::new(Self { store: store.to_owned(), state, complete, collecting }))
    }

    /// Says that everybody who needs a build has said so.
    pub(crate) fn complete(&self) {
        self.complete.store(true, Ordering::Release);
    }

    /// Keeps a build, known or not.
    pub(crate) fn hold(self: &Arc<Self>, build: &BuildId) -> Hold {
        *self.state().held.entry(build.clone()).or_default() += 1;
        Hold { references: Arc::clone(self), build: build.clone() }
    }

    /// Keeps every build that was made of a sandbox: its supervisor may just now be telling somebody about one.
    pub(crate) fn hold_all_of(self: &Arc<Self>, owner: &SandboxId) -> Vec<Hold> {
        let ours: Vec<BuildId> = {
            let state = self.state();
            let ours = state.known.iter().filter(|(_, known)| known.owner.as_ref() == Some(owner));
            ours.map(|(build, _)| build.clone()).collect()
        };
        ours.iter().map(|build| self.hold(build)).collect()
    }

    /// Keeps a build that was published since the server started, and gets to know it.
    pub(crate) async fn enter(self: &Arc<Self>, build: &BuildId) -> Hold {
        let hold = self.hold(build);
        let (path, name) = (self.store.clone(), build.clone());
        let read = tokio::task::spawn_blocking(move || {
            LocalStore::open(&path).map(|store| known(&store, name)).map_err(|error| error.to_string())
        });
        match read.await.map_err(|error| error.to_string()).and_then(|read| read) {
            Ok((build, known)) => drop(self.state().known.insert(build, known)),
            // It stays unknown, and so it stays.
            Err(error) => tracing::warn!(%build, error, "a build cannot be looked at"),
        }
        hold
    }

    /// Gets to know the builds of a sandbox that nobody has heard of: its supervisor is gone, and did not come to say so, or
    /// said it to a server that is gone. Whoever else has one made holds it from before it exists.
    pub(crate) async fn find_all_of(&self, owner: &SandboxId) {
        let _turn = self.collecting.lock().await;
        let heard_of: HashSet<BuildId> = self.state().known.keys().cloned().collect();
        let (path, owner) = (self.store.clone(), owner.clone());
        let found = tokio::task::spawn_blocking(move || {
            let store = LocalStore::open(&path)?;
            let unheard = store.list()?.into_iter().filter(|build| !heard_of.contains(build));
            let ours = unheard.map(|build| known(&store, build));
            let ours = ours.filter(|(_, known)| known.owner.as_ref() == Some(&owner));
            Ok::<Vec<_>, ArtifactError>(ours.collect())
        });
        let found = found.await.map_err(|error| error.to_string());
        match found.and_then(|found| found.map_err(|error| error.to_string())) {
            Ok(found) => self.state().known.extend(found),
            // They stay unknown, and so they stay.
            Err(error) => tracing::warn!(error, "the builds of a sandbox that ended cannot be looked for"),
        }
    }

    /// Whether a build is known.
    pub(crate) fn knows(&self, build: &BuildId) -> bool {
        self.state().known.contains_key(build)
    }

    /// The builds that are needed for nothing but a build that is held. None when that cannot be told.
    pub(crate) fn only_for(&self, build: &BuildId) -> BTreeSet<BuildId> {
        let state = self.state();
        let ours = state.needed_by(std::iter::once(build));
        let theirs = state.needed_by(state.held.keys().filter(|held| *held != build));
        match (ours, theirs) {
            (Ok(ours), Ok(theirs)) => ours.difference(&theirs).map(|build| (*build).clone()).collect(),
            _ => BTreeSet::new(),
        }
    }

    /// Why nothing can go on with the memory of a build, as far as that is known.
    pub(crate) fn unusable(&self, build: &BuildId) -> Option<Cause> {
        let state = self.state();
        if state.known.get(build).is_some_and(|known| !known.memory) {
            return Some(Cause::NoMemory);
        }
        state.damaged.get(build).map(|why| Cause::Damaged(why.clone()))
    }

    /// Notes that the memory of a build is damaged.
    pub(crate) fn damaged(&self, build: &BuildId, why: &str) {
        self.state().damaged.insert(build.clone(), why.to_owned());
    }

    /// Deletes every known build that nobody needs. Returns when they are gone.
    pub(crate) async fn collect(&self) {
        if !self.complete.load(Ordering::Acquire) {
            return;
        }
        let _turn = self.collecting.lock().await;
        // Forgotten before they are deleted: from here on nobody can begin to need one by what is known.
        let unneeded = {
            let mut state = self.state();
            let unneeded = state.unneeded();
            for build in &unneeded {
                state.known.remove(build);
                state.damaged.remove(build);
            }
            unneeded
        };
        if unneeded.is_empty() {
            return;
        }
        let path = self.store.clone();
        let deleted = tokio::task::spawn_blocking(move || {
            let store = LocalStore::open(&path).map_err(|error| error.to_string())?;
            for build in &unneeded {
                match store.remove(build) {
                    Ok(()) => tracing::info!(%build, "deleted a build that nobody needs"),
                    Err(error) => {
                        tracing::error!(%build, %error, "deleting a build that nobody needs failed")
                    }
                }
            }
            Ok::<_, String>(())
        });
        if let Err(error) = deleted.await.map_err(|error| error.to_string()).and_then(|deleted| deleted) {
            tracing::error!(error, "deleting builds that nobody needs failed");
        }
    }

    // The numbers are right between any two statements, so those behind a poisoned lock are, too.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// None while it cannot be told what a held one reads from: it might be any of them. Of one that is only read from,
    /// nothing but its pages is needed.
    fn unneeded(&self) -> Vec<BuildId> {
        match self.needed_by(self.held.keys()) {
            Ok(needed) => self.known.keys().filter(|build| !needed.contains(build)).cloned().collect(),
            Err(build) => {
                tracing::error!(%build, "nothing is collected: it cannot be told what this build reads from");
                Vec::new()
            }
        }
    }

    /// Some builds, and those that they read from. The error is one of which that cannot be told.
    fn needed_by<'a>(
        &'a self,
        builds: impl Iterator<Item = &'a BuildId>,
    ) -> Result<HashSet<&'a BuildId>, &'a BuildId> {
        let mut needed = HashSet::new();
        for build in builds {
            needed.insert(build);
            match self.known.get(build).map(|known| &known.reads) {
                Some(Some(reads)) => needed.extend(reads),
                Some(None) => return Err(build),
                None => {}
            }
        }
        Ok(needed)
    }
}

fn known(store: &LocalStore, build: BuildId) -> (BuildId, Known) {
    let lost =
        |error: &ArtifactError| tracing::warn!(%build, %error, "it cannot be told what a build reads from");
    let manifest = artifacts::load_manifest(store, &build).inspect_err(lost).ok();
    let reads =
        manifest.as_ref().and_then(|manifest| artifacts::sources(store, manifest).inspect_err(lost).ok());
    let memory = manifest.as_ref().is_none_or(|manifest| manifest.device_state.is_some());
    let owner = manifest.and_then(|manifest| manifest.owner);
    (build, Known { reads, owner, memory })
}

#[cfg(test)]
mod tests {
    use artifacts::Compaction;

    use super::*;
    use crate::power_cut::builds::Pause;

    const FIRST: Pause = Pause { sandbox: "one", number: 1, needs: &[] };
    const SECOND: Pause = Pause { sandbox: "one", number: 2, needs: &[1] };
    const THIRD: Pause = Pause { sandbox: "one", number: 3, needs: &[1, 2] };
    const OTHER: Pause = Pause { sandbox: "two", number: 1, needs: &[] };

    fn publish(store: &LocalStore, pauses: &[Pause]) {
        for pause in pauses {
            let (staged, manifest) = pause.stage(store);
            staged.publish(&manifest).unwrap();
        }
    }

    fn left(store: &LocalStore) -> Vec<String> {
        store.list().unwrap().iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn a_build_lives_as_long_as_somebody_needs_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = LocalStore::open(directory.path()).unwrap();
        publish(&store, &[FIRST, SECOND, THIRD, OTHER]);
        let references = References::load(directory.path()).await.unwrap();
        let second = references.hold(&SECOND.build());
        let again = references.hold(&SECOND.build());
        let other = references.hold_all_of(&"two".parse().unwrap());
        assert_eq!(other.len(), 1);
        references.collect().await;
        assert_eq!(left(&store).len(), 4, "somebody may need them");
        references.complete();
        references.collect().await;
        assert_eq!(left(&store), ["one1", "one2", "two1"]);
        SECOND.is_whole(&store).unwrap();
        assert!(references.knows(&FIRST.build()) && !references.knows(&THIRD.build()));

        drop((second, other));
        references.collect().await;
        assert_eq!(left(&store), ["one1", "one2"]);
        drop(again);
        references.collect().await;
        assert!(left(&store).is_empty());
    }

    #[tokio::test]
    async fn only_what_is_read_directly_is_needed() {
        let directory = tempfile::tempdir().unwrap();
        let store = LocalStore::open(directory.path()).unwrap();
        publish(&store, &[FIRST, SECOND, THIRD]);
        // The third again, without pages of the first: what the second was made of does not matter to it.
        let (third, again, without) = (THIRD.build(), "again".parse().unwrap(), [FIRST.build()].into());
        let compaction =
            Compaction { store: &store, from: &third, into: &again, without: &without, wanted: &|| true };
        compaction.run().unwrap();
        let references = References::load(directory.path()).await.unwrap();
        references.complete();
        let _again = references.hold(&again);
        references.collect().await;
        assert_eq!(left(&store), ["again", "one2"]);
        THIRD.is_whole_in(&store, &again).unwrap();
    }

    #[tokio::test]
    async fn what_others_need_too_is_not_for_one_alone() {
        let directory = tempfile::tempdir().unwrap();
        let store = LocalStore::open(directory.path()).unwrap();
        publish(&store, &[FIRST, SECOND, THIRD, OTHER]);
        let references = References::load(directory.path()).await.unwrap();
        let only = || -> Vec<String> {
            references.only_for(&THIRD.build()).iter().map(ToString::to_string).collect()
        };
        let third = [references.hold(&THIRD.build()), references.hold(&THIRD.build())];
        assert_eq!(only(), ["one1", "one2", "one3"]);
        let (_other, first) = (references.hold(&OTHER.build()), references.hold(&FIRST.build()));
        assert_eq!(only(), ["one2", "one3"]);
        let second = references.hold(&SECOND.build());
        drop(first);
        assert_eq!(only(), ["one3"]);
        drop((second, third));
        assert_eq!(only(), ["one1", "one2", "one3"]);
    }

    #[tokio::test]
    async fn one_that_nobody_has_heard_of_is_safe_and_so_is_what_an_entered_one_reads() {
        let directory = tempfile::tempdir().unwrap();
        let store = LocalStore::open(directory.path()).unwrap();
        publish(&store, &[FIRST]);
        let references = References::load(directory.path()).await.unwrap();
        references.complete();
        let first = references.hold(&FIRST.build());
        publish(&store, &[SECOND, OTHER]);
        references.collect().await;
        assert_eq!(left(&store), ["one1", "one2", "two1"]);

        let second = references.enter(&SECOND.build()).await;
        drop((first, references.enter(&OTHER.build()).await));
        references.collect().await;
        assert_eq!(left(&store), ["one1", "one2"]);
        assert_eq!(second.build(), &SECOND.build());
    }

    #[tokio::test]
    async fn what_a_dead_supervisor_told_nobody_is_found_and_deleted_unless_somebody_needs_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = LocalStore::open(directory.path()).unwrap();
        let references = References::load(directory.path()).await.unwrap();
        references.complete();
        publish(&store, &[FIRST, SECOND, OTHER]);
        let second = references.hold(&SECOND.build());
        references.find_all_of(&"one".parse().unwrap()).await;
        references.collect().await;
        assert_eq!(left(&store), ["one1", "one2", "two1"]);
        drop(second);
        references.collect().await;
        assert_eq!(left(&store), ["two1"], "nobody said that this one's sandbox ended");
    }

    /// A build of a disk alone.
    fn publish_disk(store: &LocalStore, name: &str) -> BuildId {
        let id: BuildId = name.parse().unwrap();
        let (_, like) = OTHER.stage(store);
        let staged = store.begin(&id).unwrap();
        let pages = like.shape.disk.bytes() / build::PAGE_BYTES;
        let disk = staged.writer(build::ObjectKind::Disk, None, pages).unwrap().finish().unwrap();
        let manifest = build::Manifest { id: id.clone(), memory: None, device_state: None, disk, ..like };
        staged.publish(&manifest).unwrap();
        id
    }

    #[tokio::test]
    async fn what_has_no_memory_to_go_on_with_is_known() {
        let directory = tempfile::tempdir().unwrap();
        let store = LocalStore::open(directory.path()).unwrap();
        publish(&store, &[FIRST]);
        let disk = publish_disk(&store, "disk1");
        let references = References::load(directory.path()).await.unwrap();
        references.complete();
        let hold = references.hold(&FIRST.build());
        assert_eq!(references.unusable(&disk), Some(Cause::NoMemory));
        let later = publish_disk(&store, "disk2");
        assert_eq!(references.unusable(&later), None, "nobody has heard of it");
        drop(references.enter(&later).await);
        assert_eq!(references.unusable(&later), Some(Cause::NoMemory));

        assert_eq!(references.unusable(&FIRST.build()), None);
        references.damaged(&FIRST.build(), "memory.data is damaged");
        let damaged = Some(Cause::Damaged("memory.data is damaged".into()));
        assert_eq!(references.unusable(&FIRST.build()), damaged);
        drop(hold);
        references.collect().await;
        assert_eq!(left(&store), [""; 0]);
        assert_eq!(references.unusable(&FIRST.build()), None, "it is forgotten with the build");
    }

    #[tokio::test]
    async fn nothing_is_collected_while_it_cannot_be_told_what_is_needed() {
        let directory = tempfile::tempdir().unwrap();
        let store = LocalStore::open(directory.path()).unwrap();
        publish(&store, &[FIRST, SECOND, OTHER]);
        let header = directory.path().join("one2/disk.header");
        let good = std::fs::read(&header).unwrap();
        std::fs::remove_file(&header).unwrap();
        std::fs::write(&header, &good[..good.len() - 1]).unwrap();

        let references = References::load(directory.path()).await.unwrap();
        references.complete();
        let second = references.hold(&SECOND.build());
        references.collect().await;
        assert_eq!(left(&store), ["one1", "one2", "two1"]);
        drop(second);
        references.collect().await;
        assert!(left(&store).is_empty(), "of what nobody needs, nobody needs to know it");
    }
}
