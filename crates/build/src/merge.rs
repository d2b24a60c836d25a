//! Laying a difference over an image.

use std::ops::Range;

use model::BuildId;

use crate::error::MergeError;
use crate::header::{Header, MAX_EXTENTS, MAX_PAGES, MAX_SOURCES, Packed, Source};
use crate::object::ObjectKind;

/// What differs from the parent. Each list is in ascending order, and no page is in both or twice in one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    /// The pages that the new data object has, in the order in which it has them.
    pub data: Vec<Range<u64>>,
    /// The pages that are zero now, whatever the parent has there.
    pub zero: Vec<Range<u64>>,
}

impl Diff {
    /// How many pages the data object has.
    #[must_use]
    pub fn data_pages(&self) -> u64 {
        self.data.iter().map(|range| range.end.saturating_sub(range.start)).sum()
    }
}

/// A piece of the new image that does not come from the parent.
struct Piece {
    range: Range<u32>,
    /// Where it is in the new data object; `None` for zeros.
    at: Option<u32>,
}

/// The two lists of a [`Diff`] as one, checked.
struct Pieces<'a> {
    diff: &'a Diff,
    pages: u64,
    data: usize,
    zero: usize,
    /// Where the last piece ended.
    end: u64,
    /// Where the next data goes in the new data object.
    at: u64,
}

impl Iterator for Pieces<'_> {
    type Item = Result<Piece, MergeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (data, zero) = (self.diff.data.get(self.data), self.diff.zero.get(self.zero));
        let is_data = match (data, zero) {
            (Some(data), Some(zero)) => data.start < zero.start,
            (data, _) => data.is_some(),
        };
        let range = if is_data { data? } else { zero? };
        if range.start < self.end || range.is_empty() {
            return Some(Err(MergeError::Order(range.clone())));
        }
        let outside = || MergeError::Outside { range: range.clone(), pages: self.pages };
        let narrow = |page: u64| u32::try_from(page).map_err(|_| outside());
        if range.end > self.pages {
            return Some(Err(outside()));
        }
        let piece = narrow(range.start).and_then(|start| {
            // As many pages are stored before this one as lie before it in the image at most: that fits, too.
            Ok(Piece { range: start..narrow(range.end)?, at: is_data.then(|| narrow(self.at)).transpose()? })
        });
        self.end = range.end;
        if is_data {
            self.data += 1;
            self.at += range.end - range.start;
        } else {
            self.zero += 1;
        }
        Some(piece)
    }
}

impl Header {
    /// The header of the image that `parent`, or nothing but zeros, becomes with `diff` laid over it. `sums_crc` is the
    /// checksum of the page checksums in the data object of `build`.
    ///
    /// The image may be larger than its parent: what is added is zero. Pages that follow each other in a source are
    /// joined again, and sources that no page is left of are dropped.
    ///
    /// # Errors
    /// When the difference is out of order or outside, the parent does not fit, or the result exceeds the format's limits.
    pub fn merge(
        parent: Option<&Self>,
        build: BuildId,
        kind: ObjectKind,
        pages: u64,
        diff: &Diff,
        sums_crc: u32,
    ) -> Result<Self, MergeError> {
        if pages > MAX_PAGES {
            return Err(MergeError::Pages(pages));
        }
        if let Some(parent) = parent {
            if parent.kind != kind {
                return Err(MergeError::Kind { kind });
            }
            if parent.pages > pages {
                return Err(MergeError::Shrinks { pages, parent: parent.pages });
            }
            if parent.sources.iter().any(|source| source.build == build) || parent.build == build {
                return Err(MergeError::Same(build));
            }
        }
        let mut old = Old { extents: parent.map_or(&[], |parent| &parent.extents), next: 0 };
        let mut sources = parent.map_or_else(Vec::new, |parent| parent.sources.clone());
        let own = u32::try_from(sources.len()).map_err(|_| MergeError::Sources(sources.len()))?;
        sources.push(Source { build: build.clone(), pages: diff.data_pages(), sums_crc });
        let generation = parent.map_or(0, |parent| parent.generation.saturating_add(1));
        let extents = Vec::with_capacity(old.extents.len() + diff.data.len());
        let mut header = Self { kind, build, pages, generation, sources, extents };

        let mut position = 0;
        for piece in (Pieces { diff, pages, data: 0, zero: 0, end: 0, at: 0 }) {
            let Piece { range, at } = piece?;
            old.keep(position..range.start, &mut header);
            if let Some(at) = at {
                header.push(Packed { first: range.start, pages: range.end - range.start, source: own, at });
            }
            position = range.end;
        }
        old.keep(position..u32::MAX, &mut header);

        header.drop_unused_sources();
        if header.extents.len() > MAX_EXTENTS {
            return Err(MergeError::Extents(header.extents.len()));
        }
        if header.sources.len() > MAX_SOURCES {
            return Err(MergeError::Sources(header.sources.len()));
        }
        Ok(header)
    }

    /// Appends an extent, or makes the last one longer by it.
    pub(crate) fn push(&mut self, extent: Packed) {
        if let Some(last) = self.extents.last_mut()
            && last.source == extent.source
            && last.first + last.pages == extent.first
            && last.at + last.pages == extent.at
        {
            last.pages += extent.pages;
        } else {
            self.extents.push(extent);
        }
    }

    pub(crate) fn drop_unused_sources(&mut self) {
        let mut used = vec![false; self.sources.len()];
        for extent in &self.extents {
            used[extent.source as usize] = true;
        }
        let mut number = 0;
        let numbers: Vec<u32> = used
            .iter()
            .map(|used| {
                let own = number;
                number += u32::from(*used);
                own
            })
            .collect();
        for extent in &mut self.extents {
            extent.source = numbers[extent.source as usize];
        }
        let mut used = used.into_iter();
        self.sources.retain(|_| used.next().unwrap_or(false));
    }
}

/// What is not looked at yet of the parent's extents.
struct Old<'a> {
    extents: &'a [Packed],
    /// The first that may reach into what comes.
    next: usize,
}

impl Old<'_> {
    /// Gives `header` what the parent has in `range`. The ranges come in ascending order.
    fn keep(&mut self, range: Range<u32>, header: &mut Header) {
        while let Some(extent) = self.extents.get(self.next) {
            // An extent ends at the size of its image at most, which fits.
            let end = extent.first.saturating_add(extent.pages);
            let kept = extent.first.max(range.start)..end.min(range.end);
            if !kept.is_empty() {
                header.push(Packed {
                    first: kept.start,
                    pages: kept.end - kept.start,
                    source: extent.source,
                    at: extent.at + (kept.start - extent.first),
                });
            }
            if end > range.end {
                break;
            }
            self.next += 1;
        }
    }
}
