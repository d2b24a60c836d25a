//! The on-disk format of a build.
//!
//! A build is what a sandbox starts from or was paused into: a directory of objects ([`ObjectName`]) that never change
//! once they are published. Its memory and its disk are images, rows of pages of [`PAGE_BYTES`]. An image is a
//! [`Header`], which says for every page which build's data object has it, and that build's own data object:
//!
//! | object | content |
//! |---|---|
//! | `*.header` | a [`Header`], see [`Header::encode`] for its bytes |
//! | `*.data` | the pages that the build stores, then one little-endian `u32` per page: its [`checksum`] |
//! | `manifest.json` | a [`Manifest`] |
//!
//! A header is complete. Reading an image needs no other header, only the data objects of its sources, so an image at
//! the end of a long row of pauses is opened like the first one. A page that no extent covers is zero and costs nothing.
//!
//! Nothing here does I/O, and nothing here panics on bytes from a disk.
#![forbid(unsafe_code)]

mod codec;
mod error;
mod fold;
mod header;
mod index;
mod manifest;
mod merge;
mod object;
mod pages;

pub use error::{FormatError, MergeError};
pub use header::{Extent, Header, Located, MAX_EXTENTS, MAX_HEADER_BYTES, MAX_PAGES, MAX_SOURCES, Source};
pub use index::Index;
pub use manifest::{
    BlobInfo, BootFiles, MAX_MANIFEST_BYTES, MAX_WORKING_SET, Manifest, ObjectInfo, VmmIdentity,
};
pub use merge::Diff;
pub use object::{ObjectKind, ObjectName};
pub use pages::{PAGE_BYTES, PageSink, Pages, ReadError, Run};

/// What one page's checksum takes at the end of a data object, in bytes.
pub const SUM_BYTES: u64 = 4;

/// The checksum of everything in a build: CRC-32C.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// The length in bytes of a data object with so many pages: the pages and their checksums.
#[must_use]
pub const fn data_object_bytes(pages: u64) -> u64 {
    pages.saturating_mul(PAGE_BYTES + SUM_BYTES)
}

const ZEROS: [u8; 4096] = [0; 4096];

/// Whether a page, or a part of one, is all zero. More than a page is compared page by page.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    // Comparing with zeros is a call of `memcmp`, which is several times faster than looking at each byte.
    bytes.chunks(ZEROS.len()).all(|part| part == &ZEROS[..part.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_all_zero() {
        let mut bytes = vec![0; 3 * 4096 + 5];
        assert!(is_zero(&bytes) && is_zero(&[]));
        for at in [0, 4095, 4096, 3 * 4096 + 4] {
            bytes[at] = 1;
            assert!(!is_zero(&bytes), "{at}");
            bytes[at] = 0;
        }
    }

    #[test]
    fn the_checksum_is_the_one_of_rfc_3720() {
        assert_eq!(checksum(b"123456789"), 0xe306_9283);
        assert_eq!(checksum(&[0; 32]), 0x8a91_36aa);
    }
}
