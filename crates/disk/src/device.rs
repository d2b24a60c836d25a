//! What the NBD server needs of a disk.

use std::io;

/// A disk of a fixed size that any number of threads may use at once.
///
/// Offsets and lengths are in bytes and need no alignment. Every function fails with [`io::ErrorKind::InvalidInput`], and
/// does nothing, when its range does not lie inside the device.
pub trait BlockDevice: Send + Sync {
    /// The size in bytes.
    fn size(&self) -> u64;

    /// Fills `buffer` with what is at `offset`.
    ///
    /// # Errors
    /// When the range is outside, or the storage fails.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Stores `data` at `offset`. It is on stable storage after the next [`BlockDevice::flush`], not before.
    ///
    /// # Errors
    /// When the range is outside, or the storage fails or is full; any part of the range may have been written then.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Makes the range read as zeros.
    ///
    /// # Errors
    /// As for [`BlockDevice::write_at`].
    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()>;

    /// Says that the contents of the range are no longer needed. They are unspecified afterwards.
    ///
    /// # Errors
    /// As for [`BlockDevice::write_at`].
    fn trim(&self, offset: u64, length: u64) -> io::Result<()>;

    /// Returns when everything written before this call is on stable storage.
    ///
    /// # Errors
    /// When the storage fails. What was written since the last successful flush may be lost then.
    fn flush(&self) -> io::Result<()>;
}

/// Fails unless `length` bytes at `offset` lie inside a device of `size` bytes.
pub(crate) fn check_range(size: u64, offset: u64, length: u64) -> io::Result<()> {
    match offset.checked_add(length) {
        Some(end) if end <= size => Ok(()),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{length} bytes at offset {offset} are outside a disk of {size} bytes"),
        )),
    }
}
