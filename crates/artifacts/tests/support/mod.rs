//! A store with disks in it.
#![allow(dead_code, reason = "each file of tests uses a part of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use artifacts::{ArtifactError, Image, ImageWriter, LocalStore, Store, load_manifest};
use build::{Manifest, ObjectInfo, ObjectKind, ObjectName, PageSink, Pages, VmmIdentity};
use model::{BuildId, MiB, Shape, VcpuCount};

pub(crate) struct Scene {
    directory: tempfile::TempDir,
    pub(crate) store: LocalStore,
}

pub(crate) fn id(number: usize) -> BuildId {
    format!("b{number}").parse().unwrap()
}

/// A page that is not zero and like no other.
pub(crate) fn page(number: usize) -> Vec<u8> {
    let mut page = vec![1; 4096];
    page[8..16].copy_from_slice(&(number as u64).to_le_bytes());
    page
}

/// The manifest of a build that has a disk only.
pub(crate) fn manifest(number: usize, disk: ObjectInfo) -> Manifest {
    Manifest {
        id: id(number),
        parent: None,
        created_at: jiff::Timestamp::UNIX_EPOCH,
        owner: None,
        shape: Shape { vcpus: VcpuCount(1), memory: MiB(1), disk: MiB(1) },
        vmm: VmmIdentity {
            name: "qemu".into(),
            version: "7.2".into(),
            accel: "tcg".into(),
            cpu: "max".into(),
            machine: "microvm".into(),
        },
        tsc_khz: None,
        envd_version: "0.6.13".into(),
        memory: None,
        disk,
        device_state: None,
        working_set: vec![],
        boot: None,
    }
}

/// So many pages of an image, which are read into a buffer that is not zero.
pub(crate) fn read(image: &Image, first: usize, pages: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; pages * 4096];
    image.read(first as u64, &mut bytes).unwrap();
    bytes
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self::with(tempfile::tempdir().unwrap())
    }

    /// Where syncing costs nothing, if there is such a place.
    pub(crate) fn in_memory() -> Self {
        let memory = Path::new("/dev/shm");
        let directory = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        Self::with(directory.unwrap())
    }

    fn with(directory: tempfile::TempDir) -> Self {
        let store = LocalStore::open(directory.path()).unwrap();
        Self { directory, store }
    }

    /// Publishes a build whose disk is what `fill` gives.
    pub(crate) fn publish(
        &self,
        number: usize,
        parent: Option<Arc<Image>>,
        pages: u64,
        fill: impl FnOnce(&mut ImageWriter),
    ) {
        let staged = self.store.begin(&id(number)).unwrap();
        let mut writer = staged.writer(ObjectKind::Disk, parent, pages).unwrap();
        fill(&mut writer);
        let disk = writer.finish().unwrap();
        staged.publish(&manifest(number, disk)).unwrap();
    }

    pub(crate) fn image(&self, number: usize) -> Result<Image, ArtifactError> {
        Image::open(&self.store, &id(number), ObjectKind::Disk)
    }

    pub(crate) fn manifest(&self, number: usize) -> Manifest {
        load_manifest(&self.store, &id(number)).unwrap()
    }

    pub(crate) fn root(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn path(&self, number: usize, name: ObjectName) -> PathBuf {
        self.root().join(id(number).as_str()).join(name.file_name())
    }

    /// Changes an object, as only a failing disk does.
    pub(crate) fn edit(&self, number: usize, name: ObjectName, change: impl FnOnce(&mut Vec<u8>)) {
        let path = self.path(number, name);
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        let mut permissions = fs::metadata(&path).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
        fs::set_permissions(&path, permissions).unwrap();
        fs::write(&path, bytes).unwrap();
    }

    /// What is in the store's directory, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// A base with pages 0 to 9, and a child that has pages 3 to 5 anew. The pages 0 to 2 and 6 to 9 come from the base.
pub(crate) fn two() -> Scene {
    let scene = Scene::new();
    scene.publish(0, None, 20, |writer| {
        writer.data(0, &(1..=10).flat_map(page).collect::<Vec<_>>()).unwrap();
    });
    let parent = Arc::new(scene.image(0).unwrap());
    scene.publish(1, Some(parent), 20, |writer| {
        writer.data(3, &(11..=13).flat_map(page).collect::<Vec<_>>()).unwrap();
    });
    scene
}
