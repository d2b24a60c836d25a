//! Why a page server cannot go on.

use std::io;

use build::ReadError;

/// A page server could not start, or has stopped answering.
#[derive(Debug, thiserror::Error)]
pub enum PageServerError {
    /// The monitor's memory is larger than the image that is to fill it.
    #[error("the monitor's memory ends at page {end}, the image at page {pages}")]
    TooLarge {
        /// The page after the last one that the monitor has.
        end: u64,
        /// The image's size in pages.
        pages: u64,
    },
    /// A page could not be read.
    #[error("reading page {page} for the guest: {source}")]
    Source {
        /// Its number in the image.
        page: u64,
        /// Why.
        source: ReadError,
    },
    /// The monitor waits for an address that it has not announced.
    #[error("a fault at {0:#x}, which is in none of the monitor's regions")]
    UnknownAddress(u64),
    /// The kernel has news that nobody asked for: the monitor's memory was moved or copied.
    #[error("userfaultfd event {0:#x}, which was not asked for")]
    UnknownEvent(u8),
    /// The kernel refused.
    #[error("{what}: {source}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A bug.
    #[error("the page server panicked: {0}")]
    Panicked(String),
}
