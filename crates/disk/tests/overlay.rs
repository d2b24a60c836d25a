//! The overlay against a plain vector of bytes, and what it promises about its files.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod support;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use build::Pages;
use disk::{BLOCK_SIZE, BlockDevice, Overlay, OverlayError, RawImage};
use proptest::prelude::*;

use support::{contents, overlay};

const SIZE: u64 = 40 * BLOCK_SIZE;

#[derive(Debug, Clone)]
enum Operation {
    Read { offset: u64, length: u64 },
    Write { offset: u64, length: u64, seed: u8 },
    Zero { offset: u64, length: u64 },
    Trim { offset: u64, length: u64 },
    Flush,
}

fn range() -> impl Strategy<Value = (u64, u64)> {
    // Aligned and unaligned, inside, across blocks and past the end.
    let offset = prop_oneof![0..SIZE + 100, (0..=SIZE / BLOCK_SIZE).prop_map(|block| block * BLOCK_SIZE)];
    let length = prop_oneof![0..200_u64, 0..5 * BLOCK_SIZE, (0..6_u64).prop_map(|block| block * BLOCK_SIZE)];
    (offset, length)
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        3 => range().prop_map(|(offset, length)| Operation::Read { offset, length }),
        4 => (range(), any::<u8>()).prop_map(|((offset, length), seed)| Operation::Write { offset, length, seed }),
        2 => range().prop_map(|(offset, length)| Operation::Zero { offset, length }),
        2 => range().prop_map(|(offset, length)| Operation::Trim { offset, length }),
        1 => Just(Operation::Flush),
    ]
}

fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|i| seed.wrapping_add(u8::try_from(i % 251).unwrap()) | 1).collect()
}

/// A base with data, a hole and a size that is no multiple of a block.
fn base() -> (File, Vec<u8>) {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&pattern(3 * 4096, 7), 0).unwrap();
    file.write_all_at(&pattern(5 * 4096 + 123, 9), 20 * BLOCK_SIZE).unwrap();
    let mut model = fs::read(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file))).unwrap();
    model.resize(usize::try_from(SIZE).unwrap(), 0);
    (file, model)
}

fn image(file: File) -> Arc<dyn Pages> {
    Arc::new(RawImage::from_file(file).unwrap())
}

fn open(path: &Path) -> Arc<dyn Pages> {
    Arc::new(RawImage::open(path).unwrap())
}

