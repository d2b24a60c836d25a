//! Memory that is there, and not only promised.

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use build::PAGE_BYTES;
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::to_usize;

/// Room for pages: private memory that needs no fault to be written to. Its faults would take longer than what is
/// written. In small pages: a host that has run for a while has to move others to make huge ones, which takes five times
/// as long.
#[derive(Debug)]
pub struct Room {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: it owns its memory, which no other value points to.
unsafe impl Send for Room {}
// SAFETY: shared references only read.
unsafe impl Sync for Room {}

impl Room {
    /// For so many pages.
    ///
    /// # Errors
    /// When the host has no memory for it.
    pub fn new(pages: u64) -> io::Result<Self> {
        let length = to_usize(pages * PAGE_BYTES);
        if length == 0 {
            return Ok(Self { start: NonNull::dangling(), length });
        }
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses a place where nothing is.
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), length, protection, MapFlags::PRIVATE) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let room = Self { start, length };
        // SAFETY: the range is the mapping, and the advice does not change what is in it.
        let brought = unsafe { madvise(room.start.as_ptr().cast(), length, Advice::LinuxPopulateWrite) };
        match brought {
            // A kernel from before 5.14 brings each page when it is written to: slower.
            Ok(()) | Err(Errno::INVAL) => Ok(room),
            Err(error) => Err(error.into()),
        }
    }
}

impl Deref for Room {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is readable, initialised by the kernel and lives as long as this value; where it is empty the
        // pointer is only not null, which is all that an empty slice needs.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl DerefMut for Room {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; and this is the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.length > 0 {
            // SAFETY: the mapping is ours, and nobody has a reference into it any more.
            let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
        }
    }
}
