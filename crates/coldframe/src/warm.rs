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
/// How often a snapshot that was damaged is made again before somebody should look at the disk.
const ATTEMPTS: u32 = 8;

/// Has sandboxes of the base template go on from a snapshot of it, which is made when it is missing or its inputs changed.
pub(crate) async fn up(
    node: &Node,
    options: &Up,
    state: &StateDir,
    base: &template::Build,
    accel: vmm::Accel,
) -> Result<(), String> {
    let [booted, warm] = find(options, state, base, accel).await?;
    let template: TemplateId = crate::builds::BASE.parse().map_err(|error| format!("{error}"))?;
    if !warm.made {
        tracing::info!(template = %template, "making a snapshot of the template, once");
        if !booted.made {
            let files = BuildFiles {
                kernel: base.kernel.clone(),
                initrd: base.initrd.clone(),
                rootfs: base.rootfs.clone(),
            };
            make(node, &template, base, Start::Boot(files), &booted.build).await?;
        }
        make(node, &template, base, Start::Resume(booted.build), &warm.build).await?;
    }
    node.use_snapshot(base.id.clone(), warm.build, base.shape).await;
    Ok(())
}

/// A snapshot of a template.
pub(crate) struct Snapshot {
    pub(crate) build: BuildId,
    /// Whether it is in the store, and whole.
    made: bool,
}

/// The two snapshots of a template. What the second one needs of the first, right after it goes on from there, is what
/// every sandbox will need first, and is kept with it.
///
/// A damaged one is made again under another name. It stays as long as somebody reads from what is left of it.
pub(crate) async fn find(
    options: &Up,
    state: &StateDir,
    base: &template::Build,
    accel: vmm::Accel,
) -> Result<[Snapshot; 2], String> {
    let identity = Qemu::new().identity(accel).await.map_err(|error| error.to_string())?;
    let store = LocalStore::open(&state.store()).map_err(|error| error.to_string())?;
    let find = |stage| {
        for attempt in 0..ATTEMPTS {
            let build = name(options, base, &identity, stage, attempt)?;
            if !store.contains(&build).map_err(|error| error.to_string())? {
                return Ok(Snapshot { build, made: false });
            }
            match artifacts::check(&store, &build) {
                Ok(()) => return Ok(Snapshot { build, made: true }),
                Err(error) => tracing::warn!(%error, "the template's snapshot is damaged and made again"),
            }
        }
        let store = state.store();
        Err(format!(
            "{ATTEMPTS} snapshots of the template in {} are damaged: check the disk",
            store.display()
        ))
    };
    Ok([find("booted")?, find("warm")?])
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

/// Everything that makes one snapshot differ from another is in its name.
fn name(
    options: &Up,
    base: &template::Build,
    identity: &Identity,
    stage: &str,
    attempt: u32,
) -> Result<BuildId, String> {
    let dns: Vec<String> = options.dns.servers.iter().map(ToString::to_string).collect();
    let (id, shape, dns) = (&base.id, base.shape, dns.join(","));
    let mut inputs = format!("{RECIPE} {stage} {id} {shape:?} {identity:?} {dns}");
    if attempt > 0 {
        inputs += &format!(" {attempt}");
    }
    let digest = Sha256::digest(inputs.as_bytes());
    let mut text: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    text.truncate(NAME_CHARS);
    text.parse().map_err(|error| format!("{error}"))
}
