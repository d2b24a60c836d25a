//! The build that a machine goes on from.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use artifacts::{Image, LocalStore, Store};
use build::{Manifest, ObjectKind, ObjectName};
use model::{BuildId, SandboxId, Shape};

/// An opened build. Of its images only the headers were read.
pub(crate) struct Origin {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) manifest: Manifest,
    pub(crate) memory: Arc<Image>,
    pub(crate) disk: Arc<Image>,
    pub(crate) device_state: Vec<u8>,
}

impl Origin {
    /// The builds it reads from that were made for this sandbox alone.
    pub(crate) fn owned_by(&self, id: &SandboxId) -> BTreeSet<BuildId> {
        let images = [&self.memory, &self.disk];
        let sources =
            images.into_iter().flat_map(|image| image.header().sources()).map(|source| &source.build);
        let owned = |build: &&BuildId| {
            let manifest = artifacts::load_manifest(&*self.store, build);
            manifest.is_ok_and(|manifest| manifest.owner.as_ref() == Some(id))
        };
        sources.collect::<BTreeSet<_>>().into_iter().filter(owned).cloned().collect()
    }

    /// What the machine is likely to touch first, in that order.
    pub(crate) fn working_set(&self) -> Vec<Range<u64>> {
        self.manifest.working_set.iter().map(|&(first, pages)| first..first.saturating_add(pages)).collect()
    }
}

/// Opens a build that holds a whole machine of this shape.
pub(crate) fn open(store: &Path, id: &BuildId, shape: Shape) -> Result<Origin, String> {
    let open = || {
        let store: Arc<dyn Store> = Arc::new(LocalStore::open(store)?);
        let manifest = artifacts::load_manifest(&*store, id)?;
        let disk = Image::open(&*store, id, ObjectKind::Disk)?;
        let Some(info) = &manifest.device_state else { return Ok(None) };
        let memory = Image::open(&*store, id, ObjectKind::Memory)?;
        let device_state = artifacts::load_blob(&*store, id, ObjectName::DeviceState, info)?;
        Ok::<_, artifacts::ArtifactError>(Some(Origin {
            store,
            manifest,
            memory: Arc::new(memory),
            disk: Arc::new(disk),
            device_state,
        }))
    };
    let origin = open().map_err(|error| error.to_string())?;
    let origin = origin.ok_or_else(|| format!("build {id} has a disk and no memory to go on with"))?;
    if origin.manifest.shape != shape {
        return Err(format!("build {id} is of another machine: {:?}, not {shape:?}", origin.manifest.shape));
    }
    Ok(origin)
}

/// Whether a machine of this VMM can take over the device state of the build. Another VMM may misunderstand it without a
/// word.
pub(crate) fn check(manifest: &Manifest, identity: &vmm::Identity) -> Result<(), String> {
    let here = identity_of(identity);
    if manifest.vmm == here {
        return Ok(());
    }
    Err(format!(
        "build {} was written by another kind of machine and cannot go on here: {:?}, and this host has {here:?}",
        manifest.id, manifest.vmm
    ))
}

/// The identity as builds keep it.
pub(crate) fn identity_of(identity: &vmm::Identity) -> build::VmmIdentity {
    build::VmmIdentity {
        name: identity.name.clone(),
        version: identity.version.clone(),
        accel: match identity.accel {
            vmm::Accel::Kvm => "kvm".into(),
            vmm::Accel::Tcg => "tcg".into(),
        },
        cpu: identity.cpu.clone(),
        machine: identity.machine.clone(),
    }
}
