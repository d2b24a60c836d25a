//! Builds in a directory: written, read back, published, and removed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use artifacts::{ArtifactError, Image, LocalStore, Store, load_blob, load_manifest};
use build::{BlobInfo, ObjectKind, ObjectName, PageSink, Pages, ReadError, Run};
use proptest::prelude::*;

use support::{Scene, id, page, read, two};

const PAGES: usize = 60;

#[derive(Debug, Clone)]
enum Change {
    Data(usize, usize),
    Zero(usize, usize),
}

/// Changes in ascending order, as an export gives them.
fn changes() -> impl Strategy<Value = Vec<Change>> {
    prop::collection::vec((0..6_usize, 1..9_usize, any::<bool>()), 0..12).prop_map(|pieces| {
        let mut at = 0;
        let mut changes = Vec::new();
        for (gap, length, data) in pieces {
            let start = at + gap;
            at = start + length;
            if at > PAGES {
                break;
            }
            changes.push(if data { Change::Data(start, length) } else { Change::Zero(start, length) });
        }
        changes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn images_with_parents_read_back_as_written(
        generations in prop::collection::vec((changes(), any::<prop::sample::Index>()), 1..12),
        reads in prop::collection::vec((0..PAGES, 1..20_usize), 10),
    ) {
        let scene = Scene::new();
        let mut models: Vec<Vec<u8>> = vec![];
        let mut seed = 0;
        for (number, (changes, parent)) in generations.iter().enumerate() {
            // Any image before it, or none.
            let parent = parent.index(number + 1).checked_sub(1);
            let mut model = parent.map_or_else(|| vec![0; PAGES * 4096], |parent| models[parent].clone());
            let parent = parent.map(|parent| Arc::new(scene.image(parent).unwrap()));
            scene.publish(number, parent.clone(), PAGES as u64, |writer| {
                for change in changes {
                    match *change {
                        Change::Data(start, length) => {
                            let bytes: Vec<u8> = (0..length).flat_map(|_| { seed += 1; page(seed) }).collect();
                            model[start * 4096..][..bytes.len()].copy_from_slice(&bytes);
                            writer.data(start as u64, &bytes).unwrap();
                        }
                        Change::Zero(start, length) => {
                            model[start * 4096..][..length * 4096].fill(0);
                            writer.zero(start as u64, length as u64).unwrap();
                        }
                    }
                }
            });
            models.push(model);
        }
        // Every image is still what it was when it was published.
        for (number, model) in models.iter().enumerate() {
            let image = scene.image(number).unwrap();
            prop_assert!(support::read(&image, 0, PAGES) == *model);
            for (first, length) in &reads {
                let length = (*length).min(PAGES - first);
                prop_assert!(support::read(&image, *first, length) == model[first * 4096..][..length * 4096]);
            }
            let mut position = 0;
            while position < PAGES {
                let (zero, pages) = match image.run(position as u64) {
                    Run::Zero(pages) => (true, pages),
                    Run::Data(pages) => (false, pages),
                };
                let end = position + usize::try_from(pages).unwrap();
                for page in model[position * 4096..end * 4096].chunks(4096) {
                    prop_assert_eq!(build::is_zero(page), zero);
                }
                position = end;
            }
        }
    }
}

#[test]
fn a_long_row_of_pauses_stays_as_quick_to_open() {
    let scene = Scene::new();
    let mut model = vec![0; 300 * 4096];
    let mut parent = None;
    let mut stored = 0;
    for number in 0..250 {
        scene.publish(number, parent, 300, |writer| {
            let bytes = page(number + 1);
            model[number * 4096..][..4096].copy_from_slice(&bytes);
            writer.data(number as u64, &bytes).unwrap();
            assert_eq!(writer.stored_bytes(), 4096);
        });
        let image = Arc::new(scene.image(number).unwrap());
        assert!(image.header().sources().len() <= 48, "{number}");
        stored += scene.manifest(number).disk.bytes / 4100;
        parent = Some(image);
    }
    let image = parent.unwrap();
    assert_eq!(image.header().generation(), 249);
    assert!(support::read(&image, 0, 300) == model);
    assert!(stored < 4 * 250, "{stored} pages stored for 250");
}

#[test]
fn large_and_small_pieces_are_stored_in_order() {
    let scene = Scene::new();
    let mut model = Vec::new();
    scene.publish(0, None, 3000, |writer| {
        for (number, length) in [1, 300, 2, 256, 255, 1, 64, 600, 3].into_iter().enumerate() {
            let bytes: Vec<u8> = (0..length).flat_map(|n| page(number * 1000 + n + 1)).collect();
            writer.data((model.len() / 4096) as u64, &bytes).unwrap();
            model.extend(bytes);
        }
    });
    let image = scene.image(0).unwrap();
    assert!(support::read(&image, 0, model.len() / 4096) == model);
    assert_eq!(image.header().extents().len(), 1);
}

#[test]
fn pages_outside_are_errors() {
    let scene = two();
    let image = scene.image(1).unwrap();
    for (first, length) in [(20, 4096), (19, 8192), (u64::MAX, 4096), (0, 100)] {
        let error = image.read(first, &mut vec![0; length]).unwrap_err();
        assert!(matches!(error, ReadError::Outside { pages: 20, .. }), "{error}");
    }
    assert_eq!(image.run(20), Run::Zero(1));
    image.read(20, &mut []).unwrap();
}

#[test]
fn a_writer_takes_pages_in_order_only() {
    let scene = Scene::new();
    let staged = scene.store.begin(&id(0)).unwrap();
    let refused = |pages: &[(u64, usize)]| {
        // A name is used once, so every attempt has a build of its own.
        let staged = scene.store.begin(&id(pages.len() * 100 + pages[0].1)).unwrap();
        let mut writer = staged.writer(ObjectKind::Disk, None, 10).unwrap();
        let results: Vec<_> =
            pages.iter().map(|(first, length)| writer.data(*first, &vec![1; *length])).collect();
        assert!(results.last().unwrap().is_err(), "{pages:?}");
        assert!(writer.finish().is_err());
    };
    refused(&[(0, 0)]);
    refused(&[(0, 100)]);
    refused(&[(5, 4096), (5, 4096)]);
    refused(&[(5, 8192), (6, 4096), (8, 4096)]);
    refused(&[(10, 4097)]);
    refused(&[(9, 8192)]);
    let _writer = staged.writer(ObjectKind::Disk, None, 10).unwrap();
    let error = staged.writer(ObjectKind::Disk, None, 10).err().unwrap().to_string();
    assert!(error.starts_with("cannot create disk.data of build b0: "), "{error}");
}

#[test]
fn what_is_not_published_leaves_nothing() {
    let scene = Scene::new();
    let staged = scene.store.begin(&id(7)).unwrap();
    let mut writer = staged.writer(ObjectKind::Disk, None, 10).unwrap();
    writer.data(0, &page(1)).unwrap();
    assert_eq!(scene.names().len(), 1);
    assert!(!scene.store.contains(&id(7)).unwrap());
    assert!(scene.store.list().unwrap().is_empty());
    assert!(scene.store.begin(&id(7)).is_err(), "this process is making it");
    drop(staged);
    assert_eq!(scene.names(), [] as [String; 0]);
    assert!(writer.finish().is_err());
    drop(scene.store.begin(&id(7)).unwrap());
}

#[test]
fn what_was_written_must_be_what_the_manifest_says() {
    let scene = Scene::new();
    let refused = |change: &dyn Fn(&mut build::Manifest)| {
        let staged = scene.store.begin(&id(0)).unwrap();
        let mut manifest =
            support::manifest(0, staged.writer(ObjectKind::Disk, None, 9).unwrap().finish().unwrap());
        change(&mut manifest);
        let error = staged.publish(&manifest).unwrap_err();
        assert!(matches!(error, ArtifactError::Incomplete { .. }), "{error}");
        assert_eq!(scene.names(), [] as [String; 0]);
        error.to_string()
    };
    assert!(refused(&|m| m.id = id(1)).contains("its manifest is that of build b1"));
    assert!(refused(&|m| m.disk.bytes += 1).contains("disk.data"));
    assert!(refused(&|m| m.memory = Some(m.disk)).contains("memory.data"));
    assert!(refused(&|m| m.device_state = Some(BlobInfo { bytes: 0, crc: 0 })).contains("device.state"));

    let staged = scene.store.begin(&id(0)).unwrap();
    let disk = staged.writer(ObjectKind::Disk, None, 9).unwrap().finish().unwrap();
    let memory = staged.writer(ObjectKind::Memory, None, 9).unwrap();
    let error = staged.publish(&support::manifest(0, disk)).unwrap_err().to_string();
    assert_eq!(error, "build b0 cannot be published: memory.data is not finished");
    drop(memory);
}

#[test]
fn leftovers_are_cleaned_and_what_is_being_made_is_not() {
    let scene = two();
    let root = scene.root();
    for leftover in [".staging-b5-1", ".removed-b6-1"] {
        fs::create_dir(root.join(leftover)).unwrap();
        fs::write(root.join(leftover).join("disk.data"), "half").unwrap();
    }
    // What a process of the same number left, before its number was ours.
    fs::create_dir(root.join(format!(".staging-b9-{}", std::process::id()))).unwrap();
    fs::create_dir(root.join("somebody's directory")).unwrap();
    let alive = scene.store.begin(&id(8)).unwrap();
    let again = scene.store.begin(&id(9)).unwrap();
    assert_eq!(scene.store.clean_staging().unwrap(), 2);
    assert_eq!(scene.store.clean_staging().unwrap(), 0);
    assert_eq!(scene.names().len(), 2 + 2 + 1);
    drop((alive, again));
    assert_eq!(scene.names(), ["b0", "b1", "somebody's directory"]);
    assert_eq!(scene.store.list().unwrap(), [id(0), id(1)]);
}

#[test]
fn the_store_is_its_owners_and_removing_is_complete() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("builds");
    let store = LocalStore::open(&root).unwrap();
    assert_eq!(fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o700);
    LocalStore::open(&root).unwrap();
    assert!(LocalStore::open(&directory.path().join("a/b")).is_err());
    store.remove(&id(0)).unwrap();

    let scene = two();
    let image = scene.image(1).unwrap();
    let mode = |build, name| fs::metadata(scene.path(build, name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(0, ObjectName::DiskData), 0o400);
    scene.store.remove(&id(0)).unwrap();
    scene.store.remove(&id(1)).unwrap();
    assert_eq!(scene.names(), [] as [String; 0]);
    support::read(&image, 0, 20);
}

#[test]
fn manifests_and_blobs_are_verified() {
    let scene = Scene::new();
    let staged = scene.store.begin(&id(0)).unwrap();
    let mut manifest =
        support::manifest(0, staged.writer(ObjectKind::Disk, None, 9).unwrap().finish().unwrap());
    let info = staged.put_blob(ObjectName::DeviceState, b"the state of all devices").unwrap();
    manifest.device_state = Some(info);
    manifest.memory = Some(staged.writer(ObjectKind::Memory, None, 4).unwrap().finish().unwrap());
    staged.publish(&manifest).unwrap();

    assert_eq!(load_manifest(&scene.store, &id(0)).unwrap(), manifest);
    let load = |info: BlobInfo| load_blob(&scene.store, &id(0), ObjectName::DeviceState, &info);
    assert_eq!(load(info).unwrap(), b"the state of all devices");
    assert!(
        load(BlobInfo { bytes: 1, ..info }).unwrap_err().to_string().ends_with("has 24 bytes, expected 1")
    );
    scene.edit(0, ObjectName::DeviceState, |bytes| bytes[3] ^= 1);
    let error = load(info).unwrap_err().to_string();
    assert!(error.starts_with("device.state of build b0: the bytes from 0 on are damaged: "), "{error}");

    scene.edit(0, ObjectName::Manifest, |bytes| bytes.truncate(50));
    let error = load_manifest(&scene.store, &id(0)).unwrap_err().to_string();
    assert!(error.starts_with("manifest.json of build b0: not the manifest that was expected: "), "{error}");
    let error = load_manifest(&scene.store, &id(1)).unwrap_err();
    assert_eq!(error.to_string(), "manifest.json of build b1 does not exist");

    fs::create_dir(scene.root().join("b1")).unwrap();
    let other = support::manifest(0, manifest.disk).encode().unwrap();
    fs::write(scene.path(1, ObjectName::Manifest), other).unwrap();
    let error = load_manifest(&scene.store, &id(1)).unwrap_err().to_string();
    assert!(error.ends_with("is that of build b0, expected that of build b1"), "{error}");

    let empty = Image::open(&scene.store, &id(0), ObjectKind::Memory).unwrap();
    assert_eq!(empty.run(0), Run::Zero(4));
}

/// How many pages of a file are in memory.
fn resident(path: &std::path::Path) -> usize {
    let said =
        std::process::Command::new("fincore").args(["-n", "-r", "-o", "pages"]).arg(path).output().unwrap();
    String::from_utf8(said.stdout).unwrap().trim().parse().unwrap()
}

#[test]
fn what_is_forgotten_comes_from_the_disk_again() {
    let scene = Scene::new();
    scene.publish(0, None, 1024, |writer| {
        (0..1024).for_each(|number| writer.data(number as u64, &page(number + 1)).unwrap());
    });
    let data = scene.path(0, ObjectName::DiskData);
    let read_all = || read(&scene.image(0).unwrap(), 0, 1024);
    let before = read_all();
    assert!(resident(&data) >= 1024);
    scene.store.forget(&id(0)).unwrap();
    assert!(resident(&data) < 16, "{}", resident(&data));
    assert_eq!(read_all(), before);
    scene.store.forget(&id(7)).unwrap();
}
