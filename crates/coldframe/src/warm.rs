//! Templates as builds: the base template is booted once, and every sandbox goes on from there.

use artifacts::{LocalStore, Store};
use control::{BuildFiles, Start};
use model::{BuildId, TemplateId};
use node::Node;
use sha2::{Digest, Sha256};
use vmm::{Driver, Identity, Qemu};

use crate::cli::Up;
use crate::state::StateDir;

/// Counted up with every change of how snapshots of templates are made.
const RECIPE: u32 = 2;
/// Characters of a build's name that come from its inputs.
const NAME_CHARS: usize = 32;

/// Has sandboxes of the base template go on from a snapshot of it, which is made when it is missing or its inputs changed.
pub(crate) async fn up(
    node: &Node,
    options: &Up,
    state: &StateDir,
    base: &template::Build,
    accel: vmm::Accel,
) -> Result<(), String> {
    let [booted, warm] = names(options, base, accel).await?;
    let store = LocalStore::open(&state.store()).map_err(|error| error.to_string())?;
    let template: TemplateId = crate::builds::BASE.parse().map_err(|error| format!("{error}"))?;
    if !has(&store, &warm)? {
        tracing::info!(template = %template, "making a snapshot of the template, once");
        if !has(&store, &booted)? {
            let files = BuildFiles {
                kernel: base.kernel.clone(),
                initrd: base.initrd.clone(),
                rootfs: base.rootfs.clone(),
            };
            make(node, &template, base, Start::Boot(files), &booted).await?;
        }
        make(node, &template, base, Start::Resume(booted), &warm).await?;
    }
    node.use_snapshot(base.id.clone(), warm, base.shape).await;
    Ok(())
}

/// The two snapshots of a template. What the second one needs of the first, right after it goes on from there, is what
/// every sandbox will need first, and is kept with it.
pub(crate) async fn names(
    options: &Up,
    base: &template::Build,
    accel: vmm::Accel,
) -> Result<[BuildId; 2], String> {
    let identity = Qemu::new().identity(accel).await.map_err(|error| error.to_string())?;
    Ok([name(options, base, &identity, "booted")?, name(options, base, &identity, "warm")?])
}

async fn make(
    node: &Node,
    template: &TemplateId,
    base: &template::Build,
    start: Start,
    name: &BuildId,
) -> Result<(), String> {
    node.make_snapshot(template, base.shape, start, name)
        .await
        .map_err(|error| format!("making a snapshot of the base template: {error}"))
}

/// Whether the store has a build that can be read. A damaged one is made again.
fn has(store: &LocalStore, name: &BuildId) -> Result<bool, String> {
    if !store.contains(name).map_err(|error| error.to_string())? {
        return Ok(false);
    }
    let Err(error) = artifacts::load_manifest(store, name) else { return Ok(true) };
    tracing::warn!(%error, "the template's snapshot is damaged and made again");
    store.remove(name).map_err(|error| format!("removing a damaged snapshot: {error}"))?;
    Ok(false)
}

/// Everything that makes one snapshot differ from another is in its name.
fn name(options: &Up, base: &template::Build, identity: &Identity, stage: &str) -> Result<BuildId, String> {
    let dns: Vec<String> = options.dns.iter().map(ToString::to_string).collect();
    let inputs = format!("{RECIPE} {stage} {} {:?} {identity:?} {}", base.id, base.shape, dns.join(","));
    let digest = Sha256::digest(inputs.as_bytes());
    let mut text: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    text.truncate(NAME_CHARS);
    text.parse().map_err(|error| format!("{error}"))
}
