//! Finding a page without looking through all extents.

use crate::header::{Header, Located};

/// So many entries are always there, which cost nothing that counts.
const LEAST_ENTRIES: u64 = 64;
/// So many extents are compared in any case. That one of them is the last before a page is almost certain; which one, no
/// processor can guess, and guessing wrong takes it longer than comparing them all.
const AT_ONCE: usize = 4;

/// Where the extents of a header begin, by page. It has about as many entries as there are extents: one that lies anywhere is
/// then found after looking at one or two, in an image of one piece as in one of thousands.
#[derive(Debug)]
pub struct Index {
    /// How many pages an entry is for, as a power of two.
    shift: u32,
    /// The number of the first extent that begins in these pages or after them; one more for the end.
    first: Vec<u32>,
}

impl Index {
    /// The index of a header. It is of use for no other.
    #[must_use]
    pub fn of(header: &Header) -> Self {
        let most = LEAST_ENTRIES + header.extents.len() as u64;
        let mut shift = 0;
        while header.pages >> shift > most {
            shift += 1;
        }
        // No more than that, which fits.
        let entries = usize::try_from(header.pages >> shift).unwrap_or_default() + 2;
        let mut first = Vec::with_capacity(entries);
        for (number, extent) in (0..).zip(&header.extents) {
            // Those that begin in pages before this one's are passed.
            first.resize(first.len().max((extent.first >> shift) as usize + 1), number);
        }
        // A header has fewer extents than fit.
        let all = u32::try_from(header.extents.len()).unwrap_or(u32::MAX);
        first.resize(entries, all);
        Self { shift, first }
    }

    /// As [`Header::lookup`], of the header that this is the index of.
    #[must_use]
    pub fn lookup(&self, header: &Header, page: u64) -> Located {
        let entry = usize::try_from(page >> self.shift).unwrap_or(usize::MAX);
        let (Some(from), Some(to)) = (self.first.get(entry), self.first.get(entry.saturating_add(1))) else {
            return header.lookup(page);
        };
        let (from, to) = (*from as usize, *to as usize);
        if let Some(few) = header.extents.get(from..).and_then(|rest| rest.first_chunk::<AT_ONCE>()) {
            let begun: usize = few.iter().map(|extent| usize::from(extent.begins_by(page))).sum();
            if begun < AT_ONCE {
                return header.before(from + begun, page);
            }
        }
        header.lookup_among(from..to, page)
    }
}
