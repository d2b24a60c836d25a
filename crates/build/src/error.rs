//! What can be wrong with a build's bytes.

use std::ops::Range;

use model::BuildId;

use crate::ObjectKind;
use crate::header::{MAX_EXTENTS, MAX_PAGES, MAX_SOURCES};

/// Bytes are not what they should be. Whoever read them adds which object they are of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// They end too early.
    #[error("it ends at byte {offset}, expected {expected} there")]
    Short {
        /// Where they end.
        offset: usize,
        /// What should be there.
        expected: &'static str,
    },
    /// A value that cannot be.
    #[error("at byte {offset}: {found}, expected {expected}")]
    Unexpected {
        /// Where it is.
        offset: usize,
        /// What is there.
        found: String,
        /// What should be there.
        expected: String,
    },
    /// It was written by a later version of this program.
    #[error("it has format {found}, and this program reads formats up to {newest}: use a newer one")]
    Newer {
        /// The format of the bytes.
        found: u32,
        /// The last format that is known here.
        newest: u32,
    },
    /// They changed since they were written.
    #[error("it is damaged: the checksum of bytes 0 to {end} is {found:08x}, expected {expected:08x}")]
    Checksum {
        /// The byte after the last one that the checksum is about.
        end: usize,
        /// The checksum of what was read.
        found: u32,
        /// The checksum of what was written.
        expected: u32,
    },
    /// It is no such JSON; the words are the parser's, with line and column.
    #[error("not the manifest that was expected: {0}")]
    Json(String),
    /// Larger than anything that this program writes.
    #[error("{found} {what}, expected at most {limit}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        found: usize,
        /// The limit.
        limit: usize,
    },
}

/// A difference does not fit to what it is laid over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// Its ranges are not in ascending order, overlap, or are empty.
    #[error("pages {0:?} do not follow the ones before in ascending order")]
    Order(Range<u64>),
    /// A range ends after the image.
    #[error("pages {range:?} are outside an image of {pages} pages")]
    Outside {
        /// The range.
        range: Range<u64>,
        /// What the image has.
        pages: u64,
    },
    /// The parent is an image of something else.
    #[error("a {kind} image cannot continue one of another kind")]
    Kind {
        /// What is being made.
        kind: ObjectKind,
    },
    /// The parent is larger.
    #[error("an image of {pages} pages cannot continue one of {parent} pages")]
    Shrinks {
        /// What the new image has.
        pages: u64,
        /// What the parent has.
        parent: u64,
    },
    /// The parent already has pages of a build of this name.
    #[error("build {0} cannot continue an image that has pages of it already")]
    Same(BuildId),
    /// The image is larger than the format can say.
    #[error("an image of {0} pages is not possible: at most {MAX_PAGES} are")]
    Pages(u64),
    /// The image is in more pieces than any reader takes.
    #[error("an image in {0} pieces is not possible: at most {MAX_EXTENTS} are")]
    Extents(usize),
    /// The image has pages of more builds than any reader takes.
    #[error("an image from {0} builds is not possible: at most {MAX_SOURCES} are")]
    Sources(usize),
}
