//! What an export stores, and that it ends when something fails.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]
#![allow(clippy::cast_possible_truncation, reason = "tests run where a usize has 64 bits")]

mod common;

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use build::{PageSink, Pages, ReadError, Run, checksum};
use common::model::{Image, PAGE, Random, Sink, content, is_zero, pattern};
use guest_memory::export::ExportError;
use guest_memory::{MemoryReader, export};

const PAGES: u64 = 4096;

/// A memory in which some pages are other than in [`Image`].
struct Memory {
    pages: Vec<[u8; PAGE]>,
    failing: u64,
}

impl MemoryReader for Memory {
    fn pages(&self) -> u64 {
        self.pages.len() as u64
    }

    fn read(&self, first: u64, buffer: &mut [u8]) -> io::Result<()> {
        for (page, bytes) in (first..).zip(buffer.chunks_exact_mut(PAGE)) {
            if page == self.failing {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            bytes.copy_from_slice(&self.pages[page as usize]);
        }
        Ok(())
    }
}

/// Every third page is another one, every eleventh zero.
fn changed(random: &mut Random) -> Memory {
    let page = |page| match random.below(11) {
        0 => [0; PAGE],
        1..4 => pattern(page + 1_000_000),
        _ => content(page),
    };
    Memory { pages: (0..PAGES).map(page).collect(), failing: u64::MAX }
}

/// Candidates in ranges of all lengths, in no order, some of them twice.
fn candidates(random: &mut Random) -> Vec<Range<u64>> {
    (0..400)
        .map(|_| {
            let start = random.below(PAGES);
            let most = if random.below(20) == 0 { 900 } else { 4 };
            start..(start + random.below(most)).min(PAGES)
        })
        .collect()
}

/// A parent that knows the checksums of its pages, some of which other pages have as well.
struct Knowing {
    image: Image,
    liar: u64,
    read: AtomicU64,
}

impl Pages for Knowing {
    fn pages(&self) -> u64 {
        self.image.pages()
    }

    fn run(&self, page: u64) -> Run {
        self.image.run(page)
    }

    fn sum(&self, page: u64) -> Option<u32> {
        let page = if page.is_multiple_of(self.liar) { pattern(page + 1_000_000) } else { content(page) };
        Some(checksum(&page))
    }

    fn read(&self, first: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.read.fetch_add((buffer.len() / PAGE) as u64, Ordering::Relaxed);
        self.image.read(first, buffer)
    }
}

fn check(memory: &Memory, candidates: &[Range<u64>], parent: Option<&dyn Pages>) {
    let mut sink = Sink::default();
    let exported = export::export(memory, candidates, parent, &mut sink).unwrap();
    assert_eq!((exported.data, exported.zero), (sink.data.len() as u64, sink.zero.len() as u64));
    for page in 0..PAGES {
        let now = memory.pages[page as usize];
        let before = if parent.is_some() { content(page) } else { [0; PAGE] };
        let stored = candidates.iter().any(|range| range.contains(&page)) && now != before;
        let zero = now == [0; PAGE];
        assert_eq!(sink.zero.contains(&page), stored && zero, "page {page}");
        assert_eq!(
            sink.data.get(&page).map(Vec::as_slice),
            (stored && !zero).then_some(&now[..]),
            "page {page}"
        );
    }
}

#[test]
fn it_stores_what_differs_and_nothing_else() {
    for seed in 0..6 {
        let mut random = Random(seed);
        let (memory, candidates) = (changed(&mut random), candidates(&mut random));
        check(&memory, &candidates, None);
        check(&memory, &candidates, Some(&Image::new(PAGES)));
    }
    let whole = Random(7);
    check(&changed(&mut { whole }), &[], None);
}

#[test]
fn a_checksum_spares_reading_and_is_never_believed_alone() {
    let memory = changed(&mut Random(3));
    // The checksums of a third of the pages are those of what a changed page has.
    let parent = Knowing { image: Image::new(PAGES), liar: 3, read: AtomicU64::new(0) };
    let everything = 0..PAGES;
    let mut sink = Sink::default();
    export::export(&memory, std::slice::from_ref(&everything), Some(&parent), &mut sink).unwrap();
    let differs = |page: &u64| memory.pages[*page as usize] != content(*page);
    let liars = |page: &u64| page.is_multiple_of(3) && !is_zero(*page);
    // A lie of the other kind cannot be: a page that is the parent's has the parent's checksum.
    for page in everything.filter(|page| differs(page) || !liars(page)) {
        let now = memory.pages[page as usize];
        assert_eq!(sink.data.contains_key(&page), differs(&page) && now != [0; PAGE], "page {page}");
    }
    let read = parent.read.load(Ordering::Relaxed);
    let data = (0..PAGES).filter(|page| !is_zero(*page)).count() as u64;
    assert!(read < data * 8 / 10, "{read} of {data} pages were read");
}

/// A disk that is full after some pages.
struct Full(u64);

impl PageSink for Full {
    fn data(&mut self, _: u64, bytes: &[u8]) -> io::Result<()> {
        self.0 = self.0.checked_sub((bytes.len() / PAGE) as u64).ok_or(io::ErrorKind::StorageFull)?;
        Ok(())
    }

    fn zero(&mut self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn whatever_fails_it_ends() {
    let all = std::slice::from_ref(&(0..PAGES));
    for page in [0, 1, 255, 256, 700, PAGES - 1] {
        let mut memory = changed(&mut Random(page));
        let full = export::export(&memory, all, None, &mut Full(page.min(2000)));
        assert!(matches!(full, Err(ExportError::Sink { .. })), "{full:?}");

        memory.failing = page;
        let unreadable = export::export(&memory, all, None, &mut Sink::default());
        assert!(matches!(unreadable, Err(ExportError::Memory { .. })), "{unreadable:?}");

        let parent = Image::new(PAGES);
        let page = (page..).find(|page| !is_zero(*page)).unwrap().min(PAGES - 200);
        let mut memory = changed(&mut Random(page));
        memory.pages[page as usize] = content(page);
        parent.lose(page);
        let lost = export::export(&memory, all, Some(&parent), &mut Sink::default());
        assert!(matches!(lost, Err(ExportError::Parent { .. })), "{lost:?}");
    }
}
