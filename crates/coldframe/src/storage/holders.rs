//! Who holds builds.

use std::collections::BTreeSet;
use std::path::Path;

use catalog::Catalog;
use control::Launch;
use model::BuildId;
use serde::Serialize;

use super::builds::{Builds, reach};
use crate::state::StateDir;

/// What somebody needs a build for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Template,
    Snapshot,
    Paused,
    Running,
    /// Nobody: it goes when the server is started the next time.
    Nobody,
}

impl Kind {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Template => "template",
            Self::Snapshot => "snapshot",
            Self::Paused => "paused",
            Self::Running => "running",
            Self::Nobody => "nobody",
        }
    }
}

/// Who needs builds.
#[derive(Debug, Clone)]
pub(super) struct Holder {
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) builds: BTreeSet<BuildId>,
}

pub(super) async fn find(state: &StateDir, builds: &Builds) -> Result<Vec<Holder>, String> {
    let catalog = Catalog::open(&state.catalog()).await.map_err(|error| error.to_string())?;
    let mut holders = Vec::new();
    for named in catalog.build_names().await.map_err(|error| error.to_string())? {
        let kind = if named.snapshot { Kind::Snapshot } else { Kind::Template };
        // What a template is made of lies elsewhere until it was booted.
        if builds.contains_key(&named.build) {
            hold(&mut holders, kind, named.name, [named.build].into());
        }
    }
    for paused in catalog.paused().await.map_err(|error| error.to_string())? {
        hold(&mut holders, Kind::Paused, paused.spec.id.to_string(), [paused.build].into());
    }
    for launch in running(&state.sandboxes()) {
        // What it goes on from, and the snapshots that were made of it since.
        let own = builds.iter().filter(|(_, build)| {
            build.owner.as_ref() == Some(&launch.spec.id) && build.made >= Some(launch.running_since)
        });
        let own = own.map(|(build, _)| build.clone());
        let held = own.chain(launch.start.build().cloned()).collect();
        hold(&mut holders, Kind::Running, launch.spec.id.to_string(), held);
    }
    // Only a machine that became a template was nobody's. The server keeps it, whoever else reads from it.
    for (build, _) in builds.iter().filter(|(_, stored)| stored.owner.is_none()) {
        let named = |holder: &Holder| holder.kind == Kind::Template && holder.builds.contains(build);
        if !holders.iter().any(named) {
            hold(&mut holders, Kind::Template, build.to_string(), [build.clone()].into());
        }
    }
    let held: BTreeSet<BuildId> = holders.iter().flat_map(|holder| holder.builds.clone()).collect();
    let needed = reach(builds, &held);
    for build in builds.keys().filter(|build| !needed.contains(*build)) {
        hold(&mut holders, Kind::Nobody, build.to_string(), [build.clone()].into());
    }
    Ok(holders)
}

fn hold(holders: &mut Vec<Holder>, kind: Kind, name: String, builds: BTreeSet<BuildId>) {
    holders.push(Holder { kind, name, builds });
}

/// The sandboxes that run. One that ends meanwhile may be missing.
fn running(sandboxes: &Path) -> Vec<Launch> {
    let dirs = std::fs::read_dir(sandboxes).into_iter().flatten().flatten();
    dirs.filter_map(|dir| Launch::read(&dir.path()).ok()).collect()
}
