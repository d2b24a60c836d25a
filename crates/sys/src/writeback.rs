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
    let offset = i64::try_from(bytes.start).map_err(io::Error::other)?;
    let length = i64::try_from(bytes.end - bytes.start).map_err(io::Error::other)?;
    let file = file.as_fd().as_raw_fd();
    // SAFETY: takes numbers only, and the descriptor is open as long as `file` is borrowed.
    match unsafe { libc::sync_file_range(file, offset, length, libc::SYNC_FILE_RANGE_WRITE) } {
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
        begin(&file, 0..0).unwrap();
        let (_reader, pipe) = io::pipe().unwrap();
        assert!(begin(&pipe, 0..1).is_err());
        assert!(begin(&file, u64::MAX..u64::MAX).is_err());
    }
}
