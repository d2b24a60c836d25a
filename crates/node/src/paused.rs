//! The sandboxes that are paused.
//!
//! A paused sandbox is a record in the catalog and a build in the store. It stays a record while the sandbox runs again:
//! a sandbox whose supervisor, VMM or host dies is then back at the snapshot it was resumed from, and only a kill, or an
//! end that was meant, deletes it.
//!
//! One sandbox makes one transition at a time: whoever resumes, deletes or replaces a record holds its
//! [`Transition`].

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use artifacts::LocalStore;
use async_trait::async_trait;
use model::{BuildId, EndReason, PausedSandbox, SandboxId};

use crate::references::{Hold, References};

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

/// How the names of directories end whose record is damaged; no sandbox is called so.
const DAMAGED: &str = "damaged";

/// The right to change what a sandbox is; given back when dropped.
pub(crate) type Transition = tokio::sync::OwnedMutexGuard<()>;

/// A record, and what keeps its build.
struct Kept {
    paused: Arc<PausedSandbox>,
    _build: Hold,
}

/// All records of this node.
pub(crate) struct Paused {
    records: Arc<dyn Records>,
    store: PathBuf,
    /// Where the directories of sandboxes are, in which their supervisors record pauses.
    sandboxes: PathBuf,
    map: RwLock<HashMap<SandboxId, Kept>>,
    references: Arc<References>,
    /// What keeps the builds of sandboxes whose record is damaged.
    unread: Mutex<Vec<Hold>>,
    transitions: Mutex<HashMap<SandboxId, Weak<tokio::sync::Mutex<()>>>>,
}

impl Paused {
    /// Reads every record.
    pub(crate) async fn load(
        records: Arc<dyn Records>,
        store: &Path,
        sandboxes: &Path,
    ) -> Result<Self, String> {
        let references = References::load(store).await?;
        let keep = |paused: PausedSandbox| {
            let build = references.hold(&paused.build);
            (paused.spec.id.clone(), Kept { paused: Arc::new(paused), _build: build })
        };
        let map = RwLock::new(records.all().await?.into_iter().map(keep).collect());
        let (store, sandboxes) = (store.to_owned(), sandboxes.to_owned());
        let (unread, transitions) = (Mutex::default(), Mutex::default());
        Ok(Self { records, store, sandboxes, map, references, unread, transitions })
    }

