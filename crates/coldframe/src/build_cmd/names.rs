//! Which build is meant.

use artifacts::{LocalStore, Store, load_manifest};
use build::Manifest;
use catalog::{Catalog, NewSnapshot, Team, TemplateName};
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

/// A name that a build is to have, in the catalog of a state directory: the servers of it start sandboxes from the build by
/// that name, and keep it.
pub(super) struct NewName {
    catalog: Catalog,
    team: Team,
    name: Option<TemplateName>,
}

impl NewName {
    /// Finds out whether it may have it; without a name it is called by a number.
    pub(super) async fn new(state: &StateDir, name: Option<&str>) -> Result<Self, String> {
        let parse = |name| TemplateName::parse(name).map_err(|error| format!("--name {name}: {error}"));
        let name = name.map(parse).transpose()?;
        let catalog = Catalog::open(&state.catalog()).await.map_err(|error| error.to_string())?;
        let team = crate::server::DEFAULT_TEAM;
        let team = catalog.ensure_team(team, team).await.map_err(|error| error.to_string())?;
        if let Some(name) = &name {
            catalog.check_snapshot_name(&team.id, name).await.map_err(|error| error.to_string())?;
        }
        Ok(Self { catalog, team, name })
    }

    /// Gives it to a build. What it is called then; one that is called something already keeps that.
    pub(super) async fn give(self, manifest: &Manifest) -> Result<String, String> {
        let Manifest { id, shape, envd_version, owner, .. } = manifest;
        let named = self.catalog.build_names().await.map_err(|error| error.to_string())?;
        if let Some(named) = named.into_iter().find(|named| named.build == *id) {
            return match self.name {
                None => Ok(named.name),
                Some(name) if named.name == full(&self.team, &name) => Ok(named.name),
                Some(_) => Err(format!("build {id} is called {} there already", named.name)),
            };
        }
        let build = catalog::Build { id: id.clone(), shape: *shape, envd_version: envd_version.clone() };
        // A template was never a sandbox.
        let source = owner.clone().unwrap_or_else(SandboxId::random);
        let snapshot = NewSnapshot { team: self.team.id, name: self.name, source, build };
        let (snapshot, _) = self
            .catalog
            .put_snapshot(&snapshot)
            .await
            .map_err(|error| format!("build {id} was made, and no server knows it: {error}"))?;
        Ok(snapshot.id())
    }
}

/// A name as the catalog shows it.
fn full(team: &Team, name: &TemplateName) -> String {
    format!("{}/{}:{}", team.slug, name.name.to_lowercase(), name.tag_or_default())
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
