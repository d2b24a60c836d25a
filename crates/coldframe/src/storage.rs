//! `coldframe storage`: what of the store is held by what, and how much a delete would free.
//!
//! Builds share what they did not change, so what somebody reads is rarely what goes when he goes. Each holder is shown
//! with both.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;

use artifacts::{LocalStore, Store};
use catalog::Catalog;
use control::Launch;
use model::{BuildId, SandboxId};
use serde::Serialize;

use crate::Outcome;
use crate::state::StateDir;

/// What somebody needs a build for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Template,
    Snapshot,
    Paused,
    Running,
    /// Nobody: it goes when the server is started the next time.
    Nobody,
}

impl Kind {
    const fn as_str(self) -> &'static str {
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
struct Holder {
    kind: Kind,
    name: String,
    builds: BTreeSet<BuildId>,
}

/// A build in the store.
#[derive(Debug, Default)]
struct Stored {
    /// What it takes on the disk.
    bytes: u64,
    /// The builds that its images read from.
    reads: BTreeSet<BuildId>,
    owner: Option<SandboxId>,
}

type Builds = BTreeMap<BuildId, Stored>;

/// One line of the answer; sizes in bytes.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Line {
    kind: Kind,
    name: String,
    /// How many builds it reads from.
    builds: usize,
    /// What these take together.
    reads: u64,
    /// What of it would be gone if this holder were.
    frees: u64,
}

