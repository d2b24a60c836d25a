//! A server that starts on what a power cut left.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use artifacts::{LocalStore, Store};
use async_trait::async_trait;
use catalog::{Catalog, CatalogError};
use model::{BuildId, PausedSandbox, SandboxId};
use tokio::runtime::Runtime;

use super::builds::Pause;
use super::disk::Found;
use super::story::{PAUSES, State};
use super::{Promises, memory, runtime};
use crate::paused::Records;

/// The records of the catalog after a power cut.
#[derive(Default)]
struct Kept(Mutex<BTreeMap<SandboxId, PausedSandbox>>);

#[async_trait]
impl Records for Kept {
    async fn all(&self) -> Result<Vec<PausedSandbox>, String> {
        Ok(self.0.lock().unwrap().values().cloned().collect())
    }

    async fn put(&self, paused: &PausedSandbox) -> Result<(), String> {
        self.0.lock().unwrap().insert(paused.spec.id.clone(), paused.clone());
        Ok(())
    }

    async fn remove(&self, id: &SandboxId) -> Result<(), String> {
        self.0.lock().unwrap().remove(id);
        Ok(())
    }
}

/// What the catalog says.
#[derive(Clone)]
struct Rows {
    paused: Vec<PausedSandbox>,
    /// The builds of snapshots.
    named: Vec<BuildId>,
}

/// Starts servers on what power cuts left.
pub(super) struct Restarts {
    runtime: Runtime,
    /// What the catalog says, by the hash of its files: most power cuts leave one that was seen before.
    catalogs: HashMap<u64, Rows>,
    seen: HashSet<(u64, String)>,
}

impl Restarts {
    pub(super) fn new() -> Self {
        Self { runtime: runtime(), catalogs: HashMap::new(), seen: HashSet::new() }
    }

    /// Checks that what was found is what was promised.
    pub(super) fn check(&mut self, found: &Found, promises: &Promises) -> Result<(), String> {
        if !self.seen.insert((hash(found.iter()), format!("{promises:?}"))) {
            return Ok(());
        }
        let place = tempfile::tempdir_in(memory()).unwrap();
        for (path, content) in found {
            let path = place.path().join(path);
            match content {
                None => fs::create_dir_all(path).unwrap(),
                Some(bytes) => {
                    fs::create_dir_all(path.parent().unwrap()).unwrap();
                    fs::write(path, bytes).unwrap();
                }
            }
        }
        let state = State(place.path().join("state"));
        fs::create_dir_all(&state.0).unwrap();
        let Rows { paused, named } = self.catalog(&state, found)?;
        let kept = Kept::default();
        *kept.0.lock().unwrap() = paused.into_iter().map(|row| (row.spec.id.clone(), row)).collect();
        let kept = Arc::new(kept);
        let start = state.start(Arc::clone(&kept) as Arc<dyn Records>, &named);
        let (paused, _kept) = self.runtime.block_on(start);

        let records = kept.0.lock().unwrap().clone();
        // From here on the server deletes what nobody needs.
        self.runtime.block_on(paused.references().collect());
        let store = LocalStore::open(&state.store()).unwrap();
        for (sandbox, promise) in promises {
            let id: SandboxId = sandbox.parse().unwrap();
            let recorded = records.get(&id).map(|record| &record.build);
            let now = paused.get(&id);
            assert_eq!(now.as_ref().map(|now| &now.build), recorded, "the server says what the catalog says");
            // Its build may have been made again under another name.
            let number = records.get(&id).map(|record| &record.spec.metadata["pause"]);
            let is = |pause: &&Pause| {
                let named = named.contains(&pause.build());
                pause.sandbox == sandbox && (named || Some(&pause.number.to_string()) == number)
            };
            let pause = PAUSES.iter().find(is);
            let number = pause.map_or(0, |pause| pause.number);
            if number != promise.told && !promise.under_way.contains(&number) {
                return Err(format!("{sandbox} is at pause {number}"));
            }
            let Some(pause) = pause else { continue };
            let text = |record: &PausedSandbox| serde_json::to_string(record).unwrap();
            if let Some(record) = records.get(&id)
                && text(record) != text(&PausedSandbox { build: record.build.clone(), ..pause.record() })
            {
                return Err(format!("the record of {sandbox} is {}", text(record)));
            }
            let build = recorded.cloned().unwrap_or_else(|| pause.build());
            let whole = pause.is_whole_in(&store, &build);
            whole.map_err(|error| format!("{sandbox} at pause {number}: {error}"))?;
        }
        let mut needed = BTreeSet::new();
        for build in records.values().map(|record| &record.build).chain(&named) {
            let read = artifacts::load_manifest(&store, build)
                .and_then(|manifest| artifacts::sources(&store, &manifest))
                .map_err(|error| error.to_string())?;
            needed.extend(read);
            needed.insert(build.clone());
        }
        let left: BTreeSet<BuildId> = store.list().unwrap().into_iter().collect();
        if left != needed {
            return Err(format!("{left:?} are left, and {needed:?} are needed"));
        }
        let unknown = records.keys().find(|id| !promises.contains_key(id.as_str()));
        unknown.map_or(Ok(()), |id| Err(format!("{id} was never paused")))
    }

    fn catalog(&mut self, state: &State, found: &Found) -> Result<Rows, String> {
        let is_catalog = |path: &Path| path.to_str().unwrap().contains("catalog.db");
        let hash = hash(found.iter().filter(|(path, _)| is_catalog(path)));
        if let Some(rows) = self.catalogs.get(&hash) {
            return Ok(rows.clone());
        }
        let rows = self.runtime.block_on(async {
            let catalog = Catalog::open(&state.catalog()).await.map_err(|error| error.to_string())?;
            let rows =
                async { Ok(Rows { paused: catalog.paused().await?, named: catalog.named_builds().await? }) };
            let rows = rows.await.map_err(|error: CatalogError| error.to_string());
            catalog.close().await;
            rows
        })?;
        self.catalogs.insert(hash, rows.clone());
        Ok(rows)
    }
}

/// What tells one find from another.
fn hash<'a>(found: impl Iterator<Item = (&'a PathBuf, &'a Option<Arc<[u8]>>)>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (path, content) in found {
        let content = content.as_ref().map(|bytes| (bytes.len(), build::checksum(bytes)));
        (path, content).hash(&mut hasher);
    }
    hasher.finish()
}
