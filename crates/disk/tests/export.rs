//! What an export gives, laid over what it is laid over, is the disk.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod support;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use build::{PageSink, Pages, ReadError, Run, is_zero};
use disk::{BLOCK_SIZE, BlockDevice, ExportError, Overlay, RawImage};
use proptest::prelude::*;

use support::{contents, overlay};

const BLOCK: usize = 4096;

/// Keeps what it gets, and checks what every sink may rely on.
#[derive(Default)]
struct Kept {
    data: BTreeMap<u64, Vec<u8>>,
    zero: Vec<u64>,
    end: u64,
    calls: usize,
    full: bool,
}

impl Kept {
    fn advance(&mut self, first: u64, pages: u64) {
        assert!(pages > 0 && first >= self.end, "ascending");
        self.end = first + pages;
        self.calls += 1;
    }
}

impl PageSink for Kept {
    fn data(&mut self, first: u64, bytes: &[u8]) -> io::Result<()> {
        if self.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        assert!(bytes.len().is_multiple_of(BLOCK) && bytes.len() <= 1 << 20);
        self.advance(first, (bytes.len() / BLOCK) as u64);
        for (page, bytes) in (first..).zip(bytes.chunks(BLOCK)) {
            assert!(!is_zero(bytes), "zero pages are not data");
            self.data.insert(page, bytes.to_vec());
        }
        Ok(())
    }

    fn zero(&mut self, first: u64, pages: u64) -> io::Result<()> {
        self.advance(first, pages);
        self.zero.extend(first..first + pages);
        Ok(())
    }
}

/// What a parent with the sink's pages laid over it has.
fn over(parent: Vec<u8>, kept: &Kept) -> Vec<u8> {
    let mut image = parent;
    let mut set = |page: u64, bytes: &[u8]| {
        image[usize::try_from(page).unwrap() * BLOCK..][..BLOCK].copy_from_slice(bytes);
    };
    kept.data.iter().for_each(|(page, bytes)| set(*page, bytes));
    kept.zero.iter().for_each(|page| set(*page, &[0; BLOCK]));
    image
}

/// Data in the pages 0 to 4, a hole, data in the pages 20 to 25 and a bit.
fn base() -> Arc<RawImage> {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&[7; 5 * BLOCK], 0).unwrap();
    file.write_all_at(&[9; 5 * BLOCK + 123], 20 * BLOCK_SIZE).unwrap();
    Arc::new(RawImage::from_file(file).unwrap())
}

fn disk(blocks: u64) -> (Arc<RawImage>, Overlay) {
    let base = base();
    let disk = overlay(base.clone(), blocks * BLOCK_SIZE);
    (base, disk)
}

fn export(disk: &Overlay, parent: Option<&dyn Pages>) -> Kept {
    let mut kept = Kept::default();
    disk.export(parent, &mut kept).unwrap();
    kept
}

/// The base as the first bytes of a disk.
fn padded(base: &RawImage, disk: &Overlay) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(base.pages()).unwrap() * BLOCK];
    base.read(0, &mut bytes).unwrap();
    bytes.resize(usize::try_from(disk.size()).unwrap(), 0);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_export_over_its_parent_is_the_disk(
        operations in prop::collection::vec((0..3, 0..40 * BLOCK_SIZE, 1..6 * BLOCK_SIZE, any::<u8>()), 0..30),
    ) {
        let (base, disk) = disk(40);
        for (kind, offset, length, byte) in operations {
            let length = length.min(disk.size() - offset);
            match kind {
                0 => disk.write_at(&vec![byte; usize::try_from(length).unwrap()], offset).unwrap(),
                1 => disk.write_zeroes(offset, length).unwrap(),
                _ => disk.trim(offset, length).unwrap(),
            }
        }
        let diff = export(&disk, Some(&*base));
        prop_assert!(over(padded(&base, &disk), &diff) == contents(&disk));
        for page in &diff.zero {
            prop_assert!(matches!(base.run(*page), Run::Data(_)), "zeros over zeros are no news");
        }
        for page in diff.data.keys().chain(&diff.zero) {
            prop_assert!(disk.dirty_blocks().any(|block| block == *page));
        }
        let whole = export(&disk, None);
        prop_assert!(whole.zero.is_empty());
        prop_assert!(over(vec![0; contents(&disk).len()], &whole) == contents(&disk));
    }
}

#[test]
fn a_disk_that_nobody_wrote_to_has_no_difference_and_all_of_its_base() {
    let (base, disk) = disk(1 << 20);
    assert_eq!(export(&disk, Some(&*base)).calls, 0);
    let whole = export(&disk, None);
    assert_eq!((whole.data.len(), whole.calls), (5 + 6, 2));
}

#[test]
fn neighbours_are_given_together_and_large_holes_are_not_read() {
    let (base, disk) = disk(64 << 10);
    disk.write_at(&vec![3; 2 << 20], 1 << 20).unwrap();
    disk.trim(4 << 20, 200 << 20).unwrap();
    disk.trim(0, 8192).unwrap();
    let diff = export(&disk, Some(&*base));
    assert_eq!((diff.data.len(), &diff.zero[..]), (512, &[0, 1][..]));
    assert_eq!(diff.calls, 3, "one for zeros, and data by the megabyte");
}

#[test]
fn failures_say_where() {
    struct Lost;
    impl Pages for Lost {
        fn pages(&self) -> u64 {
            4
        }
        fn run(&self, _: u64) -> Run {
            Run::Data(1)
        }
        fn read(&self, first: u64, _: &mut [u8]) -> Result<(), ReadError> {
            let (found, expected) = (1, 2);
            Err(ReadError::Damaged {
                object: "disk.data of build lost".into(),
                offset: first * 4096,
                found,
                expected,
            })
        }
    }
    let disk = overlay(Arc::new(Lost), 4 * BLOCK_SIZE);
    disk.write_at(&[1; BLOCK], 0).unwrap();
    let error = disk.export(None, &mut Kept::default()).unwrap_err().to_string();
    assert!(error.contains("disk.data of build lost: the page at byte 4096 is damaged"), "{error}");

    // The guest gets an error too, and never zeros; what it wrote is there.
    let error = disk.read_at(&mut [0; 100], 5000).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(disk.write_at(&[1; 10], 5000).is_err(), "a part of a lost block");
    disk.read_at(&mut [0; 100], 50).unwrap();

    let mut full = Kept { full: true, ..Kept::default() };
    assert!(matches!(disk.export(Some(&Lost), &mut full), Err(ExportError::Sink(_))));
}
