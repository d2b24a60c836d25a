//! One bit for each page, which several threads may use.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// A set of pages. Costs 32 KiB for each GiB of memory, whatever the guest does.
#[derive(Debug)]
pub(crate) struct Bitmap {
    words: Box<[AtomicU64]>,
}

impl Bitmap {
    /// None of `pages` pages.
    pub(crate) fn new(pages: u64) -> Self {
        Self { words: (0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect() }
    }

    pub(crate) fn contains(&self, page: u64) -> bool {
        let (word, bit) = place(page);
        self.words.get(word).is_some_and(|word| word.load(Ordering::Acquire) & bit != 0)
    }

    pub(crate) fn insert(&self, pages: Range<u64>) {
        for (word, bits) in masks(pages) {
            if let Some(word) = self.words.get(word) {
                word.fetch_or(bits, Ordering::AcqRel);
            }
        }
    }

    /// All of it, ascending.
    pub(crate) fn ranges(&self) -> Vec<Range<u64>> {
        let mut ranges = Vec::new();
        for (index, word) in (0..).zip(&self.words) {
            let mut bits = word.load(Ordering::Acquire);
            while bits != 0 {
                let first = bits.trailing_zeros();
                let length = (bits >> first).trailing_ones();
                crate::ranges::push(
                    &mut ranges,
                    index * 64 + u64::from(first)..index * 64 + u64::from(first + length),
                );
                bits &= !mask(first, length);
            }
        }
        ranges
    }
}

fn place(page: u64) -> (usize, u64) {
    (crate::to_usize(page / 64), 1 << (page % 64))
}

/// `length` bits, at least one, from `first` on.
fn mask(first: u32, length: u32) -> u64 {
    (u64::MAX >> (64 - length)) << first
}

/// The words that the pages are in, and their bits there.
fn masks(pages: Range<u64>) -> impl Iterator<Item = (usize, u64)> {
    let mut page = pages.start;
    std::iter::from_fn(move || {
        (page < pages.end).then(|| {
            let word = page / 64;
            let end = pages.end.min((word + 1) * 64);
            #[expect(clippy::cast_possible_truncation, reason = "below 65")]
            let bits = mask((page % 64) as u32, (end - page) as u32);
            page = end;
            (crate::to_usize(word), bits)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_ranges() {
        for (start, end) in [(0, 1), (0, 64), (1, 64), (63, 65), (3, 200), (128, 192), (190, 200)] {
            let map = Bitmap::new(200);
            map.insert(start..end);
            assert_eq!(map.ranges(), vec![start..end]);
            for page in 0..200 {
                assert_eq!(map.contains(page), (start..end).contains(&page));
            }
        }
    }

    #[test]
    fn ignores_what_is_outside() {
        let map = Bitmap::new(64);
        map.insert(60..70);
        assert_eq!(map.ranges(), vec![60..64]);
        assert!(!map.contains(1 << 40));
    }
}
