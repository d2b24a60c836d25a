//! What nothing can be faster than, for measuring the real thing beside it. Of no other use: it keeps no account of
//! pages, survives no failure and loses pages that were given away.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::time::{Duration, Instant};

use build::PAGE_BYTES;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::handshake::Handshake;
use crate::pagemap::{Pagemap, Which};
use crate::region::Region;
use crate::to_usize;
use crate::uffd::{Filled, Uffd};

/// A fault that does not come by then never will.
const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// The size of `struct uffd_msg`, and where it has the address of a fault.
const MESSAGE_BYTES: usize = 32;
const ADDRESS_AT: usize = 16;

/// Answers so many faults in the first region from an image that is all in memory: wait, read, copy, and nothing else.
///
/// # Errors
/// When the faults do not come, or the kernel refuses.
pub fn answer_faults(handshake: Handshake, image: &[u8], faults: u64) -> io::Result<()> {
    let region = first(&handshake)?;
    let uffd = Uffd::new(handshake.uffd);
    let mut message = [0; MESSAGE_BYTES];
    let mut answered = 0;
    while answered < faults {
        if poll(&mut [PollFd::new(&uffd, PollFlags::IN)], Some(&PATIENCE))? == 0 {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no fault came"));
        }
        match rustix::io::read(&uffd, &mut message) {
            Err(rustix::io::Errno::AGAIN) => continue,
            read => drop(read?),
        }
        let (_, words) = message.split_at(ADDRESS_AT);
        let address = words.first_chunk().map_or(0, |word| u64::from_ne_bytes(*word)) & !(PAGE_BYTES - 1);
        copy(&uffd, &region, image, address - region.addr, PAGE_BYTES)?;
        answered += 1;
    }
    Ok(())
}

/// Fills the first region from an image that is all in memory, one piece after the other, on this thread.
///
/// # Errors
/// When the kernel refuses.
pub fn fill(handshake: Handshake, image: &[u8], piece: u64) -> io::Result<()> {
    let region = first(&handshake)?;
    let uffd = Uffd::new(handshake.uffd);
    let mut done = 0;
    while done < region.size {
        copy(&uffd, &region, image, done, piece.min(region.size - done))?;
        done += piece;
    }
    Ok(())
}

/// How many pages of a region are there and were not written: one walk of the kernel's through the page table.
///
/// # Errors
/// When the kernel refuses.
pub fn clean_pages(pid: u32, region: &Region) -> io::Result<u64> {
    let mut pages = 0;
    Pagemap::open(pid)?.scan(region.addr..region.addr + region.size, Which::Clean, |run| {
        pages += (run.end - run.start) / PAGE_BYTES;
    })?;
    Ok(pages)
}

fn first(handshake: &Handshake) -> io::Result<Region> {
    handshake.regions.first().copied().ok_or_else(|| io::Error::other("no region was handed over"))
}

fn copy(uffd: &Uffd, region: &Region, image: &[u8], at: u64, length: u64) -> io::Result<()> {
    let bytes = image
        .get(to_usize(at)..to_usize(at.saturating_add(length)))
        .ok_or_else(|| io::Error::other("a fault beyond the image"))?;
    match uffd.copy(region.addr + at, bytes, false)? {
        Filled::Bytes(copied) if copied == length => Ok(()),
        other => Err(io::Error::other(format!("a copy of {length} bytes: {other:?}"))),
    }
}

/// Memory that is touched page by page: what a monitor and its guest do, without them.
#[derive(Debug)]
pub struct Touched {
    start: NonNull<u64>,
    pages: u64,
}

impl Touched {
    /// Maps a memfd of so many pages through the C library, where the preloaded library sees it.
    ///
    /// # Errors
    /// When it cannot be mapped.
    #[expect(clippy::needless_pass_by_value, reason = "the mapping is all that is left of the file")]
    pub fn map(memfd: OwnedFd, pages: u64) -> io::Result<Self> {
        let size = rustix::fs::fstat(&memfd)?.st_size;
        if pages == 0 || u64::try_from(size).ok() != pages.checked_mul(PAGE_BYTES) {
            return Err(io::Error::other(format!("a memfd of {size} bytes is not {pages} pages")));
        }
        let length = to_usize(pages * PAGE_BYTES);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, where the kernel likes it.
        let start = unsafe {
            libc::mmap(ptr::null_mut(), length, protection, libc::MAP_SHARED, memfd.as_raw_fd(), 0)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at nothing"))?;
        Ok(Self { start, pages })
    }

    /// The first word of a page, which comes when it is asked for, and how long that took.
    ///
    /// # Panics
    /// When there is no such page.
    #[must_use]
    pub fn read(&self, page: u64) -> (u64, Duration) {
        let address = self.address(page);
        let begun = Instant::now();
        // SAFETY: the page is inside the mapping, which is aligned to pages and lives as long as we do.
        let word = unsafe { address.read_volatile() };
        (word, begun.elapsed())
    }

    /// Writes the first word of a page.
    ///
    /// # Panics
    /// When there is no such page.
    pub fn write(&self, page: u64, word: u64) {
        // SAFETY: the page is inside the mapping, which is aligned to pages and lives as long as we do.
        unsafe { self.address(page).write_volatile(word) };
    }

    fn address(&self, page: u64) -> *mut u64 {
        assert!(page < self.pages, "page {page} of {}", self.pages);
        self.start.as_ptr().wrapping_byte_add(to_usize(page * PAGE_BYTES))
    }
}

impl Drop for Touched {
    fn drop(&mut self) {
        // SAFETY: it is our mapping, and nobody has its addresses after us.
        let unmapped = unsafe { libc::munmap(self.start.as_ptr().cast(), to_usize(self.pages * PAGE_BYTES)) };
        debug_assert_eq!(unmapped, 0);
    }
}
