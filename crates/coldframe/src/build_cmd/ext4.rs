//! The file system on the disk of a build, read without mounting it: it is the work of a guest.

use std::error::Error;

use artifacts::Image;
use build::{PAGE_BYTES, Pages};
use ext4_view::{Ext4, Ext4Read};

/// An image as bytes. Keeps the page that was read last: what reads a file system asks for small parts.
struct Bytes {
    image: Image,
    page: Option<u64>,
    buffer: Vec<u8>,
}

/// Opens the file system on the disk of a build.
pub(super) fn open(image: Image) -> Result<Ext4, String> {
    let build = image.header().build().clone();
    let bytes = Bytes { image, page: None, buffer: vec![0; usize::try_from(PAGE_BYTES).unwrap_or_default()] };
    Ext4::load(Box::new(bytes)).map_err(|error| format!("the file system of build {build}: {error}"))
}

impl Ext4Read for Bytes {
    fn read(&mut self, start: u64, mut wanted: &mut [u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        let mut at = start;
        while !wanted.is_empty() {
            let (page, within) = (at / PAGE_BYTES, usize::try_from(at % PAGE_BYTES)?);
            if self.page != Some(page) {
                self.page = None;
                self.image.read(page, &mut self.buffer)?;
                self.page = Some(page);
            }
            let part = &self.buffer[within..];
            let count = part.len().min(wanted.len());
            wanted[..count].copy_from_slice(&part[..count]);
            wanted = &mut wanted[count..];
            at += count as u64;
        }
        Ok(())
    }
}
