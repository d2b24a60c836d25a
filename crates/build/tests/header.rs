//! Headers against a plain array of pages, and against bytes that are not headers.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]
#![allow(
    clippy::single_range_in_vec_init,
    reason = "lists of ranges are what this is about, of one range too"
)]

use std::ops::Range;

use build::{
    Diff, FormatError, Header, Index, Located, MergeError, ObjectKind, PAGE_BYTES, data_object_bytes,
};
use model::BuildId;
use proptest::prelude::*;

const PAGES: usize = 70;

fn id(generation: usize) -> BuildId {
    format!("build{generation}").parse().unwrap()
}

/// What happens to one page in one generation.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Change {
    Keep,
    Data,
    Zero,
}

/// Changes come in runs, as they do in a guest.
fn changes() -> impl Strategy<Value = Vec<Change>> {
    let run = (
        prop_oneof![4 => Just(Change::Keep), 3 => Just(Change::Data), 2 => Just(Change::Zero)],
        prop_oneof![1..4_usize, 1..30_usize],
    );
    prop::collection::vec(run, 1..40).prop_map(|runs| {
        let mut changes: Vec<Change> =
            runs.into_iter().flat_map(|(change, length)| std::iter::repeat_n(change, length)).collect();
        changes.resize(PAGES, Change::Keep);
        changes
    })
}

/// The ranges of pages with this change. Neighbours are joined, or cut into single pages: both are legal.
fn ranges(changes: &[Change], wanted: Change, join: bool) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for (page, _) in changes.iter().enumerate().filter(|(_, change)| **change == wanted) {
        match ranges.last_mut() {
            Some(last) if join && last.end == page as u64 => last.end += 1,
            _ => ranges.push(page as u64..page as u64 + 1),
        }
    }
    ranges
}

/// What every page holds; each page that was ever written holds another number.
type Model = Vec<Option<u64>>;

/// What the data object of every generation has.
type Objects = Vec<Vec<u64>>;

fn follow(model: &Model, changes: &[Change], fresh: &mut impl Iterator<Item = u64>) -> (Model, Vec<u64>) {
    let mut next = model.clone();
    let mut stored = Vec::new();
    for (slot, change) in next.iter_mut().zip(changes) {
        match change {
            Change::Keep => {}
            Change::Zero => *slot = None,
            Change::Data => {
                *slot = fresh.next();
                stored.extend(*slot);
            }
        }
    }
    (next, stored)
}

fn assert_same(header: &Header, model: &Model, objects: &Objects) {
    let object = |source: usize| {
        let build = &header.sources()[source].build;
        let generation: usize = build.as_str().strip_prefix("build").unwrap().parse().unwrap();
        &objects[generation]
    };
    let index = Index::of(header);
    for page in (0..model.len() as u64 + 40).chain([u64::from(u32::MAX), u64::MAX]) {
        assert_eq!(index.lookup(header, page), header.lookup(page), "page {page} of {header:?}");
    }
    for page in 0..model.len() {
        // What is said of the pages after it is true of each.
        let (end, after) = match header.lookup(page as u64) {
            Located::Zero { pages } => {
                let end = page + usize::try_from(pages).unwrap();
                assert!(model[page..end].iter().all(Option::is_none), "page {page} of {header:?}");
                (end, None)
            }
            Located::Data { source, at, pages } => {
                let (at, length) = (usize::try_from(at).unwrap(), usize::try_from(pages).unwrap());
                let stored = object(source)[at..at + length].iter().copied().map(Some);
                assert!(model[page..page + length].iter().copied().eq(stored), "page {page} of {header:?}");
                (page + length, Some((source, at + length)))
            }
        };
        assert!(end > page);
        if end < model.len() {
            let next = match header.lookup(end as u64) {
                Located::Zero { .. } => None,
                Located::Data { source, at, .. } => Some((source, usize::try_from(at).unwrap())),
            };
            assert_ne!(next, after, "neighbours are joined");
        }
    }
    assert_eq!(header.lookup(model.len() as u64), Located::Zero { pages: 1 });
    assert_eq!(header.lookup(u64::MAX), Located::Zero { pages: 1 });
    assert_eq!(header.stored_pages(), model.iter().flatten().count() as u64);
    for (index, source) in header.sources().iter().enumerate() {
        assert!(header.extents().any(|extent| extent.source == index), "unused sources are dropped");
        assert_eq!(source.pages, object(index).len() as u64);
    }
}

#[derive(Debug, Clone)]
struct Generation {
    changes: Vec<Change>,
    parent: prop::sample::Index,
    join: bool,
    fold: Option<usize>,
}

