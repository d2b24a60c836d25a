//! Builds in another store.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod support;

use std::sync::Arc;

use artifacts::{ArtifactError, Copying, Store, sources, verify};
use build::{BootFiles, ObjectName, PageSink};

use support::{Scene, id, page, read, two};

fn boot() -> Option<BootFiles> {
    Some(BootFiles { kernel: "/k".into(), initrd: "/i".into() })
}

fn copy(from: &Scene, number: usize, to: &Scene) -> Result<build::Manifest, ArtifactError> {
    Copying { from: &from.store, build: &id(number), to: &to.store, boot: boot() }.run(&mut |_, _| {})
}

#[test]
fn a_copy_needs_no_other_build_and_has_the_same_in_it() {
    let (scene, other) = (two(), Scene::new());
    let parent = Arc::new(scene.image(1).unwrap());
    scene.publish(2, Some(parent), 20, |writer| {
        writer.zero(1, 1).unwrap();
        writer.data(15, &page(50)).unwrap();
    });
    let mut told = Vec::new();
    let copying = Copying { from: &scene.store, build: &id(2), to: &other.store, boot: boot() };
    let made = copying.run(&mut |copied, all| told.push((copied, all))).unwrap();
    assert_eq!(other.manifest(2), made);
    assert_eq!((made.boot.clone(), made.parent.clone(), made.shape), (boot(), None, scene.manifest(2).shape));
    assert_eq!(sources(&other.store, &made).unwrap(), [id(2)].into());
    assert!(verify(&other.store, &id(2)).is_empty());
    let (was, is) = (scene.image(2).unwrap(), other.image(2).unwrap());
    assert_eq!(read(&was, 0, 20), read(&is, 0, 20));
    assert_eq!(is.header().stored_pages(), 10);
    assert!(told.first() == Some(&(0, 10)) && told.is_sorted(), "{told:?}");
    // The other way round, it is there already.
    assert!(matches!(copy(&other, 2, &scene), Err(ArtifactError::Exists(build)) if build == id(2)));
}

#[test]
fn of_what_is_damaged_there_is_no_copy() {
    for (number, name) in [(0, ObjectName::DiskData), (1, ObjectName::DiskData), (1, ObjectName::DiskHeader)]
    {
        let (scene, other) = (two(), Scene::new());
        scene.edit(number, name, |bytes| bytes[5] ^= 1);
        let error = copy(&scene, 1, &other).unwrap_err();
        assert!(error.is_loss(), "{error}");
        assert!(other.names().is_empty() && !other.store.contains(&id(1)).unwrap());
    }
}
