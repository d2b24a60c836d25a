//! Reading a guest's memory from outside.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use build::PAGE_BYTES;
use rustix::fs::fstat;
use rustix::io::{Errno, pread};

use crate::region::Region;
use crate::to_usize;

/// Where a guest's memory can be read.
pub trait MemoryReader: Sync {
    /// The size of the memory in pages.
    fn pages(&self) -> u64;

    /// Fills `buffer`, a whole number of pages, from the page `first` on.
    ///
    /// # Errors
    /// When not all of it is there.
    fn read(&self, first: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// Reads the memfd itself, whether or not its monitor still exists. What was never touched is zero.
#[derive(Debug)]
pub struct MemfdReader<'a> {
    memfd: BorrowedFd<'a>,
    pages: u64,
}

impl<'a> MemfdReader<'a> {
    /// Reads `memfd`.
    ///
    /// # Errors
    /// When the kernel does not tell its size.
    pub fn new(memfd: &'a impl AsFd) -> io::Result<Self> {
        let memfd = memfd.as_fd();
        Ok(Self { memfd, pages: u64::try_from(fstat(memfd)?.st_size).unwrap_or(0) / PAGE_BYTES })
    }
}

impl MemoryReader for MemfdReader<'_> {
    fn pages(&self) -> u64 {
        self.pages
    }

    fn read(&self, first: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            match pread(self.memfd, &mut buffer[done..], first * PAGE_BYTES + done as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => done += read,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Reads the memory of a monitor that has no memfd, while it exists and its page server runs.
#[derive(Debug)]
pub struct ProcessReader {
    pid: libc::pid_t,
    regions: Vec<Region>,
}

impl ProcessReader {
    /// Reads the regions of the process `pid`.
    ///
    /// # Errors
    /// When that is no number of a process.
    pub fn new(pid: u32, regions: &[Region]) -> io::Result<Self> {
        let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
        Ok(Self { pid, regions: regions.to_vec() })
    }

    /// Reads once from an address of the process. The number of bytes.
    fn read_once(&self, address: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let ours = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let theirs = libc::iovec {
            iov_base: std::ptr::without_provenance_mut(to_usize(address)),
            iov_len: buffer.len(),
        };
        // SAFETY: the kernel writes to `ours` only, which is the buffer; an address that the other process does not
        // have is an error.
        let read = unsafe { libc::process_vm_readv(self.pid, &raw const ours, 1, &raw const theirs, 1, 0) };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }
}

impl MemoryReader for ProcessReader {
    fn pages(&self) -> u64 {
        self.regions.iter().map(|region| region.first_page() + region.pages()).max().unwrap_or(0)
    }

    fn read(&self, first: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut page = first;
        let mut rest = buffer;
        while !rest.is_empty() {
            let found = self.regions.iter().find_map(|region| {
                let address = region.addr_of(page)?;
                Some((address, region.addr + region.size - address))
            });
            let (mut address, here) = found.ok_or(io::ErrorKind::UnexpectedEof)?;
            let length = rest.len().min(to_usize(here));
            let (mut part, after) = rest.split_at_mut(length);
            while !part.is_empty() {
                match self.read_once(address, part) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(read) => {
                        address += read as u64;
                        part = &mut part[read..];
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            page += length as u64 / PAGE_BYTES;
            rest = after;
        }
        Ok(())
    }
}
