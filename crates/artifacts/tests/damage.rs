//! Builds whose objects are damaged in every way a disk can: an error that names the object, and never zeros.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod support;

use std::fs;

use artifacts::{Image, Store};
use build::{ObjectKind, ObjectName, PageSink, Pages, ReadError};

use support::{Scene, id, page, two};

/// The error of opening the second build's disk after its files were changed.
fn damaged(change: impl FnOnce(&Scene)) -> String {
    let scene = two();
    change(&scene);
    scene.image(1).unwrap_err().to_string()
}

#[test]
fn missing_objects_are_named() {
    let removed =
        |build, name: ObjectName| damaged(|scene| fs::remove_file(scene.path(build, name)).unwrap());
    assert_eq!(removed(0, ObjectName::DiskData), "disk.data of build b0 does not exist");
    assert_eq!(removed(1, ObjectName::DiskData), "disk.data of build b1 does not exist");
    assert_eq!(removed(1, ObjectName::DiskHeader), "disk.header of build b1 does not exist");
    assert_eq!(damaged(|scene| scene.store.remove(&id(0)).unwrap()), "disk.data of build b0 does not exist");
    // A header is complete: that of the parent is not read.
    let scene = two();
    fs::remove_file(scene.path(0, ObjectName::DiskHeader)).unwrap();
    support::read(&scene.image(1).unwrap(), 0, 20);
}

#[test]
fn truncated_and_longer_objects_are_found_when_they_are_opened() {
    let with_length = |build, name, length: u64| {
        damaged(|scene| scene.edit(build, name, |bytes| bytes.resize(usize::try_from(length).unwrap(), 0)))
    };
    let (base, child) = (10 * 4100, 3 * 4100);
    for length in [0, 1, 4096, base - 4096, base - 1, base + 1] {
        let error = with_length(0, ObjectName::DiskData, length);
        assert_eq!(error, format!("disk.data of build b0 has {length} bytes, expected {base}"));
    }
    let error = with_length(1, ObjectName::DiskData, child - 1);
    assert_eq!(error, format!("disk.data of build b1 has {} bytes, expected {child}", child - 1));
    let error = with_length(1, ObjectName::DiskHeader, 60);
    assert!(error.starts_with("disk.header of build b1: it is damaged"), "{error}");
    let error = with_length(1, ObjectName::DiskHeader, 0);
    assert_eq!(error, "disk.header of build b1: it ends at byte 0, expected CFHEADER there");
}

#[test]
fn swapped_objects_are_found_when_they_are_opened() {
    let copied = |from: (usize, ObjectName), to: (usize, ObjectName)| {
        damaged(|scene| {
            let bytes = fs::read(scene.path(from.0, from.1)).unwrap();
            scene.edit(to.0, to.1, |target| *target = bytes);
        })
    };
    let (header, data) = (ObjectName::DiskHeader, ObjectName::DiskData);
    assert_eq!(
        copied((0, header), (1, header)),
        "disk.header of build b1 is a disk header of build b0, expected a disk header of build b1"
    );
    assert!(copied((0, data), (1, data)).contains("disk.data of build b1 has "));
    assert!(copied((0, data), (1, header)).starts_with("disk.header of build b1: at byte 0: "));

    // Another build with as many pages.
    let error = damaged(|scene| {
        scene.publish(2, None, 20, |writer| {
            writer.data(0, &(21..=30).flat_map(page).collect::<Vec<_>>()).unwrap();
        });
        let bytes = fs::read(scene.path(2, data)).unwrap();
        scene.edit(0, data, |target| *target = bytes);
    });
    assert!(error.starts_with("disk.data of build b0: the bytes from 40960 on are damaged: "), "{error}");

    // The other image of the same build: here there is none, so as if there were.
    let scene = two();
    fs::copy(scene.path(1, header), scene.path(1, ObjectName::MemoryHeader)).unwrap();
    let error = Image::open(&scene.store, &id(1), ObjectKind::Memory).unwrap_err().to_string();
    assert!(error.ends_with("is a disk header of build b1, expected a memory header of build b1"), "{error}");
}

#[test]
fn every_damaged_page_is_an_error_and_the_others_are_not() {
    let good = support::read(&two().image(1).unwrap(), 0, 20);
    for at in 0..10 {
        let scene = two();
        scene.edit(0, ObjectName::DiskData, |bytes| bytes[at * 4096 + 17 * at] ^= 0x10);
        // The pages are not looked at before they are needed.
        let image = scene.image(1).unwrap();
        for number in 0..20 {
            let mut page = [0xee; 4096];
            let result = image.read(number as u64, &mut page);
            if number == at && !(3..6).contains(&number) {
                let error = result.unwrap_err();
                assert!(matches!(&error, ReadError::Damaged { offset, .. } if *offset == at as u64 * 4096));
                let start = format!("disk.data of build b0: the page at byte {} is damaged: ", at * 4096);
                assert!(error.to_string().starts_with(&start), "{error}");
            } else {
                result.unwrap();
                assert!(page == good[number * 4096..][..4096]);
            }
        }
        let whole = image.read(0, &mut [0; 20 * 4096]);
        assert_eq!(whole.is_err(), !(3..6).contains(&at));
    }
}

#[test]
fn every_flipped_bit_of_checksums_and_headers_is_an_error() {
    for byte in 10 * 4096..10 * 4100 {
        let error = damaged(|scene| scene.edit(0, ObjectName::DiskData, |bytes| bytes[byte] ^= 1));
        assert!(error.starts_with("disk.data of build b0: the bytes from 40960 on are damaged: "), "{error}");
    }
    let scene = two();
    let path = scene.path(1, ObjectName::DiskHeader);
    let bytes = fs::read(&path).unwrap();
    for bit in 0..bytes.len() * 8 {
        scene.edit(1, ObjectName::DiskHeader, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        let error = scene.image(1).unwrap_err().to_string();
        assert!(error.starts_with("disk.header of build b1: "), "{error}");
        scene.edit(1, ObjectName::DiskHeader, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
    }
}

#[test]
fn an_object_that_shrinks_while_it_is_open_is_an_error() {
    let scene = two();
    let image = scene.image(1).unwrap();
    scene.edit(0, ObjectName::DiskData, |bytes| bytes.truncate(8 * 4096));
    support::read(&image, 0, 8);
    let error = image.read(8, &mut [0; 4096]).unwrap_err().to_string();
    assert!(error.starts_with("disk.data of build b0: reading at byte 32768: "), "{error}");
}
