//! Disks that start from builds and become builds.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod support;

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use artifacts::{Image, LocalStore, Store};
use build::{Manifest, ObjectKind, Pages, VmmIdentity, data_object_bytes};
use disk::{BLOCK_SIZE, BlockDevice, Overlay, RawImage};
use model::{BuildId, MiB, Shape, VcpuCount};

use support::{contents, overlay};

const SIZE: u64 = 8 << 20;

fn publish(store: &LocalStore, id: &BuildId, disk: &Overlay, parent: Option<Arc<Image>>) -> Manifest {
    let staged = store.begin(id).unwrap();
    let mut writer = staged.writer(ObjectKind::Disk, parent.clone(), disk.size() / BLOCK_SIZE).unwrap();
    disk.export(parent.as_deref().map(|image| image as &dyn Pages), &mut writer).unwrap();
    let manifest = Manifest {
        id: id.clone(),
        parent: parent.map(|image| image.header().build().clone()),
        created_at: jiff::Timestamp::UNIX_EPOCH,
        owner: None,
        shape: Shape { vcpus: VcpuCount(1), memory: MiB(1), disk: MiB(8) },
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
        disk: writer.finish().unwrap(),
        device_state: None,
        working_set: vec![],
        boot: None,
    };
    staged.publish(&manifest).unwrap();
    manifest
}

#[test]
fn a_disk_goes_from_file_to_build_to_build() {
    let directory = tempfile::tempdir().unwrap();
    let store = LocalStore::open(directory.path()).unwrap();

    // A root file system smaller than the disk, with a hole, and its end inside a page.
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&[3; 10 * 4096], 4096).unwrap();
    file.write_all_at(&[4; 5000], 1 << 20).unwrap();
    let first = overlay(Arc::new(RawImage::from_file(file).unwrap()), SIZE);
    first.write_at(b"made once", 6 << 20).unwrap();
    let base: BuildId = "base".parse().unwrap();
    let manifest = publish(&store, &base, &first, None);
    assert_eq!(manifest.disk.bytes, data_object_bytes(10 + 2 + 1));

    let image = Arc::new(Image::open(&store, &base, ObjectKind::Disk).unwrap());
    assert_eq!(image.pages(), SIZE / BLOCK_SIZE);
    let second = overlay(image.clone(), SIZE);
    assert!(contents(&second) == contents(&first));
    second.write_at(&[9; 10_000], 4096 + 100).unwrap();
    second.write_at(b"at the end", SIZE - 10).unwrap();
    second.trim(1 << 20, 4096).unwrap();
    second.trim(2 << 20, 1 << 20).unwrap();
    second.write_zeroes(6 << 20, 4096).unwrap();
    let paused: BuildId = "paused".parse().unwrap();
    let manifest = publish(&store, &paused, &second, Some(image));
    assert_eq!(manifest.disk.bytes, data_object_bytes(3 + 1), "only what was written");

    let third = overlay(Arc::new(Image::open(&store, &paused, ObjectKind::Disk).unwrap()), SIZE);
    assert!(contents(&third) == contents(&second));
    let mut part = [0; 7];
    third.read_at(&mut part, SIZE - 7).unwrap();
    assert_eq!(&part, b"the end");
    assert_eq!(
        publish(&store, &"idle".parse().unwrap(), &third, None).disk.bytes,
        data_object_bytes(10 + 1 + 1)
    );
}
