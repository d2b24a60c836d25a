//! Where the pages of an image are.

use std::ops::Range;

use model::BuildId;

use crate::ObjectKind;

/// The largest image in pages, 16 TiB: a page number fits 32 bits, which halves the size of a header.
pub const MAX_PAGES: u64 = u32::MAX as u64;
/// The most pieces of an image: it bounds a header, in memory and as an object, at 256 MiB. An image of 64 GiB cannot
/// have more, whatever was written to it.
pub const MAX_EXTENTS: usize = 16 << 20;
/// The most builds that an image has pages of. Each is an open file while the image is, and 1,024 are allowed to a
/// process by default. Writers stay far below, see [`Header::fold`].
pub const MAX_SOURCES: usize = 768;

/// No header is longer, in bytes: 16 for each extent, at most 77 for each source, and what is before them.
pub const MAX_HEADER_BYTES: u64 = (MAX_EXTENTS * 16 + MAX_SOURCES * 77 + 1024) as u64;

/// A build that an image has pages of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The build whose data object has them.
    pub build: BuildId,
    /// How many pages the whole data object has, used or not.
    pub pages: u64,
    /// The checksum of the page checksums at the end of the data object: it says that it is the right object.
    pub sums_crc: u32,
}

/// Pages that follow each other both in the image and in a data object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The first page in the image.
    pub first: u64,
    /// How many there are; at least one.
    pub pages: u64,
    /// Which of [`Header::sources`] has them.
    pub source: usize,
    /// The first page in the data object.
    pub at: u64,
}

/// An [`Extent`] as it is kept: there may be millions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packed {
    pub(crate) first: u32,
    pub(crate) pages: u32,
    pub(crate) source: u32,
    pub(crate) at: u32,
}

impl Packed {
    /// Whether it begins at a page or before it.
    pub(crate) fn begins_by(self, page: u64) -> bool {
        u64::from(self.first) <= page
    }

    /// The page after the last one, in the image.
    pub(crate) fn end(self) -> u64 {
        u64::from(self.first) + u64::from(self.pages)
    }
}

/// Where a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Located {
    /// Nowhere: it and those after it are zero.
    Zero {
        /// How many pages are, to the next one that is stored or to the end of the image.
        pages: u64,
    },
    /// In a data object, and those after it follow it there.
    Data {
        /// Which of [`Header::sources`] has it.
        source: usize,
        /// Which page of the data object it is.
        at: u64,
        /// How many pages follow each other, with this one.
        pages: u64,
    },
}

/// Says for every page of an image where it is. It is complete: nothing is looked up in the headers of its sources.
///
/// Made by [`Header::merge`] and [`Header::decode`] only, so its extents are in ascending order and inside both the image
/// and their sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub(crate) kind: ObjectKind,
    pub(crate) build: BuildId,
    pub(crate) pages: u64,
    pub(crate) generation: u32,
    pub(crate) sources: Vec<Source>,
    pub(crate) extents: Vec<Packed>,
}

impl Header {
    /// Of what this is the image.
    #[must_use]
    pub fn kind(&self) -> ObjectKind {
        self.kind
    }

    /// The build that it belongs to.
    #[must_use]
    pub fn build(&self) -> &BuildId {
        &self.build
    }

    /// The size of the image in pages.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// How many images it was laid over, one after the other: 0 for one without a parent.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The builds whose data objects are needed to read the image. Its own is among them only if it is needed.
    #[must_use]
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// The pieces of the image in ascending order. What is between them is zero.
    pub fn extents(&self) -> impl ExactSizeIterator<Item = Extent> + '_ {
        self.extents.iter().map(|extent| Extent {
            first: extent.first.into(),
            pages: extent.pages.into(),
            source: extent.source as usize,
            at: extent.at.into(),
        })
    }

    /// How many pages of the image are stored in some build; the others are zero.
    #[must_use]
    pub fn stored_pages(&self) -> u64 {
        self.extents.iter().map(|extent| u64::from(extent.pages)).sum()
    }

    /// How many pages the image needs of each of its sources.
    #[must_use]
    pub fn used_pages(&self) -> Vec<u64> {
        let mut used = vec![0; self.sources.len()];
        for extent in &self.extents {
            used[extent.source as usize] += u64::from(extent.pages);
        }
        used
    }

    /// Where `page` is. Outside of the image there is one zero page at a time.
    #[must_use]
    pub fn lookup(&self, page: u64) -> Located {
        self.lookup_among(0..self.extents.len(), page)
    }

    /// The same for a page that lies behind all extents before those, and before all extents after them.
    pub(crate) fn lookup_among(&self, extents: Range<usize>, page: u64) -> Located {
        let among = self.extents.get(extents.clone()).unwrap_or_default();
        self.before(extents.start + among.partition_point(|extent| extent.begins_by(page)), page)
    }

    /// The same for a page before which `next` extents begin.
    pub(crate) fn before(&self, next: usize, page: u64) -> Located {
        if page >= self.pages {
            return Located::Zero { pages: 1 };
        }
        if let Some(extent) = next.checked_sub(1).and_then(|index| self.extents.get(index))
            && page < extent.end()
        {
            return Located::Data {
                source: extent.source as usize,
                at: u64::from(extent.at) + (page - u64::from(extent.first)),
                pages: extent.end() - page,
            };
        }
        let end = self.extents.get(next).map_or(self.pages, |extent| extent.first.into());
        Located::Zero { pages: end - page }
    }
}