fn apply(disk: &Overlay, model: &mut [u8], operation: &Operation) {
    let within = |offset: u64, length: u64| {
        (offset + length <= SIZE)
            .then(|| usize::try_from(offset).unwrap()..usize::try_from(offset + length).unwrap())
    };
    match *operation {
        Operation::Read { offset, length } => {
            let mut buffer = vec![0xee; usize::try_from(length).unwrap()];
            let result = disk.read_at(&mut buffer, offset);
            match within(offset, length) {
                Some(range) => {
                    result.unwrap();
                    assert!(buffer == model[range]);
                }
                None => assert!(result.is_err()),
            }
        }
        Operation::Write { offset, length, seed } => {
            let data = pattern(usize::try_from(length).unwrap(), seed);
            let result = disk.write_at(&data, offset);
            match within(offset, length) {
                Some(range) => {
                    result.unwrap();
                    model[range].copy_from_slice(&data);
                }
                None => assert!(result.is_err()),
            }
        }
        Operation::Zero { offset, length } => {
            let result = disk.write_zeroes(offset, length);
            match within(offset, length) {
                Some(range) => {
                    result.unwrap();
                    model[range].fill(0);
                }
                None => assert!(result.is_err()),
            }
        }
        Operation::Trim { offset, length } => {
            let result = disk.trim(offset, length);
            match within(offset, length) {
                Some(range) => {
                    result.unwrap();
                    let start = range.start.next_multiple_of(4096);
                    let end = range.end / 4096 * 4096;
                    if start < end {
                        model[start..end].fill(0);
                    }
                }
                None => assert!(result.is_err()),
            }
        }
        Operation::Flush => disk.flush().unwrap(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_a_vector(operations in prop::collection::vec(operation(), 1..60)) {
        let (base, original) = base();
        let mut model = original.clone();
        let disk = overlay(image(base.try_clone().unwrap()), SIZE);
        for operation in &operations {
            apply(&disk, &mut model, operation);
        }
        prop_assert!(contents(&disk) == model);

        // The base with the dirty blocks laid over it is the disk: what a snapshot relies on.
        let mut rebuilt = original.clone();
        let dirty: Vec<u64> = disk.dirty_blocks().collect();
        prop_assert!(dirty.is_sorted());
        prop_assert_eq!(dirty.len() as u64, disk.dirty_count());
        for block in dirty {
            let start = usize::try_from(block * BLOCK_SIZE).unwrap();
            disk.read_at(&mut rebuilt[start..start + 4096], block * BLOCK_SIZE).unwrap();
        }
        prop_assert!(rebuilt == model);

        // And nobody wrote to the base.
        let mut untouched = vec![0; usize::try_from(base.metadata().unwrap().len()).unwrap()];
        base.read_exact_at(&mut untouched, 0).unwrap();
        prop_assert!(untouched == original[..untouched.len()]);
    }
}

#[test]
fn two_disks_share_a_base_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let base = directory.path().join("base");
    fs::write(&base, pattern(8192, 3)).unwrap();
    let one = Overlay::create(open(&base), &directory.path().join("one"), 1 << 30).unwrap();
    let two = Overlay::create(open(&base), &directory.path().join("two"), 8192).unwrap();
    one.write_at(b"changed", 100).unwrap();
    let mut read = [0; 7];
    two.read_at(&mut read, 100).unwrap();
    assert_eq!(read[..], pattern(8192, 3)[100..107]);
    one.read_at(&mut read, 100).unwrap();
    assert_eq!(&read, b"changed");
    assert_eq!(two.dirty_count(), 0);
}

#[test]
fn the_private_file_can_be_unlinked_and_stays_sparse() {
    let directory = tempfile::tempdir().unwrap();
    let (base, cow) = (directory.path().join("base"), directory.path().join("cow"));
    fs::write(&base, []).unwrap();
    let disk = Overlay::create(open(&base), &cow, 1 << 40).unwrap();
    let file = File::open(&cow).unwrap();
    assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
    fs::remove_file(&cow).unwrap();
    fs::remove_file(&base).unwrap();

    disk.write_at(&[5; 1 << 20], 512 << 30).unwrap();
    disk.flush().unwrap();
    assert!(file.metadata().unwrap().blocks() * 512 < 2 << 20);
    disk.write_zeroes(512 << 30, 1 << 20).unwrap();
    disk.flush().unwrap();
    assert!(file.metadata().unwrap().blocks() * 512 < 64 << 10, "zeros cost no space");
    assert_eq!(disk.dirty_count(), 256);
}

#[test]
fn impossible_disks_are_refused_and_leave_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (base, cow) = (directory.path().join("base"), directory.path().join("cow"));
    fs::write(&base, [0; 8192]).unwrap();
    for size in [0, 4096, 8193, u64::MAX, 1 << 60] {
        let error = Overlay::create(open(&base), &cow, size).unwrap_err();
        assert!(matches!(error, OverlayError::Size { .. }), "{size}: {error}");
    }
    assert!(!cow.exists());
    let missing = RawImage::open(&directory.path().join("missing")).unwrap_err();
    assert!(missing.to_string().contains("missing"), "{missing}");
    assert!(!cow.exists());

    fs::write(&cow, "somebody's").unwrap();
    assert!(matches!(Overlay::create(open(&base), &cow, 8192), Err(OverlayError::Cow { .. })));
    assert_eq!(fs::read(&cow).unwrap(), b"somebody's", "an existing file is not touched");
}

#[test]
fn ranges_that_overflow_are_errors() {
    let disk = overlay(image(base().0), SIZE);
    assert!(disk.read_at(&mut [0; 2], u64::MAX).is_err());
    assert!(disk.write_at(&[0; 2], u64::MAX - 1).is_err());
    assert!(disk.write_zeroes(1, u64::MAX).is_err());
    assert!(disk.trim(u64::MAX, u64::MAX).is_err());
    assert!(disk.read_at(&mut [], SIZE).is_ok());
}

#[test]
fn readers_see_whole_blocks_while_a_writer_works() {
    let disk = overlay(image(base().0), SIZE);
    disk.write_at(&[1; 4096], 4096).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for value in 2..=255 {
                disk.write_at(&[value; 4096], 4096).unwrap();
            }
        });
        let mut block = [0; 4096];
        while !writer.is_finished() {
            disk.read_at(&mut block, 4096).unwrap();
            assert!(block.iter().all(|byte| *byte == block[0]));
        }
    });
}
