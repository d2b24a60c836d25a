//! A disk that is served before it is known what is on it.

use std::io;
use std::sync::{Arc, OnceLock};

use crate::device::{BlockDevice, check_range};

/// A disk of a fixed size whose content comes later. Until then it reads as zeros and cannot be written: a VMM looks at
/// the first block of a disk when it starts, for a partition table, and at nothing else.
pub struct Late {
    size: u64,
    device: OnceLock<Arc<dyn BlockDevice>>,
}

impl Late {
    /// A disk of `size` bytes.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self { size, device: OnceLock::new() }
    }

    /// Says what is on it.
    ///
    /// # Errors
    /// When that was said before, or the size is another.
    pub fn bind(&self, device: Arc<dyn BlockDevice>) -> io::Result<()> {
        if device.size() != self.size {
            return Err(io::Error::other(format!(
                "a disk of {} bytes, expected {}",
                device.size(),
                self.size
            )));
        }
        self.device.set(device).map_err(|_| io::Error::other("the disk has its content already"))
    }

    fn bound(&self) -> io::Result<&dyn BlockDevice> {
        let early = || io::Error::new(io::ErrorKind::NotConnected, "the disk has no content yet");
        self.device.get().map(|device| &**device).ok_or_else(early)
    }
}

impl std::fmt::Debug for Late {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Late").field("size", &self.size).field("bound", &self.device.get().is_some()).finish()
    }
}

impl BlockDevice for Late {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self.device.get() {
            Some(device) => device.read_at(buffer, offset),
            None => {
                check_range(self.size, offset, buffer.len() as u64)?;
                buffer.fill(0);
                Ok(())
            }
        }
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.bound()?.write_at(data, offset)
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.bound()?.write_zeroes(offset, length)
    }

    fn trim(&self, offset: u64, length: u64) -> io::Result<()> {
        self.bound()?.trim(offset, length)
    }

    fn flush(&self) -> io::Result<()> {
        self.device.get().map_or(Ok(()), |device| device.flush())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Overlay, RawImage};

    fn overlay(size: u64) -> Arc<Overlay> {
        let image = RawImage::from_file(tempfile::tempfile().unwrap()).unwrap();
        Arc::new(Overlay::from_file(Arc::new(image), tempfile::tempfile().unwrap(), size).unwrap())
    }

    #[test]
    fn is_zero_and_read_only_until_it_is_bound_once() {
        let late = Late::new(8192);
        let mut read = [7; 512];
        late.read_at(&mut read, 0).unwrap();
        assert_eq!(read, [0; 512]);
        assert!(late.read_at(&mut read, 8192).is_err());
        assert!(late.write_at(b"x", 0).is_err() && late.flush().is_ok());
        assert!(late.bind(overlay(4096)).is_err());
        late.bind(overlay(8192)).unwrap();
        late.write_at(b"x", 0).unwrap();
        late.read_at(&mut read, 0).unwrap();
        assert_eq!(read[0], b'x');
        assert!(late.bind(overlay(8192)).is_err());
    }
}
