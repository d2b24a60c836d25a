//! Builds that are made again with fewer sources.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod support;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;

use artifacts::{
    ArtifactError, Compacted, Compaction, Image, Store, load_blob, load_manifest, sources, usage,
};
use build::{Manifest, ObjectKind, ObjectName, PageSink};
use model::BuildId;

use support::{Scene, id, page, read, two};

fn compact(scene: &Scene, from: usize, into: usize, without: &[usize]) -> Result<Compacted, ArtifactError> {
    let without: BTreeSet<BuildId> = without.iter().map(|number| id(*number)).collect();
    let (from, into) = (&id(from), &id(into));
    Compaction { store: &scene.store, from, into, without: &without, wanted: &|| true }.run()
}

fn names(builds: &BTreeSet<BuildId>) -> Vec<&str> {
    builds.iter().map(BuildId::as_str).collect()
}

/// Three builds: 0 has the pages 0 to 9, 1 has 3 to 5 anew, and 2 has 5 to 6 anew and 7 is zero.
fn three() -> Scene {
    let scene = two();
    let parent = Arc::new(scene.image(1).unwrap());
    scene.publish(2, Some(parent), 25, |writer| {
        writer.data(5, &[page(21), page(22)].concat()).unwrap();
        writer.zero(7, 1).unwrap();
    });
    scene
}

#[test]
fn the_same_is_read_from_fewer_builds() {
    let scene = three();
    let before = read(&scene.image(2).unwrap(), 0, 25);
    assert_eq!(compact(&scene, 2, 3, &[1]).unwrap(), Compacted::Published { copied: 4 * 4096 });
    assert_eq!(names(&sources(&scene.store, &scene.manifest(3)).unwrap()), ["b0", "b3"]);
    assert!(read(&scene.image(3).unwrap(), 0, 25) == before);
    // Where pages follow each other again, they are one piece: 0-2 and 8-9 of the first, 3-6 of its own.
    assert_eq!(scene.image(3).unwrap().header().extents().count(), 3);

    compact(&scene, 3, 4, &[0]).unwrap();
    for gone in 0..4 {
        scene.store.remove(&id(gone)).unwrap();
    }
    assert!(read(&scene.image(4).unwrap(), 0, 25) == before);
    assert_eq!(names(&sources(&scene.store, &scene.manifest(4)).unwrap()), ["b4"]);
}

#[test]
fn everything_else_is_the_same() {
    let scene = two();
    let staged = scene.store.begin(&id(2)).unwrap();
    let parent = Arc::new(scene.image(1).unwrap());
    let disk = staged.writer(ObjectKind::Disk, Some(parent), 20).unwrap().finish().unwrap();
    let mut writer = staged.writer(ObjectKind::Memory, None, 30).unwrap();
    writer.data(7, &[page(1), page(2)].concat()).unwrap();
    let memory = Some(writer.finish().unwrap());
    let device_state = Some(staged.put_blob(ObjectName::DeviceState, b"state").unwrap());
    let manifest = Manifest {
        id: id(2),
        parent: Some(id(1)),
        owner: Some("tulip".parse().unwrap()),
        tsc_khz: Some(5),
        memory,
        device_state,
        working_set: vec![(7, 1), (8, 1)],
        ..support::manifest(2, disk)
    };
    staged.publish(&manifest).unwrap();

    compact(&scene, 2, 3, &[0, 1]).unwrap();
    let made = load_manifest(&scene.store, &id(3)).unwrap();
    let like = Manifest { id: id(3), memory: made.memory, disk: made.disk, ..manifest };
    assert_eq!(made, like);
    let state = load_blob(&scene.store, &id(3), ObjectName::DeviceState, &made.device_state.unwrap());
    assert_eq!(state.unwrap(), b"state");
    let memory = |number| Image::open(&scene.store, &id(number), ObjectKind::Memory).unwrap();
    assert!(read(&memory(3), 0, 30) == read(&memory(2), 0, 30));
    assert!(read(&scene.image(3).unwrap(), 0, 20) == read(&scene.image(2).unwrap(), 0, 20));
    assert_eq!(names(&sources(&scene.store, &scene.manifest(3)).unwrap()), ["b3"]);
}

#[test]
fn damage_is_an_error_where_it_is_copied_and_leaves_nothing() {
    let scene = three();
    scene.edit(1, ObjectName::DiskData, |bytes| bytes[4096 + 7] ^= 1);
    let error = compact(&scene, 2, 3, &[1]).unwrap_err();
    assert!(matches!(&error, ArtifactError::Damaged { offset: 4096, .. }), "{error}");
    assert!(error.is_loss() && error.to_string().contains("disk.data of build b1"), "{error}");
    assert_eq!(scene.names(), ["b0", "b1", "b2"]);
    // What stays where it is is not read.
    compact(&scene, 2, 3, &[0]).unwrap();

    std::fs::remove_file(scene.path(1, ObjectName::DiskData)).unwrap();
    let error = compact(&scene, 2, 4, &[0]).unwrap_err();
    assert!(matches!(&error, ArtifactError::Missing { .. }), "{error}");
    assert!(matches!(compact(&scene, 2, 3, &[]), Err(ArtifactError::Exists(_))));
    assert_eq!(scene.names(), ["b0", "b1", "b2", "b3"]);
}

#[test]
fn it_can_be_given_up_at_any_moment_and_leaves_nothing() {
    let scene = Scene::new();
    scene.publish(0, None, 1000, |writer| {
        (0..10).for_each(|at| writer.data(at * 100, &page(1).repeat(70)).unwrap());
    });
    let (without, asked) = (BTreeSet::new(), Cell::new(0));
    let run = |patience: usize| {
        asked.set(0);
        let wanted = || asked.replace(asked.get() + 1) < patience;
        Compaction { store: &scene.store, from: &id(0), into: &id(1), without: &without, wanted: &wanted }
            .run()
    };
    let mut patience = 0;
    while run(patience).unwrap() == Compacted::GivenUp {
        assert_eq!(scene.names(), ["b0"]);
        assert_eq!(asked.get(), patience + 1);
        patience += 1;
    }
    // Each stretch of 70 pages is two pieces; and once more before it is published.
    assert_eq!(patience, 21);
    assert_eq!(scene.names(), ["b0", "b1"]);
}

#[test]
fn what_is_needed_of_each_source_is_known() {
    let scene = three();
    let told: Vec<_> = usage(&scene.store, &id(2))
        .unwrap()
        .into_iter()
        .map(|source| (source.build.to_string(), source.used, source.dead() > 0))
        .collect();
    let told: Vec<_> = told.iter().map(|(build, used, dead)| (build.as_str(), used / 4100, *dead)).collect();
    assert_eq!(told, [("b0", 5, true), ("b1", 2, true), ("b2", 2, true)]);
    let files = |number| -> u64 {
        let dir = std::fs::read_dir(scene.root().join(id(number).as_str())).unwrap();
        dir.map(|file| file.unwrap().metadata().unwrap().len()).sum()
    };
    let stored: Vec<_> = usage(&scene.store, &id(2)).unwrap().iter().map(|source| source.stored).collect();
    assert_eq!(stored, [files(0), files(1), files(2)]);
    scene.edit(2, ObjectName::DiskHeader, |bytes| bytes[9] ^= 1);
    assert!(usage(&scene.store, &id(2)).is_err());
}
