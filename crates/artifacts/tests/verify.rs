//! Nothing that a disk does to a build goes unnoticed by who reads all of it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod support;

use std::fs;
use std::sync::Arc;

use artifacts::{Store, verify};
use build::{Manifest, ObjectKind, ObjectName, PageSink};

use support::{Scene, id, page, two};

/// The second of two builds, with all objects that there are.
fn whole() -> Scene {
    let scene = two();
    let staged = scene.store.begin(&id(2)).unwrap();
    let parent = Arc::new(scene.image(1).unwrap());
    let mut writer = staged.writer(ObjectKind::Disk, Some(parent), 20).unwrap();
    writer.data(2, &page(31)).unwrap();
    let disk = writer.finish().unwrap();
    let mut writer = staged.writer(ObjectKind::Memory, None, 30).unwrap();
    writer.data(7, &[page(1), page(2)].concat()).unwrap();
    let memory = Some(writer.finish().unwrap());
    let device_state = Some(staged.put_blob(ObjectName::DeviceState, b"state").unwrap());
    staged.publish(&Manifest { memory, device_state, ..support::manifest(2, disk) }).unwrap();
    scene
}

fn findings(scene: &Scene) -> Vec<String> {
    verify(&scene.store, &id(2)).iter().map(ToString::to_string).collect()
}

#[test]
fn a_whole_build_is_whole() {
    assert_eq!(findings(&whole()), [""; 0]);
}

#[test]
fn every_byte_counts() {
    let scene = whole();
    let objects = ObjectName::ALL.map(|name| (2, name)).into_iter().chain([
        // The third build reads from these.
        (0, ObjectName::DiskData),
        (1, ObjectName::DiskData),
    ]);
    for (number, name) in objects {
        let path = scene.path(number, name);
        let bytes = fs::read(&path).unwrap();
        // Each byte of what is small; of pages one of some, which no page has in the same places.
        let step = if bytes.len() < 2048 { 1 } else { 61 };
        for at in (0..bytes.len()).step_by(step) {
            scene.edit(number, name, |bytes| bytes[at] ^= 0x10);
            let found = findings(&scene);
            assert!(!found.is_empty(), "{name} of b{number}, byte {at}");
            assert!(found.iter().all(|error| error.contains(name.file_name())), "{at}: {found:?}");
            scene.edit(number, name, |changed| changed.clone_from(&bytes));
        }
        // Without its last byte, an end of a line, a manifest is whole.
        for length in [0, 1, bytes.len() / 2, bytes.len() - 2, bytes.len() + 1] {
            scene.edit(number, name, |bytes| bytes.resize(length, 0));
            assert_eq!(findings(&scene).len(), 1, "{name} of b{number}, {length} bytes");
            scene.edit(number, name, |changed| changed.clone_from(&bytes));
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(findings(&scene), [format!("{name} of build b{number} does not exist")]);
        fs::write(&path, &bytes).unwrap();
    }
    assert_eq!(findings(&scene), [""; 0]);
}

#[test]
fn objects_of_another_build_are_found() {
    let scene = whole();
    for name in [ObjectName::Manifest, ObjectName::DiskHeader, ObjectName::DiskData] {
        let (good, other) = (fs::read(scene.path(2, name)).unwrap(), fs::read(scene.path(1, name)).unwrap());
        scene.edit(2, name, |bytes| *bytes = other);
        assert_eq!(findings(&scene).len(), 1, "{name}");
        scene.edit(2, name, |bytes| *bytes = good);
    }
}

#[test]
fn all_that_is_wrong_is_found_at_once() {
    let scene = whole();
    scene.edit(2, ObjectName::MemoryData, |bytes| bytes[5] ^= 1);
    scene.edit(0, ObjectName::DiskData, |bytes| bytes[4100] ^= 1);
    scene.edit(2, ObjectName::DeviceState, |bytes| bytes[0] ^= 1);
    let found = findings(&scene);
    let named = ["memory.data of build b2", "disk.data of build b0", "device.state of build b2"];
    assert_eq!(found.len(), named.len(), "{found:?}");
    assert!(found.iter().zip(named).all(|(error, named)| error.contains(named)), "{found:?}");
}

#[test]
fn pages_that_nobody_needs_are_read_too() {
    let scene = two();
    let parent = Arc::new(scene.image(1).unwrap());
    // Everything of its own is covered again by zeros in a later build, whose own object is empty.
    scene.publish(2, Some(parent), 20, |writer| writer.zero(0, 20).unwrap());
    assert_eq!(findings(&scene), [""; 0]);
    scene.edit(2, ObjectName::DiskData, |bytes| bytes.push(0));
    assert_eq!(findings(&scene), ["disk.data of build b2 has 1 bytes, expected 0"]);
}