    pub(crate) fn get(&self, id: &SandboxId) -> Option<Arc<PausedSandbox>> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).get(id).map(|kept| Arc::clone(&kept.paused))
    }

    /// Where the builds are.
    pub(crate) fn store(&self) -> &Path {
        &self.store
    }

    /// What keeps builds.
    pub(crate) fn references(&self) -> &Arc<References> {
        &self.references
    }

    pub(crate) fn all(&self) -> Vec<Arc<PausedSandbox>> {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        map.values().map(|kept| Arc::clone(&kept.paused)).collect()
    }

    /// Puts the directory of a sandbox aside whose record is not what was written. A record appears whole or not at all, so
    /// this is a damaged disk. The directory's name belongs to what the sandbox was before, and its builds stay for whoever
    /// can tell what they are of.
    pub(crate) async fn put_aside(&self, dir: &Path, error: &std::io::Error) -> Result<(), String> {
        let aside = aside(dir);
        tracing::error!(
            dir = %aside.display(),
            %error,
            "the record of a paused sandbox cannot be read; repair the record, or remove the directory, and start the \
             server again"
        );
        std::fs::rename(dir, &aside).map_err(|error| format!("{}: {error}", dir.display()))?;
        let Some(id) = dir.file_stem().and_then(|name| name.to_str()).and_then(|name| name.parse().ok())
        else {
            return Ok(());
        };
        // Nobody may have told us of the last one.
        self.references.find_all_of(&id).await;
        let builds = self.references.hold_all_of(&id);
        self.unread.lock().unwrap_or_else(PoisonError::into_inner).extend(builds);
        Ok(())
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
        let build = self.references.enter(&paused.build).await;
        let paused = Arc::new(paused);
        let kept = Kept { paused: Arc::clone(&paused), _build: build };
        let before =
            self.map.write().unwrap_or_else(PoisonError::into_inner).insert(paused.spec.id.clone(), kept);
        self.records.put(&paused).await?;
        drop(before);
        self.references.collect().await;
        Ok(())
    }

    /// What an end means for the record of a sandbox whose directory is `dir`: a pause replaces it, an end that was meant
    /// deletes it, and after any other the sandbox is back at the snapshot it was resumed from.
    pub(crate) async fn settle(&self, id: &SandboxId, dir: &Path, why: &EndReason) -> Result<(), String> {
        match why {
            EndReason::Killed | EndReason::TimedOut | EndReason::GuestExited => {
                // A kill that came too late to stop the pause.
                control::remove_paused(dir).map_err(|error| error.to_string())?;
                self.forget(id).await.map(drop)
            }
            EndReason::Paused(_)
            | EndReason::StartFailed(_)
            | EndReason::VmmDied(_)
            | EndReason::MemoryUnusable(_)
            | EndReason::SupervisorDied => match control::read_paused(dir) {
                Ok(Some(record)) => self.record(record).await,
                Ok(None) => Ok(()),
                Err(error) => self.put_aside(dir, &error).await,
            },
        }
    }

    /// Has a record name another build of the same content in place of `from`. Whether it does: not when the record is
    /// another one by now. The new one is durable when this returns; the builds that only the old one needed can be
    /// collected then. Nothing of the sandbox runs, and its caller holds the transition.
    pub(crate) async fn exchange(
        &self,
        _: &Transition,
        id: &SandboxId,
        from: &BuildId,
        into: Hold,
    ) -> Result<bool, String> {
        let Some(now) = self.get(id).filter(|now| now.build == *from) else { return Ok(false) };
        // The directory of the sandbox may hold the record of the pause, which names the old build and is believed at the
        // next start. It has to be gone, and for good.
        if self.sandboxes.join(id.as_str()).try_exists().map_err(|error| error.to_string())? {
            return Ok(false);
        }
        self.keep_removals().await.map_err(|error| format!("removing its record for good: {error}"))?;
        let paused = Arc::new(PausedSandbox { build: into.build().clone(), ..PausedSandbox::clone(&now) });
        if let Err(error) = self.records.put(&paused).await {
            // What the catalog says now cannot be told: both builds are kept, until a server asks it the next time.
            std::mem::forget(into);
            return Err(format!("writing its record: {error}"));
        }
        let kept = Kept { paused, _build: into };
        let before = self.map.write().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), kept);
        drop(before);
        Ok(true)
    }

    /// Deletes a sandbox's record and its builds. Whether there was one.
    pub(crate) async fn forget(&self, id: &SandboxId) -> Result<bool, String> {
        // The record first: one without builds would be a promise that nobody can keep.
        if self.get(id).is_none() {
            return Ok(false);
        }
        self.keep_removals().await.map_err(|error| format!("removing its record for good: {error}"))?;
        self.records.remove(id).await?;
        let before = self.map.write().unwrap_or_else(PoisonError::into_inner).remove(id);
        drop(before);
        self.references.collect().await;
        Ok(true)
    }

    /// Makes sure that no power cut brings back a directory that a sandbox had before, and with it the record of a pause.
    async fn keep_removals(&self) -> io::Result<()> {
        let sandboxes = self.sandboxes.clone();
        tokio::task::spawn_blocking(move || File::open(sandboxes)?.sync_all())
            .await
            .map_err(io::Error::other)?
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
}

/// Where the directory of a sandbox is put aside: beside those of the same sandbox that were before.
fn aside(dir: &Path) -> PathBuf {
    if dir.extension().is_some() {
        // It was, by a server before this one.
        return dir.to_owned();
    }
    let mut path = dir.with_extension(DAMAGED);
    let mut number = 1;
    while path.exists() {
        number += 1;
        path = dir.with_extension(format!("{DAMAGED}{number}"));
    }
    path
}