fn generation() -> impl Strategy<Value = Generation> {
    let fold = prop_oneof![3 => Just(None), 1 => (0..5_usize).prop_map(Some)];
    (changes(), any::<prop::sample::Index>(), any::<bool>(), fold)
        .prop_map(|(changes, parent, join, fold)| Generation { changes, parent, join, fold })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn generations_are_what_an_array_of_pages_would_be(generations in prop::collection::vec(generation(), 1..25)) {
        // A pause continues any image before it: sandboxes branch.
        let mut images: Vec<(Option<Header>, Model)> = vec![(None, vec![None; PAGES])];
        let mut objects = Objects::new();
        let mut fresh = 0..;
        for (number, Generation { changes, parent, join, fold }) in generations.iter().enumerate() {
            let (parent, model) = parent.get(&images);
            let diff = Diff {
                data: ranges(changes, Change::Data, *join),
                zero: ranges(changes, Change::Zero, !*join),
            };
            let mut header =
                Header::merge(parent.as_ref(), id(number), ObjectKind::Memory, PAGES as u64, &diff, 7).unwrap();
            let (model, mut stored) = follow(model, changes, &mut fresh);
            prop_assert_eq!(header.generation(), parent.as_ref().map_or(0, |parent| parent.generation() + 1));
            let own = header.sources().iter().find(|source| source.build == id(number));
            prop_assert_eq!(own.map_or(0, |own| own.pages), diff.data_pages());
            if let Some(keep) = *fold {
                for range in header.fold(keep) {
                    stored.extend(range.map(|page| model[usize::try_from(page).unwrap()].unwrap()));
                }
                header.seal(9);
                prop_assert!(header.sources().iter().filter(|source| source.build != id(number)).count() <= keep);
            }
            objects.push(stored);
            assert_same(&header, &model, &objects);

            let bytes = header.encode();
            prop_assert_eq!(&Header::decode(&bytes).unwrap(), &header);
            images.push((Some(header), model));
        }
    }

    #[test]
    fn arbitrary_bytes_are_errors(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Header::decode(&bytes).is_err());
    }

    /// The checksum holds, the content does not: what a program with a mistake would write.
    #[test]
    fn arbitrary_content_never_panics(
        at in any::<prop::sample::Index>(),
        new in prop::collection::vec(any::<u8>(), 1..16),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = example().encode();
        bytes.truncate(bytes.len() - 4);
        let at = at.index(bytes.len());
        let end = (at + new.len()).min(bytes.len());
        bytes[at..end].copy_from_slice(&new[..end - at]);
        bytes.truncate(bytes.len() - cut.index(bytes.len()).min(20));
        bytes.extend(build::checksum(&bytes).to_le_bytes());
        if let Ok(header) = Header::decode(&bytes) {
            // Whatever it says now, it is whole.
            for page in 0..header.pages().min(100) {
                let _ = header.lookup(page);
            }
            prop_assert_eq!(header.encode(), bytes);
        }
    }
}

/// Two sources, five extents.
fn example() -> Header {
    let base = Diff { data: vec![0..3, 10..20, 40..41], zero: vec![] };
    let base = Header::merge(None, id(1), ObjectKind::Disk, 64, &base, 0x1234_5678).unwrap();
    let diff = Diff { data: vec![12..14, 63..64], zero: vec![0..1, 40..50] };
    Header::merge(Some(&base), id(2), ObjectKind::Disk, 64, &diff, 0x9abc_def0).unwrap()
}

#[test]
fn every_flipped_bit_is_an_error() {
    let bytes = example().encode();
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(Header::decode(&damaged).is_err(), "bit {bit}");
    }
}

#[test]
fn every_cut_and_every_addition_is_an_error() {
    let bytes = example().encode();
    for length in 0..bytes.len() {
        assert!(Header::decode(&bytes[..length]).is_err(), "{length}");
    }
    for more in [vec![0], vec![0; 16], bytes.clone()] {
        assert!(Header::decode(&[&bytes[..], &more].concat()).is_err());
    }
}

#[test]
fn format_1_is_read_and_written_as_ever() {
    let fixture = include_bytes!("fixtures/header-1.bin");
    assert_eq!(Header::decode(fixture).unwrap(), example());
    assert_eq!(example().encode(), fixture);
}

#[test]
fn errors_say_where_and_what() {
    let bytes = example().encode();
    let error = |bytes: &[u8]| Header::decode(bytes).unwrap_err().to_string();
    assert_eq!(error(b"CFHEA"), "it ends at byte 5, expected CFHEADER there");
    assert_eq!(error(b"CFHEADED\0\0"), "at byte 0: CFHEADED, expected CFHEADER");

    let mut newer = bytes.clone();
    newer[8] = 2;
    assert!(error(&newer).starts_with("it is damaged: "));
    newer.truncate(bytes.len() - 4);
    newer.extend(build::checksum(&newer).to_le_bytes());
    assert_eq!(Header::decode(&newer), Err(FormatError::Newer { found: 2, newest: 1 }));

    let mut damaged = bytes.clone();
    damaged[40] ^= 1;
    assert!(error(&damaged).starts_with("it is damaged: the checksum of bytes 0 to "));

    let mut wrong = bytes[..bytes.len() - 4].to_vec();
    wrong[12] = 9;
    wrong.extend(build::checksum(&wrong).to_le_bytes());
    assert_eq!(error(&wrong), "at byte 12: 9, expected 1 for memory or 2 for a disk");
}

