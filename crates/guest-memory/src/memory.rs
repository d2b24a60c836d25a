//! The memory itself, which is ours.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, ftruncate, memfd_create};

/// An anonymous file that a monitor maps as its guest's memory.
///
/// Whoever holds it can read the memory without asking the monitor, also after the monitor is gone. It can neither grow
/// nor shrink: a page that vanished under somebody's mapping would kill them.
#[derive(Debug)]
pub struct GuestMemory {
    file: OwnedFd,
    size: u64,
}

impl GuestMemory {
    /// Memory of `size` bytes, all zero and not yet taking any.
    ///
    /// # Errors
    /// When the kernel refuses: out of descriptors, or the size is not possible.
    pub fn create(size: u64) -> io::Result<Self> {
        let file = memfd_create("guest-memory", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, size)?;
        fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
        Ok(Self { file, size })
    }

    /// Another handle to the same memory.
    ///
    /// # Errors
    /// When the process has too many descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, size: self.size })
    }

    /// The size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// How many bytes the guest has touched so far, and the host therefore holds.
    ///
    /// # Errors
    /// When the kernel does not tell, which it always does.
    pub fn resident(&self) -> io::Result<u64> {
        Ok(u64::try_from(fstat(&self.file)?.st_blocks).unwrap_or(0) * 512)
    }

    /// The file itself, for a monitor to inherit.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.file
    }
}

impl AsFd for GuestMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_a_fixed_size_and_costs_nothing_until_touched() {
        let memory = GuestMemory::create(64 << 20).unwrap();
        assert_eq!(memory.size(), 64 << 20);
        assert_eq!(memory.resident().unwrap(), 0);
        assert!(ftruncate(&memory, 0).is_err());
        assert!(ftruncate(&memory, 65 << 20).is_err());

        let clone = memory.try_clone().unwrap();
        rustix::io::pwrite(&memory, b"seed", 4096).unwrap();
        let mut read = [0; 4];
        rustix::io::pread(&clone, &mut read, 4096).unwrap();
        assert_eq!(&read, b"seed");
        assert_eq!(clone.resident().unwrap(), 4096);
    }
}
