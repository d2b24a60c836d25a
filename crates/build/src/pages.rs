//! What memory and disk have in common: an image is a row of pages, some of which are zero.

use std::io;

/// The unit of everything that a build stores, in bytes.
pub const PAGE_BYTES: u64 = 4096;

/// What an image has from one page on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// So many pages, at least one, that are all zero and stored nowhere.
    Zero(u64),
    /// So many pages, at least one, whose content has to be read.
    Data(u64),
}

/// Pages could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// They are not inside the image.
    #[error("pages {first} to {end} are outside an image of {pages} pages")]
    Outside {
        /// The first page asked for.
        first: u64,
        /// The page after the last one asked for.
        end: u64,
        /// What the image has.
        pages: u64,
    },
    /// The storage failed.
    #[error("{object}: reading at byte {offset}: {source}")]
    Io {
        /// Which object of which build.
        object: String,
        /// Where in it.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// What was stored is not what was written.
    #[error(
        "{object}: the page at byte {offset} is damaged: its checksum is {found:08x}, expected {expected:08x}"
    )]
    Damaged {
        /// Which object of which build.
        object: String,
        /// Where in it.
        offset: u64,
        /// The checksum of what was read.
        found: u32,
        /// The checksum of what was written.
        expected: u32,
    },
}

/// An image that can be read. Any number of threads may read at once. What was lost is an error, never zeros.
pub trait Pages: Send + Sync {
    /// The size in pages.
    fn pages(&self) -> u64;

    /// What is there from `page` on, as far as it is all of one kind and, for data, can be read at once. `Zero(1)`
    /// outside of the image.
    fn run(&self, page: u64) -> Run;

    /// The checksum of a page that has data, where it is known without reading the page.
    fn sum(&self, page: u64) -> Option<u32> {
        let _ = page;
        None
    }

    /// Fills `buffer`, a whole number of pages, from the page `first` on; zero pages too.
    ///
    /// # Errors
    /// When the range is outside, the storage fails, or a checksum does not hold. The buffer's content means nothing then.
    fn read(&self, first: u64, buffer: &mut [u8]) -> Result<(), ReadError>;
}

/// Takes the pages that a snapshot stores, in ascending order.
pub trait PageSink {
    /// Takes `bytes`, a whole number of pages, none of them all zero, which begin at page `first` of the image.
    ///
    /// # Errors
    /// When they cannot be stored.
    fn data(&mut self, first: u64, bytes: &[u8]) -> io::Result<()>;

    /// As [`PageSink::data`], from a caller who knows the checksum of each page.
    ///
    /// # Errors
    /// When they cannot be stored.
    fn summed(&mut self, first: u64, bytes: &[u8], sums: &[u32]) -> io::Result<()> {
        let _ = sums;
        self.data(first, bytes)
    }

    /// Takes note that `pages` pages from `first` on are zero, whatever the parent has there.
    ///
    /// # Errors
    /// When that cannot be stored.
    fn zero(&mut self, first: u64, pages: u64) -> io::Result<()>;
}
