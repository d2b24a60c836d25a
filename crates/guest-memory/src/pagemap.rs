//! What the kernel knows about a process's pages: `/proc/PID/pagemap`.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use build::PAGE_BYTES;
use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};

/// `PAGEMAP_SCAN`, Linux 6.7.
const PAGEMAP_SCAN: Opcode = opcode::read_write::<Scan>(b'f', 16);

/// `PAGE_IS_WPALLOWED`: writes are tracked asynchronously.
const TRACKED: u64 = 1 << 0;
/// `PAGE_IS_WRITTEN`: not write-protected, whether or not it is tracked.
const WRITTEN: u64 = 1 << 1;
/// `PAGE_IS_PRESENT`.
const PRESENT: u64 = 1 << 3;
/// `PAGE_IS_SWAPPED`.
const SWAPPED: u64 = 1 << 4;

/// How many runs of pages the kernel tells at once: 48 KiB.
const RUNS: usize = 2048;

/// `struct pm_scan_arg`.
#[repr(C)]
#[derive(Default)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region`.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct Run {
    start: u64,
    end: u64,
    categories: u64,
}

/// The request, which returns the number of runs.
struct Call<'a>(&'a mut Scan);

// SAFETY: the opcode is for this structure, which lives as long as the call, and the output is the plain result.
unsafe impl Ioctl for Call<'_> {
    type Output = usize;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        PAGEMAP_SCAN
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        std::ptr::from_mut(self.0).cast()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut std::ffi::c_void) -> rustix::io::Result<usize> {
        Ok(usize::try_from(output).unwrap_or(0))
    }
}

/// Which pages to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// Those that are there and were not written since they were installed write-protected.
    Clean,
    /// Those that have a content, in memory or in swap.
    Populated,
}

/// A process's page table, as the kernel shows it.
#[derive(Debug)]
pub(crate) struct Pagemap {
    file: File,
    runs: Vec<Run>,
}

impl Pagemap {
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        Ok(Self { file: File::open(format!("/proc/{pid}/pagemap"))?, runs: vec![Run::default(); RUNS] })
    }

    /// Calls `found` with runs of addresses, ascending, whose pages are such. Where the kernel cannot tell, no page is
    /// clean, and populated ones are found in a slower way.
    pub(crate) fn scan(
        &mut self,
        addresses: Range<u64>,
        which: Which,
        mut found: impl FnMut(Range<u64>),
    ) -> io::Result<()> {
        match self.scan_runs(addresses.clone(), which, &mut found) {
            Err(Errno::NOTTY) if which == Which::Clean => Ok(()),
            Err(Errno::NOTTY) => self.read_entries(addresses, found),
            result => Ok(result?),
        }
    }

    fn scan_runs(
        &mut self,
        addresses: Range<u64>,
        which: Which,
        found: &mut impl FnMut(Range<u64>),
    ) -> rustix::io::Result<()> {
        let mut start = addresses.start;
        while start < addresses.end {
            let mut request = Scan {
                size: size_of::<Scan>() as u64,
                start,
                end: addresses.end,
                vec: self.runs.as_mut_ptr().addr() as u64,
                vec_len: self.runs.len() as u64,
                ..Scan::default()
            };
            match which {
                Which::Clean => {
                    request.category_inverted = WRITTEN;
                    request.category_mask = TRACKED | PRESENT | WRITTEN;
                    request.return_mask = PRESENT;
                }
                Which::Populated => {
                    request.category_anyof_mask = PRESENT | SWAPPED;
                    request.return_mask = PRESENT | SWAPPED;
                }
            }
            // SAFETY: the request takes this structure and writes at most `vec_len` runs to `vec`, which is that long
            // and used by nobody else during the call. Without flags it changes nothing.
            let count = unsafe { ioctl(&self.file, Call(&mut request)) }?;
            for run in self.runs.iter().take(count) {
                found(run.start..run.end);
            }
            // As far as it got; the same place twice would be for ever.
            if request.walk_end <= start {
                return Err(Errno::IO);
            }
            start = request.walk_end;
        }
        Ok(())
    }

    /// One entry of 64 bits for each page.
    fn read_entries(&self, addresses: Range<u64>, mut found: impl FnMut(Range<u64>)) -> io::Result<()> {
        const POPULATED: u64 = 0b11 << 62;
        let mut buffer = vec![0; RUNS * 8];
        let mut page = addresses.start / PAGE_BYTES;
        let end = addresses.end / PAGE_BYTES;
        while page < end {
            let entries = usize::try_from(end - page).unwrap_or(RUNS).min(RUNS);
            self.file.read_exact_at(&mut buffer[..entries * 8], page * 8)?;
            let (words, _) = buffer[..entries * 8].as_chunks::<8>();
            for word in words {
                if u64::from_ne_bytes(*word) & POPULATED != 0 {
                    found(page * PAGE_BYTES..(page + 1) * PAGE_BYTES);
                }
                page += 1;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_kernels_number() {
        assert_eq!(PAGEMAP_SCAN, 0xc060_6610);
    }

    #[test]
    fn both_ways_find_what_is_populated() {
        let mut pagemap = Pagemap::open(std::process::id()).unwrap();
        let memory = vec![1_u8; 1 << 20];
        let start = (memory.as_ptr().addr() as u64).next_multiple_of(PAGE_BYTES);
        let range = start..start + 100 * PAGE_BYTES;
        let (mut fast, mut slow, mut clean) = (0, 0, 0);
        let length = |range: Range<u64>| range.end - range.start;
        pagemap.scan(range.clone(), Which::Populated, |run| fast += length(run)).unwrap();
        pagemap.read_entries(range.clone(), |run| slow += length(run)).unwrap();
        pagemap.scan(range, Which::Clean, |run| clean += length(run)).unwrap();
        assert_eq!((fast, slow, clean), (100 * PAGE_BYTES, 100 * PAGE_BYTES, 0));
        drop(memory);
    }
}
