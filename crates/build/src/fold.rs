//! Keeping the number of builds that an image needs small.

use std::ops::Range;

use crate::header::{Header, Source};

impl Header {
    /// Takes pages over from other builds until at most `keep` of them are needed: those with the fewest pages in use.
    /// Returns the pages of the image that its own data object has to have in addition, in that order and after those
    /// that it has already. [`Header::seal`] has to follow.
    ///
    /// Where the number is let grow to a multiple of `keep` before that, a page is copied a logarithmic number of times
    /// however long the row of pauses is.
    pub fn fold(&mut self, keep: usize) -> Vec<Range<u64>> {
        let mut used: Vec<(u64, usize)> = self.used_pages().into_iter().zip(0..).collect();
        used.retain(|(_, index)| self.sources[*index].build != self.build);
        used.sort_unstable();
        used.truncate(used.len().saturating_sub(keep));
        if used.is_empty() {
            return Vec::new();
        }
        let mut folded = vec![false; self.sources.len() + 1];
        used.iter().for_each(|(_, index)| folded[*index] = true);

        let own = self.own_source();
        let mut ranges = Vec::new();
        let mut extents = std::mem::take(&mut self.extents);
        // An image has no more pages than fit, and none of them is stored twice in its own data object.
        let mut at = u32::try_from(self.sources[own].pages).unwrap_or(u32::MAX);
        for extent in &mut extents {
            if folded[extent.source as usize] {
                ranges.push(extent.first.into()..extent.end());
                extent.source = u32::try_from(own).unwrap_or(u32::MAX);
                extent.at = at;
                at += extent.pages;
            }
        }
        self.sources[own].pages = at.into();
        extents.into_iter().for_each(|extent| self.push(extent));
        self.drop_unused_sources();
        ranges
    }

    /// Says what the checksum of the page checksums in its own data object is, when that is complete.
    pub fn seal(&mut self, sums_crc: u32) {
        if let Some(own) = self.sources.iter_mut().find(|source| source.build == self.build) {
            own.sums_crc = sums_crc;
        }
    }

    /// The number of its own build among the sources.
    fn own_source(&mut self) -> usize {
        if let Some(own) = self.sources.iter().position(|source| source.build == self.build) {
            return own;
        }
        self.sources.push(Source { build: self.build.clone(), pages: 0, sums_crc: 0 });
        self.sources.len() - 1
    }
}
