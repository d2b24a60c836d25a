//! The build that a machine goes on from.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use artifacts::{ArtifactError, Image, LocalStore};
use build::{Manifest, ObjectKind, ObjectName};
use model::{BuildId, Shape};

use crate::machine::Parent;

/// An opened build. Of its images only the headers were read.
pub(crate) struct Origin {
    pub(crate) manifest: Manifest,
    pub(crate) disk: Arc<Image>,
    /// `None` where the machine boots from the disk: nothing else of the build gets into it, or into what it becomes.
    pub(crate) saved: Option<Saved>,
}

/// What a machine needs beside its disk to go on where it was.
pub(crate) struct Saved {
    pub(crate) memory: Arc<Image>,
    pub(crate) device_state: Vec<u8>,
}

/// Why a machine cannot be made of a build.
#[derive(Debug)]
pub(crate) enum Unusable {
    /// Its memory, or what belongs to it, is lost. Its disk is not.
    Memory(String),
    /// Anything else.
    Other(String),
}

impl From<String> for Unusable {
    fn from(why: String) -> Self {
        Self::Other(why)
    }
}

impl Origin {
    /// As what another build is a difference from.
    pub(crate) fn parent(&self) -> Parent {
        let memory = self.saved.as_ref().map(|saved| Arc::clone(&saved.memory));
        Parent { build: self.manifest.id.clone(), memory, disk: Arc::clone(&self.disk) }
    }

    /// What the machine is likely to touch first, in that order.
    pub(crate) fn working_set(&self) -> Vec<Range<u64>> {
        self.manifest.working_set.iter().map(|&(first, pages)| first..first.saturating_add(pages)).collect()
    }
}

/// Opens a build that holds a whole machine of this shape.
pub(crate) fn open(store: &Path, id: &BuildId, shape: Shape) -> Result<Origin, Unusable> {
    let store = LocalStore::open(store).map_err(|error| error.to_string())?;
    let mut origin = disk_of(&store, id, shape)?;
    let Some(info) = &origin.manifest.device_state else {
        return Err(Unusable::Memory(format!("build {id} has a disk and no memory to go on with")));
    };
    let saved = || {
        let memory = Arc::new(Image::open(&store, id, ObjectKind::Memory)?);
        let device_state = artifacts::load_blob(&store, id, ObjectName::DeviceState, info)?;
        Ok::<_, ArtifactError>(Saved { memory, device_state })
    };
    let saved = saved().map_err(|error| {
        if error.is_loss() { Unusable::Memory(error.to_string()) } else { Unusable::Other(error.to_string()) }
    });
    origin.saved = Some(saved?);
    Ok(origin)
}

/// Opens a build for a machine of this shape that boots from its disk.
pub(crate) fn open_disk(store: &Path, id: &BuildId, shape: Shape) -> Result<Origin, String> {
    let store = LocalStore::open(store).map_err(|error| error.to_string())?;
    disk_of(&store, id, shape)
}

fn disk_of(store: &LocalStore, id: &BuildId, shape: Shape) -> Result<Origin, String> {
    let open = || {
        let manifest = artifacts::load_manifest(store, id)?;
        let disk = Arc::new(Image::open(store, id, ObjectKind::Disk)?);
        Ok::<_, ArtifactError>(Origin { manifest, disk, saved: None })
    };
    let origin = open().map_err(|error| error.to_string())?;
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
        "build {} was written by another kind of machine and cannot go on here: {:?}, and this host has {here:?}; \
         connect with memory: false to boot from its disk",
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

#[cfg(test)]
mod damage;

#[cfg(test)]
mod tests {
    use build::{PAGE_BYTES, PageSink as _};
    use jiff::Timestamp;
    use model::{MiB, VcpuCount};

    use super::*;

    const SHAPE: Shape = Shape { vcpus: VcpuCount(1), memory: MiB(1), disk: MiB(1) };
    const PAGES: u64 = (1 << 20) / PAGE_BYTES;

    /// The manifest of a build with a disk alone.
    pub(super) fn manifest(id: &BuildId, shape: Shape, disk: build::ObjectInfo) -> Manifest {
        Manifest {
            id: id.clone(),
            parent: None,
            created_at: Timestamp::UNIX_EPOCH,
            owner: None,
            shape,
            vmm: build::VmmIdentity {
                name: "qemu".into(),
                version: "1".into(),
                accel: "tcg".into(),
                cpu: "max".into(),
                machine: "microvm".into(),
            },
            tsc_khz: None,
            envd_version: "1".into(),
            memory: None,
            disk,
            device_state: None,
            working_set: Vec::new(),
            boot: None,
        }
    }

    struct Scene {
        directory: tempfile::TempDir,
        id: BuildId,
    }

    impl Scene {
        /// A build of a machine, with or without its memory.
        fn new(with_memory: bool) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let id: BuildId = "b1".parse().unwrap();
            let store = LocalStore::open(directory.path()).unwrap();
            let staged = artifacts::Store::begin(&store, &id).unwrap();
            let image = |kind| {
                let mut writer = staged.writer(kind, None, PAGES).unwrap();
                writer.data(3, &[7; 4096]).unwrap();
                writer.finish().unwrap()
            };
            let memory = with_memory.then(|| image(ObjectKind::Memory));
            let device_state =
                with_memory.then(|| staged.put_blob(ObjectName::DeviceState, b"state").unwrap());
            let manifest = Manifest { memory, device_state, ..manifest(&id, SHAPE, image(ObjectKind::Disk)) };
            staged.publish(&manifest).unwrap();
            Self { directory, id }
        }

        fn open(&self) -> Result<Origin, Unusable> {
            open(self.directory.path(), &self.id, SHAPE)
        }

        fn open_disk(&self) -> Result<Origin, String> {
            open_disk(self.directory.path(), &self.id, SHAPE)
        }
    }

    #[test]
    fn what_boots_from_a_disk_has_nothing_of_the_memory() {
        let scene = Scene::new(true);
        let whole = scene.open().unwrap();
        assert!(whole.parent().memory.is_some());
        let disk = scene.open_disk().unwrap();
        assert!(disk.saved.is_none() && disk.parent().memory.is_none());
        assert_eq!(disk.parent().build, scene.id);
    }

    #[test]
    fn a_build_without_memory_boots() {
        let scene = Scene::new(false);
        assert!(matches!(scene.open(), Err(Unusable::Memory(_))));
        assert!(scene.open_disk().is_ok());
        let larger = Shape { disk: MiB(2), ..SHAPE };
        assert!(open_disk(scene.directory.path(), &scene.id, larger).is_err());
    }
}
