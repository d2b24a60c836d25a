//! What survives a power cut at any moment of a publication.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use build::{Manifest, ObjectKind, ObjectName, PageSink, VmmIdentity};
use model::{BuildId, MiB, Shape, VcpuCount};

use crate::durable::{Durable, Kernel};
use crate::error::ArtifactError;
use crate::local::LocalStore;
use crate::staged::Staged;
use crate::store::Store;

/// A disk that forgets everything that was not synced, and whose power can be cut before its n-th call.
#[derive(Default)]
struct Disk {
    state: Mutex<State>,
    cut_before: Option<usize>,
}

#[derive(Default)]
struct State {
    calls: Vec<String>,
    /// What is on stable storage of each file, by inode.
    files: BTreeMap<u64, Vec<u8>>,
    /// The names, with their inodes, that are on stable storage of each directory, by inode.
    names: BTreeMap<u64, BTreeMap<String, u64>>,
}

fn inode(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).unwrap().ino()
}

impl Disk {
    fn call(&self, what: &str, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        if self.cut_before == Some(state.calls.len()) {
            return Err(io::Error::other("the power is out"));
        }
        state.calls.push(format!("{what} {}", path.file_name().unwrap().to_str().unwrap()));
        Ok(())
    }

    /// What somebody finds in the directory after the power is back: the content of every file by its name.
    fn found(&self, dir: u64) -> Option<BTreeMap<String, Vec<u8>>> {
        let state = self.state.lock().unwrap();
        let files = state.names.get(&dir)?.iter();
        Some(
            files
                .map(|(name, inode)| (name.clone(), state.files.get(inode).cloned().unwrap_or_default()))
                .collect(),
        )
    }

    fn durable_names(&self, dir: u64) -> Vec<String> {
        self.state
            .lock()
            .unwrap()
            .names
            .get(&dir)
            .map_or_else(Vec::new, |names| names.keys().cloned().collect())
    }
}

impl Durable for Disk {
    fn sync_file(&self, file: &File, path: &Path) -> io::Result<()> {
        self.call("sync", path)?;
        Kernel.sync_file(file, path)?;
        self.state.lock().unwrap().files.insert(inode(path), fs::read(path)?);
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.call("sync", path)?;
        let names = fs::read_dir(path)?.map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), inode(&entry.path()))
        });
        let names = names.collect();
        self.state.lock().unwrap().names.insert(inode(path), names);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call("rename to", to)?;
        Kernel.rename(from, to)
    }
}

fn id() -> BuildId {
    "tulip".parse().unwrap()
}

/// A build with every kind of object, ready for publication.
fn stage(store: &LocalStore) -> (Staged, Manifest) {
    let staged = store.begin(&id()).unwrap();
    let image = |kind, pages: u64| {
        let mut writer = staged.writer(kind, None, pages).unwrap();
        writer.data(pages / 2, &[7; 8192]).unwrap();
        writer.finish().unwrap()
    };
    let manifest = Manifest {
        id: id(),
        parent: None,
        created_at: jiff::Timestamp::UNIX_EPOCH,
        owner: None,
        shape: Shape { vcpus: VcpuCount(1), memory: MiB(1), disk: MiB(1) },
        vmm: VmmIdentity {
            name: "qemu".into(),
            version: "1".into(),
            accel: "tcg".into(),
            cpu: "max".into(),
            machine: "microvm".into(),
        },
        tsc_khz: None,
        envd_version: "1".into(),
        memory: Some(image(ObjectKind::Memory, 20)),
        disk: image(ObjectKind::Disk, 10),
        device_state: Some(staged.put_blob(ObjectName::DeviceState, b"state").unwrap()),
        working_set: vec![],
        boot: None,
    };
    (staged, manifest)
}

fn open(disk: &Arc<Disk>) -> (tempfile::TempDir, PathBuf, LocalStore) {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("builds");
    fs::create_dir(&root).unwrap();
    let store = LocalStore::with(&root, disk.clone()).unwrap();
    (directory, root, store)
}

#[test]
fn a_publication_that_returned_survives() {
    let disk = Arc::new(Disk::default());
    let (_directory, root, store) = open(&disk);
    let (staged, manifest) = stage(&store);
    staged.publish(&manifest).unwrap();

    let calls = disk.state.lock().unwrap().calls.clone();
    let staging = format!("sync .staging-tulip-{}", std::process::id());
    let expected = [
        "sync memory.data",
        "sync memory.header",
        "sync disk.data",
        "sync disk.header",
        "sync device.state",
        "sync manifest.json",
        &staging,
        "rename to tulip",
        "sync builds",
    ];
    assert_eq!(calls, expected);

    assert_eq!(disk.durable_names(inode(&root)), ["tulip"]);
    let build = root.join("tulip");
    let found = disk.found(inode(&build)).unwrap();
    assert_eq!(found.len(), 6);
    for (name, bytes) in found {
        assert!(bytes == fs::read(build.join(&name)).unwrap(), "{name}");
    }
}

#[test]
fn a_failure_at_any_moment_is_reported_and_leaves_nothing() {
    for step in 0..9 {
        let disk = Arc::new(Disk { cut_before: Some(step), ..Disk::default() });
        let (_directory, root, store) = open(&disk);
        let (staged, manifest) = stage(&store);
        let error = staged.publish(&manifest).unwrap_err().to_string();
        assert!(error.ends_with(": the power is out"), "{error}");
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0, "after {error}");
        assert!(store.list().unwrap().is_empty());
        assert!(disk.durable_names(inode(&root)).is_empty());
    }
}

#[test]
fn a_build_has_its_name_only_when_it_is_durable() {
    /// Looks at what is on stable storage at the moment of the rename.
    struct Watch(Arc<Disk>);
    impl Durable for Watch {
        fn sync_file(&self, file: &File, path: &Path) -> io::Result<()> {
            self.0.sync_file(file, path)
        }
        fn sync_dir(&self, path: &Path) -> io::Result<()> {
            self.0.sync_dir(path)
        }
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            let found = self.0.found(inode(from)).unwrap();
            for entry in fs::read_dir(from)? {
                let path = entry?.path();
                let name = path.file_name().unwrap().to_str().unwrap();
                assert!(found[name] == fs::read(&path)?, "{name}");
            }
            assert_eq!(found.len(), 6);
            self.0.rename(from, to)
        }
    }
    let disk = Arc::new(Disk::default());
    let directory = tempfile::tempdir().unwrap();
    let store = LocalStore::with(directory.path(), Arc::new(Watch(disk))).unwrap();
    let (staged, manifest) = stage(&store);
    staged.publish(&manifest).unwrap();
    assert_eq!(store.list().unwrap(), [id()]);
}

#[test]
fn a_build_that_exists_is_not_replaced() {
    let (_directory, root, store) = open(&Arc::default());
    let (first, manifest) = stage(&store);
    // As another process would: it has another directory, and is faster.
    fs::create_dir(root.join("tulip")).unwrap();
    fs::write(root.join("tulip/manifest.json"), "theirs").unwrap();
    assert!(matches!(first.publish(&manifest), Err(ArtifactError::Exists(build)) if build == id()));
    assert_eq!(fs::read(root.join("tulip/manifest.json")).unwrap(), b"theirs");
    assert_eq!(fs::read_dir(&root).unwrap().count(), 1);
    assert!(matches!(store.begin(&id()), Err(ArtifactError::Exists(_))));
}
