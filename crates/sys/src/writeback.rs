//! Writing to stable storage while more is coming.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};

/// Has the kernel begin to write these bytes of a file to its disk, and does not wait for it: a sync that follows has
/// less to do. It promises nothing, and what goes wrong with the writing is for that sync to tell.
///
/// # Errors
/// When the kernel does not begin: the file is not one of a disk, or the range none of a file.
pub fn begin(file: impl AsFd, bytes: Range<u64>) -> io::Result<()> {
    range(file, bytes, libc::SYNC_FILE_RANGE_WRITE)
}

/// Waits until the kernel has written what it began to write of these bytes, and no longer holds memory for it that it
/// cannot give away. It promises as little.
///
/// # Errors
/// When the kernel cannot wait, as above. What went wrong with the writing is still for a sync to tell.
pub fn wait(file: impl AsFd, bytes: Range<u64>) -> io::Result<()> {
    range(file, bytes, libc::SYNC_FILE_RANGE_WAIT_BEFORE)
}

fn range(file: impl AsFd, bytes: Range<u64>, what: libc::c_uint) -> io::Result<()> {
    if bytes.is_empty() {
        // The kernel takes a length of zero for all that follows.
        return Ok(());
    }
    let offset = i64::try_from(bytes.start).map_err(io::Error::other)?;
    let length = i64::try_from(bytes.end - bytes.start).map_err(io::Error::other)?;
    let file = file.as_fd().as_raw_fd();
    // SAFETY: takes numbers only, and the descriptor is open as long as `file` is borrowed.
    match unsafe { libc::sync_file_range(file, offset, length, what) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_written_and_pipes_are_not() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        begin(&file, 0..1 << 20).unwrap();
        begin(&file, 1..1).unwrap();
        wait(&file, 0..1 << 20).unwrap();
        let (_reader, pipe) = io::pipe().unwrap();
        assert!(begin(&pipe, 0..1).is_err());
        assert!(wait(&pipe, 0..1).is_err());
        assert!(begin(&file, u64::MAX - 1..u64::MAX).is_err());
    }
}
