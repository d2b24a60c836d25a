//! Headers of images: made by laying differences over each other, damaged, decoded, walked as readers walk them, and gone on
//! from.
//!
//! The input is one byte that says what is done to the header beside changing bytes, one with their number, the changes, and
//! a program for the differences.
#![no_main]

use std::ops::Range;

use build::{Diff, Header, Located, MergeError, ObjectKind, checksum};
use libfuzzer_sys::fuzz_target;

/// The size of an image that continues nothing, in pages.
const PAGES: u64 = 1 << 20;
/// One piece of a difference in a program: what it is, how many pages are before it, how many it has.
const PIECE_BYTES: usize = 5;
/// One change of a header: where, and what is there then.
const CHANGE_BYTES: usize = 3;

fuzz_target!(|input: &[u8]| {
    // Whatever it is, it is no reason to panic.
    let _ = Header::decode(input);
    let [how, changes, rest @ ..] = input else { return };
    let (changes, program) = rest.split_at((usize::from(changes % 16) * CHANGE_BYTES).min(rest.len()));
    let Some(header) = go_on("first", None, program) else { return };
    if let Ok(damaged) = Header::decode(&damage(&header, *how, changes)) {
        walk(&damaged);
        go_on("second", Some(damaged), program);
    }
});

/// What becomes of a header on a bad disk; or, with its checksum made right again, at the hands of a bad writer.
fn damage(header: &Header, how: u8, changes: &[u8]) -> Vec<u8> {
    let (bytes, sealed) = (header.encode(), how & 1 == 1);
    let mut bytes = if sealed { bytes[..bytes.len() - 4].to_vec() } else { bytes };
    for change in changes.chunks_exact(CHANGE_BYTES) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % bytes.len();
        bytes[at] = change[2];
        if how & 0b110 == 0b110 {
            bytes.truncate(at + 1);
        }
    }
    if sealed { seal(&bytes) } else { bytes }
}

/// What it would be if its writer had written it.
fn seal(bytes: &[u8]) -> Vec<u8> {
    [bytes, &checksum(bytes).to_le_bytes()].concat()
}

/// Everything that is said about pages agrees, and so does what it is written as.
fn walk(header: &Header) {
    let mut end = 0;
    for extent in header.extents() {
        assert!(extent.first >= end && extent.pages > 0);
        if extent.first > end {
            assert_eq!(header.lookup(end), Located::Zero { pages: extent.first - end });
        }
        end = extent.first + extent.pages;
        for inside in [0, extent.pages / 2, extent.pages - 1] {
            let (at, pages) = (extent.at + inside, extent.pages - inside);
            let located = Located::Data { source: extent.source, at, pages };
            assert_eq!(header.lookup(extent.first + inside), located);
            assert!(at + pages <= header.sources()[extent.source].pages);
        }
    }
    assert!(end <= header.pages() && header.stored_pages() <= header.pages());
    for outside in [header.pages(), u64::MAX] {
        assert_eq!(header.lookup(outside), Located::Zero { pages: 1 });
    }
    let again = Header::decode(&header.encode());
    assert_eq!(again.as_ref(), Ok(header));
}

/// Lays differences over an image, and looks at each image that comes of it. The last one.
fn go_on(name: &str, mut parent: Option<Header>, mut program: &[u8]) -> Option<Header> {
    for generation in 0_u32.. {
        let [kind, pieces, keep, rest @ ..] = program else { break };
        let (diff, rest) = rest.split_at((usize::from(pieces % 32) * PIECE_BYTES).min(rest.len()));
        program = rest;
        let kind = if kind & 1 == 0 { ObjectKind::Memory } else { ObjectKind::Disk };
        let diff = read_diff(diff);
        let build = format!("{name}{generation}").parse().expect("an identifier");
        let pages = parent.as_ref().map_or(PAGES, Header::pages);
        match Header::merge(parent.as_ref(), build, kind, pages, &diff, generation) {
            Ok(mut header) => {
                walk(&header);
                check_diff(&header, &diff);
                let stored = header.stored_pages();
                header.fold(usize::from(*keep));
                header.seal(generation);
                walk(&header);
                assert_eq!(header.stored_pages(), stored);
                parent = Some(header);
            }
            Err(MergeError::Order(_) | MergeError::Outside { .. } | MergeError::Kind { .. }) => {}
            Err(MergeError::Same(_)) => assert!(parent.is_some()),
            Err(error) => panic!("{error}"),
        }
    }
    parent
}

fn read_diff(bytes: &[u8]) -> Diff {
    let (mut diff, mut end) = (Diff::default(), 0);
    for piece in bytes.chunks_exact(PIECE_BYTES) {
        let &[what, gap_low, gap_high, length_low, length_high] = piece else { return diff };
        let first = end + u64::from(u16::from_le_bytes([gap_low, gap_high]));
        end = first + u64::from(u16::from_le_bytes([length_low, length_high]));
        let pieces: &mut Vec<Range<u64>> = if what & 1 == 0 { &mut diff.data } else { &mut diff.zero };
        pieces.push(first..end);
        // Some go back to where another one is, or are far away.
        match what >> 4 {
            0 => end = first,
            1 => end = end.saturating_add(u64::from(u32::MAX)),
            2 => end = u64::from(u16::MAX) * u64::from(what & 2),
            _ => {}
        }
    }
    diff
}

/// What was laid over an image is what it has there.
fn check_diff(header: &Header, diff: &Diff) {
    let mut at = 0;
    for range in &diff.data {
        match header.lookup(range.start) {
            Located::Data { source, at: found, .. } => {
                assert_eq!((&header.sources()[source].build, found), (header.build(), at));
            }
            Located::Zero { .. } => panic!("page {} was lost", range.start),
        }
        at += range.end - range.start;
    }
    for range in &diff.zero {
        assert!(
            matches!(header.lookup(range.start), Located::Zero { pages } if pages >= range.end - range.start)
        );
    }
}
