//! An image whose pages can be computed, which counts and fails as it is told.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use build::{PAGE_BYTES, PageSink, Pages, ReadError, Run};

pub(crate) const PAGE: usize = 4096;

/// No page fails.
const NEVER: u64 = u64::MAX;

/// A small generator: seeded, so that a failure can be repeated.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// What a page of the image has: a seventh of the pages are zero, and so are all of a longer stretch.
pub(crate) fn content(page: u64) -> [u8; PAGE] {
    if is_zero(page) { [0; PAGE] } else { pattern(page) }
}

pub(crate) fn is_zero(page: u64) -> bool {
    page % 7 == 3 || (page % 1024) >= 900
}

/// A page that says which one it is, and is nowhere zero.
pub(crate) fn pattern(seed: u64) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    for word in page.as_chunks_mut::<8>().0 {
        *word = (random.next() << 32 | random.next() | 1).to_le_bytes();
    }
    page
}

/// The image.
pub(crate) struct Image {
    pages: u64,
    reads: Vec<AtomicU32>,
    failing: AtomicU64,
    panicking: AtomicU64,
    /// How long each read takes, in microseconds.
    pub(crate) latency: AtomicU64,
}

impl Image {
    pub(crate) fn new(pages: u64) -> Self {
        Self {
            pages,
            reads: (0..pages).map(|_| AtomicU32::new(0)).collect(),
            failing: AtomicU64::new(NEVER),
            panicking: AtomicU64::new(NEVER),
            latency: AtomicU64::new(0),
        }
    }

    /// From now on this page is lost.
    pub(crate) fn lose(&self, page: u64) {
        self.failing.store(page, Ordering::SeqCst);
    }

    /// From now on reading this page panics.
    pub(crate) fn panic_at(&self, page: u64) {
        self.panicking.store(page, Ordering::SeqCst);
    }

    /// How often the page was read.
    pub(crate) fn reads(&self, page: u64) -> u32 {
        self.reads[usize::try_from(page).unwrap()].load(Ordering::SeqCst)
    }

    /// The most that any page was read.
    pub(crate) fn most_reads(&self) -> u32 {
        self.reads.iter().map(|reads| reads.load(Ordering::SeqCst)).max().unwrap_or(0)
    }
}

impl Pages for Image {
    fn pages(&self) -> u64 {
        self.pages
    }

    fn run(&self, page: u64) -> Run {
        let zero = is_zero(page);
        // Short runs, so that whoever reads has to join them.
        let pages =
            (1..50).find(|more| page + more >= self.pages || is_zero(page + more) != zero).unwrap_or(50);
        if page >= self.pages || zero { Run::Zero(pages) } else { Run::Data(pages) }
    }

    fn read(&self, first: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let latency = self.latency.load(Ordering::Relaxed);
        if latency > 0 {
            std::thread::sleep(std::time::Duration::from_micros(latency));
        }
        for (page, bytes) in (first..).zip(buffer.chunks_exact_mut(PAGE)) {
            assert_ne!(page, self.panicking.load(Ordering::SeqCst), "told to panic");
            if page == self.failing.load(Ordering::SeqCst) {
                let source = io::Error::other("the disk is on fire");
                return Err(ReadError::Io { object: "memory".to_owned(), offset: page * PAGE_BYTES, source });
            }
            if page >= self.pages {
                return Err(ReadError::Outside { first, end: page + 1, pages: self.pages });
            }
            self.reads[usize::try_from(page).unwrap()].fetch_add(1, Ordering::SeqCst);
            bytes.copy_from_slice(&content(page));
        }
        Ok(())
    }
}

/// Takes pages, and checks that they come as they should.
#[derive(Default)]
pub(crate) struct Sink {
    pub(crate) data: std::collections::BTreeMap<u64, Vec<u8>>,
    pub(crate) zero: std::collections::BTreeSet<u64>,
    next: u64,
}

impl PageSink for Sink {
    fn data(&mut self, first: u64, bytes: &[u8]) -> io::Result<()> {
        assert!(first >= self.next && !bytes.is_empty() && bytes.len().is_multiple_of(PAGE));
        for (page, bytes) in (first..).zip(bytes.chunks_exact(PAGE)) {
            assert!(bytes.iter().any(|byte| *byte != 0), "page {page} is zero");
            self.data.insert(page, bytes.to_vec());
            self.next = page + 1;
        }
        Ok(())
    }

    fn summed(&mut self, first: u64, bytes: &[u8], sums: &[u32]) -> io::Result<()> {
        let right: Vec<u32> = bytes.chunks(PAGE).map(build::checksum).collect();
        assert_eq!(sums, right, "the checksums of the pages from {first} on");
        self.data(first, bytes)
    }

    fn zero(&mut self, first: u64, pages: u64) -> io::Result<()> {
        assert!(first >= self.next && pages > 0);
        self.zero.extend(first..first + pages);
        self.next = first + pages;
        Ok(())
    }
}
