//! Finding a page without looking through all extents.

use crate::header::{Header, Located};

/// An entry for so many pages, as a power of two: with four bytes for sixteen pages it is a sixteenth of what an open image
/// keeps of checksums, and no more than sixteen extents are looked through.
const SHIFT: u32 = 4;

/// Where the extents of a header begin, by page. An image of which every page comes from somewhere else is searched as
/// fast as one in a single piece.
#[derive(Debug)]
pub struct Index {
    /// The number of the first extent that begins in these pages or after them; one more for the end.
    first: Vec<u32>,
}

impl Index {
    /// The index of a header. It is of use for no other.
    #[must_use]
    pub fn of(header: &Header) -> Self {
        let entries = usize::try_from(header.pages >> SHIFT).unwrap_or(usize::MAX).saturating_add(2);
        let mut first = Vec::with_capacity(entries);
        for (number, extent) in (0..).zip(&header.extents) {
            // Those that begin in pages before this one's are passed.
            first.resize(first.len().max((extent.first >> SHIFT) as usize + 1), number);
        }
        // A header has fewer extents than fit.
        let all = u32::try_from(header.extents.len()).unwrap_or(u32::MAX);
        first.resize(entries, all);
        Self { first }
    }

    /// As [`Header::lookup`], of the header that this is the index of.
    #[must_use]
    pub fn lookup(&self, header: &Header, page: u64) -> Located {
        let entry = usize::try_from(page >> SHIFT).unwrap_or(usize::MAX);
        match (self.first.get(entry), self.first.get(entry.saturating_add(1))) {
            (Some(from), Some(to)) => header.lookup_among(*from as usize..*to as usize, page),
            _ => header.lookup(page),
        }
    }
}
