//! Filling pages, and what they are filled with.

use std::io;
use std::sync::atomic::Ordering;

use build::{PAGE_BYTES, Run};

use super::PageServerError;
use super::shared::Shared;
use crate::to_usize;
use crate::uffd::Filled;

impl Shared {
    /// Fills pages from an address on. With `protect`, a first write to them will count as a change, if the monitor has
    /// registered its memory for that.
    pub(super) fn fill(&self, address: u64, bytes: &[u8], protect: bool) -> io::Result<Filled> {
        if protect && self.protect.load(Ordering::Relaxed) {
            match self.uffd.copy(address, bytes, true) {
                // The only way to find out.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    self.protect.store(false, Ordering::Relaxed);
                }
                result => return result,
            }
        }
        self.uffd.copy(address, bytes, false)
    }

    /// Reads the image from page `first` on, zeros included. Whether there was anything but zeros.
    pub(super) fn load(&self, first: u64, buffer: &mut [u8]) -> Result<bool, PageServerError> {
        let mut page = first;
        let mut rest = buffer;
        let mut data = false;
        while !rest.is_empty() {
            let (run, zero) = match self.source.run(page) {
                Run::Zero(pages) => (pages, true),
                Run::Data(pages) => (pages, false),
            };
            let pages = run.clamp(1, rest.len() as u64 / PAGE_BYTES);
            let (part, after) = rest.split_at_mut(to_usize(pages * PAGE_BYTES));
            if zero {
                part.fill(0);
            } else {
                self.source.read(page, part).map_err(|source| PageServerError::Source { page, source })?;
                data = true;
            }
            page += pages;
            rest = after;
        }
        Ok(data)
    }
}
