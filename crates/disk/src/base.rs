//! The template's image: shared, never written.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// How many stretches of data are remembered. An image in more pieces than this is legal; past the limit everything
/// counts as data, which is slower and not wrong.
const MAX_EXTENTS: usize = 64 * 1024;

/// A raw image and the map of its holes.
///
/// The map is taken once. Reading a hole through the file would be correct too, but it fills the page cache with zeros
/// that no other sandbox needs.
#[derive(Debug)]
pub(crate) struct Base {
    file: File,
    size: u64,
    /// Where the data is: ascending, not overlapping.
    data: Vec<Range<u64>>,
}

impl Base {
    pub(crate) fn new(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        let data = data_ranges(&file, size)?;
        Ok(Self { file, size, data })
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Fills `buffer` from `offset`; past the end of the image there are zeros.
    pub(crate) fn read_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        let mut next = self.data.partition_point(|range| range.end <= offset);
        while !buffer.is_empty() {
            let end = offset + buffer.len() as u64;
            let (stop, is_data) = match self.data.get(next) {
                Some(range) if range.start <= offset => {
                    next += 1;
                    (range.end.min(end), true)
                }
                Some(range) => (range.start.min(end), false),
                None => (end, false),
            };
            let length = usize::try_from(stop - offset).map_err(io::Error::other)?;
            let (part, rest) = buffer.split_at_mut(length);
            if is_data {
                self.file.read_exact_at(part, offset)?;
            } else {
                part.fill(0);
            }
            buffer = rest;
            offset = stop;
        }
        Ok(())
    }
}

fn data_ranges(file: &File, size: u64) -> io::Result<Vec<Range<u64>>> {
    let mut ranges = Vec::new();
    let mut position = 0;
    while position < size {
        if ranges.len() == MAX_EXTENTS {
            ranges.push(position..size);
            break;
        }
        let start = match seek(file, SeekFrom::Data(position)) {
            Ok(start) => start,
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => break,
            // A file system without holes: all is data.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => position,
            Err(error) => return Err(error.into()),
        };
        let end = match seek(file, SeekFrom::Hole(start)) {
            Ok(end) => end.min(size),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => size,
            Err(error) => return Err(error.into()),
        };
        if start >= end {
            break;
        }
        ranges.push(start..end);
        position = end;
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_and_the_tail_read_as_zeros() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 4096], 1 << 20).unwrap();
        file.write_all_at(&[2; 100], 3 << 20).unwrap();
        file.set_len(4 << 20).unwrap();
        let base = Base::new(file).unwrap();
        assert!(base.data.len() <= 2, "{:?}", base.data);

        let mut read = vec![9; 5 << 20];
        base.read_at(&mut read, 0).unwrap();
        let mut expected = vec![0; 5 << 20];
        expected[1 << 20..][..4096].fill(1);
        expected[3 << 20..][..100].fill(2);
        assert!(read == expected);

        let mut across = [9; 10];
        base.read_at(&mut across, (1 << 20) - 5).unwrap();
        assert_eq!(across, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]);
    }

    #[test]
    fn an_empty_image_is_all_hole() {
        let base = Base::new(tempfile::tempfile().unwrap()).unwrap();
        let mut read = [9; 10];
        base.read_at(&mut read, 1 << 40).unwrap();
        assert_eq!(read, [0; 10]);
    }
}
