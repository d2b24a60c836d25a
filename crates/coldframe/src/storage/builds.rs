//! The builds of a store.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use artifacts::{LocalStore, Store};
use jiff::Timestamp;
use model::{BuildId, SandboxId};

/// A build in the store.
#[derive(Debug, Default)]
pub(super) struct Stored {
    /// What all of it takes on the disk.
    pub(super) bytes: u64,
    /// What its data objects take of that.
    pub(super) data: u64,
    /// The builds that its images read from.
    pub(super) reads: BTreeSet<BuildId>,
    pub(super) owner: Option<SandboxId>,
    pub(super) made: Option<Timestamp>,
}

pub(super) type Builds = BTreeMap<BuildId, Stored>;

/// Looks at every build of the store. One that is deleted meanwhile is left out.
pub(super) fn look(store: &Path) -> Result<Builds, String> {
    let path = store;
    let store = LocalStore::open(path).map_err(|error| error.to_string())?;
    let mut found = Builds::new();
    for build in store.list().map_err(|error| error.to_string())? {
        let Ok(files) = std::fs::read_dir(path.join(build.as_str())) else { continue };
        let (mut bytes, mut data) = (0, 0);
        for file in files.flatten() {
            let length = file.metadata().map_or(0, |meta| meta.len());
            bytes += length;
            if file.path().extension().is_some_and(|extension| extension == "data") {
                data += length;
            }
        }
        let manifest = artifacts::load_manifest(&store, &build);
        let made = manifest.as_ref().ok().map(|manifest| manifest.created_at);
        let owner = manifest.as_ref().ok().and_then(|manifest| manifest.owner.clone());
        let reads =
            manifest.and_then(|manifest| artifacts::sources(&store, &manifest)).unwrap_or_else(|error| {
                eprintln!("coldframe: build {build} counts as reading from nothing: {error}");
                BTreeSet::new()
            });
        found.insert(build, Stored { bytes, data, reads, owner, made });
    }
    Ok(found)
}

/// The builds that are needed for some to be read: a header names all, so those that their sources were made of are not.
pub(super) fn reach(builds: &Builds, from: &BTreeSet<BuildId>) -> BTreeSet<BuildId> {
    let sources = from.iter().filter_map(|build| builds.get(build)).flat_map(|stored| &stored.reads);
    from.iter().chain(sources).filter(|build| builds.contains_key(*build)).cloned().collect()
}