pub(crate) fn run(dir: &Path, json: bool) -> Outcome {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let state = StateDir::open(dir)?;
    let builds = builds(&state.store())?;
    let holders = runtime.block_on(holders(&state, &builds))?;
    let total: u64 = builds.values().map(|build| build.bytes).sum();
    let lines = account(&builds, &holders);
    if json {
        let answer = serde_json::json!({ "total": total, "holders": lines });
        println!("{}", serde_json::to_string_pretty(&answer).map_err(|error| error.to_string())?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("{:<9} {:<40} {:>6} {:>10} {:>10}", "KIND", "NAME", "BUILDS", "READS", "FREES");
    for Line { kind, name, builds, reads, frees } in &lines {
        println!("{:<9} {name:<40} {builds:>6} {:>10} {:>10}", kind.as_str(), size(*reads), size(*frees));
    }
    println!("{} in {} builds", size(total), builds.len());
    Ok(ExitCode::SUCCESS)
}

/// Looks at every build of the store. One that is deleted meanwhile is left out.
fn builds(store: &Path) -> Result<Builds, String> {
    let path = store;
    let store = LocalStore::open(path).map_err(|error| error.to_string())?;
    let mut found = Builds::new();
    for build in store.list().map_err(|error| error.to_string())? {
        let Ok(files) = std::fs::read_dir(path.join(build.as_str())) else { continue };
        let bytes = files.flatten().filter_map(|file| file.metadata().ok()).map(|meta| meta.len()).sum();
        let manifest = artifacts::load_manifest(&store, &build);
        let owner = manifest.as_ref().ok().and_then(|manifest| manifest.owner.clone());
        let reads =
            manifest.and_then(|manifest| artifacts::sources(&store, &manifest)).unwrap_or_else(|error| {
                eprintln!("coldframe: build {build} counts as reading from nothing: {error}");
                BTreeSet::new()
            });
        found.insert(build, Stored { bytes, reads, owner });
    }
    Ok(found)
}

async fn holders(state: &StateDir, builds: &Builds) -> Result<Vec<Holder>, String> {
    let catalog = Catalog::open(&state.catalog()).await.map_err(|error| error.to_string())?;
    let mut holders = Vec::new();
    let mut hold = |kind, name: String, held: BTreeSet<BuildId>| {
        holders.push(Holder { kind, name, builds: held });
    };
    for named in catalog.build_names().await.map_err(|error| error.to_string())? {
        let kind = if named.snapshot { Kind::Snapshot } else { Kind::Template };
        // What a template is made of lies elsewhere until it was booted.
        if builds.contains_key(&named.build) {
            hold(kind, named.name, [named.build].into());
        }
    }
    for paused in catalog.paused().await.map_err(|error| error.to_string())? {
        hold(Kind::Paused, paused.spec.id.to_string(), [paused.build].into());
    }
    for launch in running(&state.sandboxes()) {
        let own = builds.iter().filter(|(_, build)| build.owner.as_ref() == Some(&launch.spec.id));
        let own = own.map(|(build, _)| build.clone());
        hold(Kind::Running, launch.spec.id.to_string(), own.chain(launch.start.build().cloned()).collect());
    }
    let named: BTreeSet<BuildId> = holders.iter().flat_map(|holder| holder.builds.clone()).collect();
    let needed = reach(builds, &named);
    for (build, stored) in builds.iter().filter(|(build, _)| !needed.contains(*build)) {
        // Only a machine that became a template was nobody's.
        let kind = if stored.owner.is_none() { Kind::Template } else { Kind::Nobody };
        holders.push(Holder { kind, name: build.to_string(), builds: [build.clone()].into() });
    }
    Ok(holders)
}

/// The sandboxes that run. One that ends meanwhile may be missing.
fn running(sandboxes: &Path) -> Vec<Launch> {
    let dirs = std::fs::read_dir(sandboxes).into_iter().flatten().flatten();
    dirs.filter_map(|dir| Launch::read(&dir.path()).ok()).collect()
}

/// The builds that are needed for some to be read.
fn reach(builds: &Builds, from: &BTreeSet<BuildId>) -> BTreeSet<BuildId> {
    let mut needed = BTreeSet::new();
    let mut found: Vec<&BuildId> = from.iter().collect();
    while let Some(build) = found.pop() {
        if let Some(stored) = builds.get(build)
            && needed.insert(build.clone())
        {
            found.extend(&stored.reads);
        }
    }
    needed
}

fn account(builds: &Builds, holders: &[Holder]) -> Vec<Line> {
    let reached: Vec<_> = holders.iter().map(|holder| reach(builds, &holder.builds)).collect();
    let mut readers: BTreeMap<&BuildId, usize> = BTreeMap::new();
    for build in reached.iter().flatten() {
        *readers.entry(build).or_default() += 1;
    }
    let bytes = |build: &BuildId| builds.get(build).map_or(0, |stored| stored.bytes);
    let line = |(holder, reached): (&Holder, &BTreeSet<BuildId>)| Line {
        kind: holder.kind,
        name: holder.name.clone(),
        builds: reached.len(),
        reads: reached.iter().map(bytes).sum(),
        frees: reached.iter().filter(|build| readers.get(build) == Some(&1)).map(bytes).sum(),
    };
    holders.iter().zip(&reached).map(line).collect()
}

/// A number of bytes for people.
fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> BuildId {
        name.parse().unwrap()
    }

    fn stored(bytes: u64, reads: &[&str]) -> Stored {
        Stored { bytes, reads: reads.iter().map(|name| id(name)).collect(), owner: None }
    }

    #[test]
    fn what_others_read_too_is_not_freed() {
        let builds = Builds::from([
            (id("base"), stored(1000, &["base"])),
            (id("one"), stored(10, &["base", "one"])),
            (id("two"), stored(200, &["base", "two"])),
            (id("three"), stored(3, &["two", "three", "lost"])),
        ]);
        let holder = |name: &str, held: &[&str]| Holder {
            kind: Kind::Paused,
            name: name.into(),
            builds: held.iter().map(|name| id(name)).collect(),
        };
        let holders = [holder("a", &["one"]), holder("b", &["three"]), holder("c", &["one", "gone"])];
        let lines: Vec<_> = account(&builds, &holders)
            .into_iter()
            .map(|line| (line.name, line.builds, line.reads, line.frees))
            .collect();
        let line = |name: &str, builds, reads, frees| (name.to_owned(), builds, reads, frees);
        assert_eq!(lines, [line("a", 2, 1010, 0), line("b", 3, 1203, 203), line("c", 2, 1010, 0)]);
        let alone = account(&builds, &holders[..1]);
        assert_eq!(alone[0].frees, 1010);
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (3 << 40, "3072.0 GiB")]
        {
            assert_eq!(size(bytes), text);
        }
    }
}
