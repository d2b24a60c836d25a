//! Which build is meant.

use artifacts::{LocalStore, Store, load_manifest};
use catalog::Catalog;
use model::{BuildId, SandboxId};

use crate::builds::BASE;
use crate::state::StateDir;

/// The build of this name: its own, that of a paused sandbox or of a snapshot, or `base` for what sandboxes of the base
/// template go on from.
pub(super) fn find(state: &StateDir, store: &LocalStore, name: &str) -> Result<BuildId, String> {
    let failed = |error: &dyn std::fmt::Display| format!("looking for build {name}: {error}");
    if let Ok(build) = name.parse::<BuildId>()
        && store.contains(&build).map_err(|error| failed(&error))?
    {
        return Ok(build);
    }
    // A pause is acknowledged when its record is beside the sandbox, and the catalog has it soon after.
    if let Ok(id) = name.parse::<SandboxId>()
        && let Some(paused) =
            control::read_paused(&state.sandboxes().join(id.as_str())).map_err(|error| failed(&error))?
    {
        return Ok(paused.build);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let known = runtime.map_err(|error| failed(&error))?.block_on(known(state, name));
    if let Some(build) = known.map_err(|error| failed(&error))? {
        return Ok(build);
    }
    if name == BASE {
        return base(store).map_err(|error| failed(&error))?.ok_or_else(|| {
            "there is no snapshot of the base template yet: `coldframe up` makes it".to_owned()
        });
    }
    Err(format!(
        "there is no build, paused sandbox or snapshot {name} in {}: `coldframe storage` shows what there is",
        state.root().display()
    ))
}

/// What the catalog calls so.
async fn known(state: &StateDir, name: &str) -> Result<Option<BuildId>, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let catalog = Catalog::open(&state.catalog()).await.map_err(|error| text(&error))?;
    let paused = catalog.paused().await.map_err(|error| text(&error))?;
    if let Some(paused) = paused.into_iter().find(|paused| paused.spec.id.as_str() == name) {
        return Ok(Some(paused.build));
    }
    let named = catalog.build_names().await.map_err(|error| text(&error))?;
    Ok(named.into_iter().find(|named| named.snapshot && named.name == name).map(|named| named.build))
}

/// The newest build that is nobody's: only a machine that became a template was.
fn base(store: &LocalStore) -> Result<Option<BuildId>, artifacts::ArtifactError> {
    // One that is damaged or deleted meanwhile is none.
    let manifests = store.list()?.into_iter().filter_map(|build| load_manifest(store, &build).ok());
    let templates = manifests.filter(|manifest| manifest.owner.is_none() && manifest.memory.is_some());
    Ok(templates.max_by_key(|manifest| manifest.created_at).map(|manifest| manifest.id))
}
