//! Pages that are kept while their guest goes on.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use guest_memory::kept::Kept;
use guest_memory::{MemfdReader, MemoryReader, Room};

const PAGE: usize = 4096;

/// A file of `pages` pages, each of which says which one it is and `mark`.
fn fill(file: &std::fs::File, pages: u64, mark: u8) {
    for page in 0..pages {
        let mut bytes = [mark; PAGE];
        bytes[..8].copy_from_slice(&page.to_le_bytes());
        file.write_all_at(&bytes, page * PAGE as u64).unwrap();
    }
}

fn check(kept: &Kept, wanted: &[Range<u64>], mark: u8) {
    for page in wanted.iter().cloned().flatten() {
        let mut bytes = [0; PAGE];
        kept.read(page, &mut bytes).unwrap();
        assert_eq!((&bytes[..8], bytes[PAGE - 1]), (&page.to_le_bytes()[..], mark), "page {page}");
    }
}

#[test]
fn they_are_what_they_were() {
    // Enough for several threads, in ranges that are not cut where the shares are.
    let pages = 20_000;
    let file = tempfile::tempfile().unwrap();
    fill(&file, pages, 1);
    let reader = MemfdReader::new(&file).unwrap();
    let ranges: Vec<Range<u64>> = (0..pages / 37).map(|i| i * 37..i * 37 + 1 + i % 36).collect();
    let whole = 0..pages;
    let all = std::slice::from_ref(&whole);
    let kept: Vec<(Kept, &[Range<u64>])> =
        [(&ranges[..], 0), (&ranges[..], 100_000), (all, 20_000), (&[], 5)]
            .map(|(wanted, room)| (Kept::copy(&reader, wanted, Room::new(room).unwrap()).unwrap(), wanted))
            .into();
    fill(&file, pages, 2);
    for (kept, wanted) in &kept {
        check(kept, wanted, 1);
        assert_eq!((kept.ranges(), kept.pages()), (*wanted, pages));
    }
    let (kept, _) = &kept[0];
    for (first, count) in [(1, 1), (0, 2), (pages, 1), (pages * 2, 3)] {
        let error = kept.read(first, &mut vec![0; count * PAGE]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{first} {count}");
    }
}

#[test]
fn what_cannot_be_read_is_an_error() {
    let file = tempfile::tempfile().unwrap();
    fill(&file, 10, 1);
    let reader = MemfdReader::new(&file).unwrap();
    for beyond in [9..11, 5000..9000] {
        assert!(Kept::copy(&reader, &[0..3, beyond], Room::new(0).unwrap()).is_err());
    }
}