#[test]
fn differences_that_do_not_fit_are_refused() {
    let merge = |data: &[Range<u64>], zero: &[Range<u64>]| {
        let diff = Diff { data: data.to_vec(), zero: zero.to_vec() };
        Header::merge(None, id(1), ObjectKind::Memory, 10, &diff, 0)
    };
    assert!(merge(&[0..3, 5..10], &[3..5]).is_ok());
    assert_eq!(merge(&[5..6, 0..3], &[]), Err(MergeError::Order(0..3)));
    assert_eq!(merge(&[0..3, 2..4], &[]), Err(MergeError::Order(2..4)));
    assert_eq!(merge(&[0..3], &[2..4]), Err(MergeError::Order(2..4)));
    assert_eq!(merge(&[0..3], &[0..1]), Err(MergeError::Order(0..3)));
    assert_eq!(merge(&[3..3], &[]), Err(MergeError::Order(3..3)));
    assert_eq!(merge(&[9..11], &[]), Err(MergeError::Outside { range: 9..11, pages: 10 }));
    assert_eq!(merge(&[0..u64::MAX], &[]), Err(MergeError::Outside { range: 0..u64::MAX, pages: 10 }));

    let parent = merge(&[0..3], &[]).unwrap();
    let over = |kind, build, pages| Header::merge(Some(&parent), build, kind, pages, &Diff::default(), 0);
    assert_eq!(over(ObjectKind::Disk, id(2), 10), Err(MergeError::Kind { kind: ObjectKind::Disk }));
    assert_eq!(over(ObjectKind::Memory, id(2), 9), Err(MergeError::Shrinks { pages: 9, parent: 10 }));
    assert_eq!(over(ObjectKind::Memory, id(1), 10), Err(MergeError::Same(id(1))));
    assert_eq!(over(ObjectKind::Memory, id(2), 1 << 32), Err(MergeError::Pages(1 << 32)));
    let larger = over(ObjectKind::Memory, id(2), 20).unwrap();
    assert_eq!(larger.lookup(3), Located::Zero { pages: 17 });
}

#[test]
fn an_image_of_zeros_needs_no_source() {
    let header = Header::merge(None, id(1), ObjectKind::Memory, 5, &Diff::default(), 0).unwrap();
    assert!(header.sources().is_empty());
    assert_eq!(header.lookup(0), Located::Zero { pages: 5 });
    assert_eq!(Header::decode(&header.encode()).unwrap(), header);
    let none = Header::merge(None, id(1), ObjectKind::Memory, 0, &Diff::default(), 0).unwrap();
    assert_eq!(none.lookup(0), Located::Zero { pages: 1 });
}

#[test]
fn folding_takes_the_smallest_sources_over() {
    let diff = Diff { data: vec![0..10], zero: vec![] };
    let mut header = Header::merge(None, id(0), ObjectKind::Memory, 100, &diff, 5).unwrap();
    for n in 1..6 {
        let diff = Diff { data: vec![n * 10..n * 10 + n], zero: vec![] };
        header =
            Header::merge(Some(&header), id(usize::try_from(n).unwrap()), ObjectKind::Memory, 100, &diff, 5)
                .unwrap();
    }
    assert_eq!(header.clone().fold(5), []);
    assert_eq!(header.fold(2), [10..11, 20..22, 30..33]);
    header.seal(8);
    let sources: Vec<_> = header.sources().iter().map(|s| (s.build.as_str(), s.pages, s.sums_crc)).collect();
    assert_eq!(sources, [("build0", 10, 5), ("build4", 4, 5), ("build5", 5 + 6, 8)]);
    assert_eq!(header.lookup(31), Located::Data { source: 2, at: 5 + 1 + 2 + 1, pages: 2 });
}

#[test]
fn the_size_of_a_data_object_counts_the_checksums() {
    assert_eq!(data_object_bytes(0), 0);
    assert_eq!(data_object_bytes(3), 3 * PAGE_BYTES + 12);
    assert_eq!(data_object_bytes(u64::MAX), u64::MAX);
}

#[test]
fn an_index_finds_what_a_search_finds_in_images_of_any_size() {
    for (pages, count, step) in
        [(1, 1, 1), (100_000, 0, 1), (100_000, 3, 40_000), (100_000, 900, 7), (5000, 2500, 2)]
    {
        let data = (0..count).map(|number| number * step..number * step + 1).collect();
        let diff = Diff { data, zero: vec![] };
        let header = Header::merge(None, "b".parse().unwrap(), ObjectKind::Disk, pages, &diff, 0).unwrap();
        let index = Index::of(&header);
        for page in 0..pages + 2 {
            assert_eq!(index.lookup(&header, page), header.lookup(page), "page {page} of {pages}");
        }
    }
}
