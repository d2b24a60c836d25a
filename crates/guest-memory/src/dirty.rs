//! Which pages may differ from the image that a guest was resumed from.
//!
//! Pages that nobody has touched are not in the memfd at all. Of those that are, the kernel can prove some to be clean:
//! they are in the monitor's page table, still write-protected as the page server has installed them. That a page is
//! *not* in the page table proves nothing, as entries are dropped at any time. And a page that was given away is
//! different although nothing is there. Everything in doubt is a candidate: comparing it costs a little, missing it
//! costs the guest its data.
//!
//! To be asked while the guest stands still and its device state was saved, which may write to memory for the last time.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use build::PAGE_BYTES;
use rustix::fs::{SeekFrom, fstat, seek};
use rustix::io::Errno;

use crate::pagemap::{Pagemap, Which};
use crate::ranges::{normalize, push, subtract};
use crate::region::Region;

/// Pages that may have changed could not be found.
#[derive(Debug, thiserror::Error)]
#[error("finding changed pages: {what}: {source}")]
pub struct ScanError {
    what: &'static str,
    source: io::Error,
}

/// The pages that may have changed, ascending.
///
/// `removed` is what the page server says was given away ([`PageServer::removed`](crate::PageServer::removed)): ask it
/// before. Without a memfd, pages come from the page table alone.
///
/// # Errors
/// When the process does not exist, may not be looked at, or the kernel refuses.
pub fn scan(
    pid: u32,
    regions: &[Region],
    memfd: Option<BorrowedFd<'_>>,
    removed: &[Range<u64>],
) -> Result<Vec<Range<u64>>, ScanError> {
    let failed = |source| ScanError { what: "reading the monitor's page table", source };
    let mut pagemap = Pagemap::open(pid).map_err(failed)?;
    let mut pages = |which| {
        let mut found = Vec::new();
        for region in regions {
            let page = |address: u64| region.first_page() + (address - region.addr) / PAGE_BYTES;
            let addresses = region.addr..region.addr + region.size;
            pagemap
                .scan(addresses, which, |run| found.push(page(run.start)..page(run.end)))
                .map_err(failed)?;
        }
        Ok(normalize(found))
    };
    // Files of huge pages do not tell where their data is.
    let candidates = match memfd {
        Some(memfd) if !regions.iter().any(Region::huge) => populated(memfd)?,
        _ => pages(Which::Populated)?,
    };
    // After that: a page that is prefetched in between is then in neither, or in both.
    let clean = pages(Which::Clean)?;
    let mut changed = subtract(&candidates, &clean);
    changed.extend_from_slice(removed);
    Ok(normalize(changed))
}

/// The pages that a memfd has, ascending: for a guest that was not resumed, all that may be more than zeros.
///
/// # Errors
/// When the kernel refuses.
pub fn populated(memfd: impl AsFd) -> Result<Vec<Range<u64>>, ScanError> {
    let failed = |error: Errno| ScanError { what: "looking for data in the memfd", source: error.into() };
    let size = u64::try_from(fstat(&memfd).map_err(failed)?.st_size).unwrap_or(0);
    // A position of its own: others may use the same open file.
    let memfd = reopen(memfd.as_fd()).map_err(|source| ScanError { what: "opening the memfd", source })?;
    let mut found = Vec::new();
    let mut from = 0;
    while from < size {
        let start = match seek(&memfd, SeekFrom::Data(from)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(failed(error)),
        };
        let end = seek(&memfd, SeekFrom::Hole(start)).map_err(failed)?;
        push(&mut found, start / PAGE_BYTES..end.div_ceil(PAGE_BYTES));
        from = end;
    }
    Ok(found)
}

fn reopen(memfd: BorrowedFd<'_>) -> io::Result<std::fs::File> {
    use std::os::fd::AsRawFd;
    std::fs::File::open(format!("/proc/self/fd/{}", memfd.as_raw_fd()))
}
