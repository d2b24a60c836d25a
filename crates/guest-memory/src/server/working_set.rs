//! Which pages a guest touched first.

use std::ops::Range;

/// The most faults that are remembered: 256 MiB of guest memory in the usual pages.
const MOST: usize = 65_536;

/// Pages in the order of their first faults. A piece is a run of neighbours that were touched one after the other.
#[derive(Debug, Default)]
pub(super) struct WorkingSet {
    pieces: Vec<Range<u64>>,
    faults: usize,
}

impl WorkingSet {
    /// Remembers the first fault of these pages.
    pub(super) fn touch(&mut self, pages: Range<u64>) {
        if self.faults == MOST {
            return;
        }
        self.faults += 1;
        match self.pieces.last_mut() {
            Some(last) if last.end == pages.start => last.end = pages.end,
            _ => self.pieces.push(pages),
        }
    }

    pub(super) fn ranges(&self) -> Vec<Range<u64>> {
        self.pieces.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_order_and_joins_neighbours() {
        let mut set = WorkingSet::default();
        for page in [7, 8, 9, 3, 4, 10] {
            set.touch(page..page + 1);
        }
        assert_eq!(set.ranges(), [7..10, 3..5, 10..11]);
    }

    #[test]
    fn is_bounded() {
        let mut set = WorkingSet::default();
        for page in 0..100_000 {
            set.touch(page * 2..page * 2 + 1);
        }
        assert_eq!(set.ranges().len(), MOST);
    }
}
