//! One bit per block.

/// Which blocks an overlay owns.
#[derive(Debug, Clone)]
pub(crate) struct Bitmap {
    words: Vec<u64>,
}

impl Bitmap {
    /// All bits clear, for `blocks` blocks.
    pub(crate) fn new(blocks: usize) -> Self {
        Self { words: vec![0; blocks.div_ceil(64)] }
    }

    pub(crate) fn get(&self, block: usize) -> bool {
        self.words[block / 64] >> (block % 64) & 1 == 1
    }

    pub(crate) fn set(&mut self, block: usize) {
        self.words[block / 64] |= 1 << (block % 64);
    }

    /// Sets every bit that the other one, of as many blocks, has set.
    pub(crate) fn add(&mut self, other: &Self) {
        self.words.iter_mut().zip(&other.words).for_each(|(ours, theirs)| *ours |= theirs);
    }

    /// The numbers of the bits that are set, ascending.
    pub(crate) fn ones(&self) -> impl Iterator<Item = u64> + '_ {
        self.words.iter().zip((0..).step_by(64)).flat_map(|(word, first): (&u64, u64)| {
            let some = |word: u64| (word != 0).then_some(word);
            std::iter::successors(some(*word), move |word| some(word & (word - 1)))
                .map(move |word| first + u64::from(word.trailing_zeros()))
        })
    }

    pub(crate) fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}

/// The numbers of the blocks that differ from the base, ascending, as they were when the iterator was made.
#[derive(Debug, Clone)]
pub struct DirtyBlocks {
    words: std::iter::Enumerate<std::vec::IntoIter<u64>>,
    /// What is left of the current word, and the number of its first block.
    rest: u64,
    first: u64,
}

impl From<Bitmap> for DirtyBlocks {
    fn from(bitmap: Bitmap) -> Self {
        Self { words: bitmap.words.into_iter().enumerate(), rest: 0, first: 0 }
    }
}

impl Iterator for DirtyBlocks {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        while self.rest == 0 {
            let (index, word) = self.words.next()?;
            self.rest = word;
            self.first = index as u64 * 64;
        }
        let bit = self.rest.trailing_zeros();
        self.rest &= self.rest - 1;
        Some(self.first + u64::from(bit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iterates_in_order_over_word_boundaries() {
        let mut bitmap = Bitmap::new(200);
        let blocks = [0, 1, 63, 64, 127, 128, 199];
        for block in blocks {
            bitmap.set(block);
        }
        assert!(bitmap.get(127) && !bitmap.get(126));
        assert_eq!(bitmap.count(), 7);
        let expected = blocks.map(|block| block as u64);
        assert_eq!(bitmap.ones().collect::<Vec<_>>(), expected);
        let listed: Vec<u64> = DirtyBlocks::from(bitmap).collect();
        assert_eq!(listed, expected);
    }

    #[test]
    fn nothing_dirty_lists_nothing() {
        assert_eq!(DirtyBlocks::from(Bitmap::new(0)).count(), 0);
        assert_eq!(DirtyBlocks::from(Bitmap::new(1000)).count(), 0);
    }
}
